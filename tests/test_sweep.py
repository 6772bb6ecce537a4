"""The search for the improved recipe: what is queued, and the table made of what came back."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from faces import sweep
from faces.cli import InputError
from faces.params import Params, load_params
from faces.sweep import Sweep, load_sweep


@pytest.fixture
def params() -> Params:
    return load_params(Path(__file__).parents[1] / "params.yaml")


def of(**variants: dict[str, Any]) -> Sweep:
    return Sweep.model_validate({"base": {"max_epochs": 3}, "variants": variants})


def test_every_variant_is_a_valid_recipe(params: Params) -> None:
    found = load_sweep()
    assert len(found.variants) > 1
    for name in found.variants:
        sweep.check(params, found, name)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"base": {}, "variants": {"Two words": {}}}, r"sweep\.yaml: variants\.Two words"),
        ({"base": {}, "variants": {}}, r"sweep\.yaml: variants: "),
        ({"base": {"crop": 3}, "variants": {"a": {}}}, r"sweep\.yaml: base\.crop is not a known parameter"),
        ({"variants": {"a": {}}}, r"sweep\.yaml: base is missing"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], says: str
) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/sweep.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        load_sweep()


def test_variants_that_do_not_fit_are_named_before_anything_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = of(good={}, bad={"transforms": {"first_crop": 256}})
    monkeypatch.setattr(sweep, "load_sweep", lambda: wrong)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("queued"))
    with pytest.raises(InputError, match=r"sweep.variants.bad.transforms: .*first_crop must be at most crop"):
        sweep.main("queue")


def test_the_options_are_read_by_dvc_as_they_were_meant(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    changes: dict[str, Any] = {
        "freeze": "layer2",
        "ema_decay": 0.0,
        "transforms": {"first_crop": None, "scale": [0.08, 1.0], "evaluation_flip": False},
    }
    options = sweep.overrides(of(one=changes), "one")
    assert options[::2] == ["-S"] * (len(options) // 2)
    before = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(before), encoding="utf-8")
    apply_overrides(path, options[1::2])
    after = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected = json.loads(json.dumps(before))
    expected["recipes"]["improved"] |= {"max_epochs": 3, "freeze": "layer2", "ema_decay": 0.0}
    expected["recipes"]["improved"]["transforms"] |= changes["transforms"]
    assert after == expected


def test_the_table_has_every_variant_best_first(params: Params) -> None:
    def facts(right: int) -> dict[str, Any]:
        at_best = {"val_accuracy": right / 600, "val_loss": 0.2, "train_accuracy": 0.98}
        return {
            "source": "kaggle", "n_validation": 600, "best_epoch": 2, "stopped_epoch": 3,
            "at_best": at_best, "finished": at_best,
        }  # fmt: skip

    two = of(plain={}, slow={"learning_rate": 0.0001})
    page = sweep.markdown(params, two, {"plain": facts(570), "slow": facts(576)})
    rows = [line for line in page.splitlines() if line.startswith(("| plain", "| slow"))]
    assert [row.split("|")[1].strip() for row in rows] == ["slow", "plain"]
    assert "| learning_rate 0.0001 | 96.0% (94.1 to 97.3) | 600 |" in " ".join(rows[0].split())
    assert "| none | 95.0% (93.0 to 96.5) | 600 |" in " ".join(rows[1].split())
    assert "max_epochs 3" in page
    assert "No test image was scored" in " ".join(page.split())


def test_without_a_result_the_table_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for name in ("params.yaml", "faces/sweep.yaml"):
        shutil.copyfile(name, tmp_path / name)
    command = [sys.executable, "-m", "faces.sweep", "table"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: experiment sweep-\S+ has no result \(.*\); run: make sweep", done.stderr.strip())
