"""The files in metrics/: what is written is what is read, to the byte, and what is wrong in one is one clear line."""

import json
from pathlib import Path
from typing import Any

import drawn_runs
import pytest
from pydantic import ValidationError

from faces.cli import InputError
from faces.evidence.comparison import Comparison
from faces.evidence.consistency import Consistency
from faces.evidence.documents import Explained, Probes, RunMetrics, read_document
from faces.evidence.repeats import Repeats
from faces.files import write_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    drawn_runs.make(root)
    return root / "metrics"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (RunMetrics, "active"),
        (RunMetrics, "runs/improved"),
        (Comparison, "comparison"),
        (Consistency, "consistency"),
        (Probes, "probes"),
        (Explained, "explain"),
    ],
)
def test_a_document_is_read_as_it_was_written(folder: Path, tmp_path: Path, kind: type, name: str) -> None:
    path = folder / f"{name}.json"
    document = read_document(kind, path)
    write_json(tmp_path / "again.json", document.model_dump())
    again = json.loads((tmp_path / "again.json").read_text())
    assert again == json.loads(path.read_text())
    if kind is not Explained:  # whose fields are written in another order
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_documents_by_name_are_read_too(folder: Path) -> None:
    found = read_document(dict[str, Repeats], folder / "repeats.json")
    assert found["improved"].splits["seed2"].run == "improved-split2"
    assert read_document(dict[str, Any], folder / "data.json")["n"] == 3001


def test_a_document_cannot_be_changed(folder: Path) -> None:
    document = read_document(RunMetrics, folder / "active.json")
    with pytest.raises(ValidationError, match="frozen"):
        document.run = "other"  # type: ignore[misc]


def test_bad_files_are_named_with_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "active.json").read_text())
    path = tmp_path / "bad.json"
    for text, message in (
        (None, r"bad\.json not found; run `dvc repro` first"),
        ("{", r"bad\.json is not valid JSON \(.*\); run `dvc repro` to write it again"),
        ("\xff\xfe", r"bad\.json is not valid JSON"),
        ("[]", r"bad\.json does not hold what it should"),
        (
            json.dumps(values | {"n": {**values["n"], "test": "many"}}),
            r"does not hold what it should \(n\.test: .*integer",
        ),
        (json.dumps({key: value for key, value in values.items() if key != "source"}), r"\(source: Field required\)"),
        (json.dumps(values | {"extra": 1}), r"\(extra: Extra inputs are not permitted\)"),
    ):
        if text is not None:
            path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=message) as error:
            read_document(RunMetrics, path)
        assert "\n" not in str(error.value)
