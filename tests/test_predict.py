"""Scoring images from the command line: what comes out, what is said about unreadable files, and what is refused."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from children import drawn_networks
from trained import model_folder, recipe

from faces import predict
from faces.children.networks import Faces
from faces.cli import InputError
from faces.files import file_sha256
from faces.images import decode
from faces.images.yunet import YUNET
from faces.source.sample import draw
from faces.training.inference import BATCH, load_run

REPOSITORY = Path(__file__).parents[1]
SMALL = recipe(freeze="layer3", transforms={"resize": 40, "crop": 48})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with drawn faces and an untrained model that calls about half of them Down syndrome."""
    root = tmp_path_factory.mktemp("folder with spaces")
    draw(root / "data", 8)
    model_folder(root / "model", SMALL)
    return root


@pytest.fixture
def project(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built)
    return built


def run(*paths: str, **options: Any) -> int:
    """Run the command and return its exit status."""
    try:
        predict.main([Path(path) for path in paths], **{"model": Path("model"), **options})
    except typer.Exit as end:
        return end.exit_code
    return 0


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "faces.predict", *words]


def environment(**more: str) -> dict[str, str]:
    """Return what a command needs that is run outside the repository."""
    return {"PYTHONPATH": str(REPOSITORY), "LC_ALL": "C", "PATH": "", **more}


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_folder_and_files_as_csv(project: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (project / "data/down_syndrome/._down_1.jpg").write_bytes(b"macOS leaves these")
    status = run("data/down_syndrome", "data/healthy/healty_1.jpg", "data/down_syndrome/down_1.jpg")
    out, err = capsysbinary.readouterr()
    rows = table(out.decode())
    assert status == 0
    assert [row["path"] for row in rows][-1] == "data/healthy/healty_1.jpg"
    assert len(rows) == 9  # eight of the folder, in order, and the healthy one; down_1.jpg once
    assert [row["path"] for row in rows[:-1]] == sorted(row["path"] for row in rows[:-1])
    for row in rows:
        assert 0 <= float(row["probability"]) <= 1
        assert row["decision"] == ("down_syndrome" if float(row["probability"]) >= 0.5 else "healthy")
        assert row["error"] == ""
        assert row["threshold"] == "0.5"
        assert row["model_sha256"] == file_sha256(project / "model/model.pt")
    assert b"not a diagnostic" in err


def test_the_models_own_threshold_decides(project: Path, tmp_path: Path, capsysbinary: Any) -> None:
    run("data/down_syndrome")
    before = [float(row["probability"]) for row in table(capsysbinary.readouterr().out.decode())]
    own = shutil.copytree(project / "model", tmp_path / "model")
    threshold = json.loads((own / "threshold.json").read_text()) | {"value": sorted(before)[-2]}
    (own / "threshold.json").write_text(json.dumps(threshold))
    run("data/down_syndrome", model=own)
    rows = table(capsysbinary.readouterr().out.decode())
    assert [float(row["probability"]) for row in rows] == before
    assert [row["decision"] for row in rows].count("down_syndrome") == 2  # from the threshold on


def test_scores_are_evaluations_own(project: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """To the last digit, though evaluation gives the network other batches."""
    run("data/down_syndrome", "data/healthy/healty_1.jpg")
    rows = table(capsysbinary.readouterr().out.decode())
    pixels = decode.load(Path(), [row["path"] for row in rows][::-1], 40)
    classifier = load_run(project / "model").classifier(torch.device("cpu"))
    y_score = classifier.predict_proba(torch.from_numpy(pixels))[::-1]
    assert [float(row["probability"]) for row in rows] == pytest.approx(y_score.tolist(), abs=1e-9)
    assert y_score.max() - y_score.min() > 0.01


def test_faces_are_aligned_as_evaluation_aligns_them(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    aligning = recipe(freeze="layer3", transforms={"resize": 40, "crop": 48, "align": 0.8})
    model = model_folder(tmp_path / "model", aligning)
    drawn_networks.write(tmp_path / "networks")
    shutil.copyfile(tmp_path / "networks" / YUNET.name, model / "detector.onnx")
    drawn_networks.picture((2, 1, 0)).save(tmp_path / "face.png")
    drawn_networks.picture().save(tmp_path / "none.png")
    status = run(str(tmp_path / "face.png"), str(tmp_path / "none.png"), model=model)
    out, err = capsysbinary.readouterr()
    face, none = table(out.decode())
    assert status == 0
    assert (face["aligned"], none["aligned"]) == ("True", "False")
    assert b"1 of 2 were scored whole: no face was found" in err

    found, _ = Faces(tmp_path / "networks", score=0.6, longest_side=640).largest(drawn_networks.picture((2, 1, 0)))
    assert found is not None  # what the stage embed writes for the other stages
    landmarks = {"face.png": np.array(found.landmarks).reshape(5, 2)}
    pixels = decode.load(tmp_path, ["face.png", "none.png"], 40, landmarks=landmarks, share=0.8)
    y_score = load_run(model).classifier(torch.device("cpu")).predict_proba(torch.from_numpy(pixels))
    assert [float(face["probability"]), float(none["probability"])] == pytest.approx(y_score.tolist(), abs=1e-9)
    whole = decode.load(tmp_path, ["face.png"], 40)
    assert not np.array_equal(pixels[0], whole[0])


def test_quiet_says_less_and_verbose_names_each_image(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model = model_folder(tmp_path / "model", recipe(transforms={"resize": 40, "crop": 48, "align": 0.8}))
    shutil.copyfile("data/healthy/healty_1.jpg", tmp_path / "whole.jpg")
    (tmp_path / "bad\nname.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").touch()
    notes = []
    for options in ({}, {"quiet": True}, {"verbose": True}, {"quiet": True, "verbose": True}):
        assert run(str(tmp_path), model=model, **options) == 1
        notes.append(capsysbinary.readouterr().err.decode())
    plain, quiet, verbose, both = notes
    for told in ("left out", "1 of 2 were scored whole", "1 of 2 could not be read"):
        assert (told in plain, told in quiet, told in verbose, told in both) == (True, False, True, False), plain
    for named in ("bad?name.jpg: not an image", "whole.jpg: no face was found"):
        assert (named in plain, named in quiet, named in verbose, named in both) == (False, False, True, True)
    assert all("not a diagnostic" in note for note in notes)


def test_a_model_that_was_trained_where_no_face_was_looked_for_sees_whole_images(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    model = model_folder(tmp_path / "model", recipe(transforms={"resize": 40, "crop": 48, "align": 0.8}))
    assert run("data/healthy/healty_1.jpg", model=model) == 0
    out, err = capsysbinary.readouterr()
    assert [row["aligned"] for row in table(out.decode())] == ["False"]
    assert b"1 of 1 were scored whole" in err


def test_unreadable_files_are_reported_and_the_others_done(
    project: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    status = run("data/healthy", "data/down_syndrome/Thumbs.db", "nowhere.jpg", format="jsonl")
    out, err = capsysbinary.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    errors = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    assert status == 1
    assert errors == {
        "healty_9.jpg": "truncated",
        "Thumbs.db": "not an image",
        "nowhere.jpg": "no such file or directory",
    }
    for row in rows:
        assert (row["probability"] is None) == (row["decision"] is None) == (row["error"] is not None)
        assert row["threshold"] == 0.5
    assert sum(row["error"] is None for row in rows) == 8
    assert b"3 of 11 could not be read" in err


def test_an_image_larger_than_the_models_limit_is_an_unreadable_one(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    own = shutil.copytree(project / "model", tmp_path / "model")
    threshold = json.loads((own / "threshold.json").read_text()) | {"max_pixels": 100}
    (own / "threshold.json").write_text(json.dumps(threshold))
    assert run("data/healthy/healty_1.jpg", model=own) == 1
    (row,) = table(capsysbinary.readouterr().out.decode())
    assert "more than 100 pixels" in row["error"]


def test_what_a_folder_holds_beside_images_is_counted(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy("data/healthy/healty_1.jpg", folder / "a.jpg")
    shutil.copy("data/healthy/healty_2.jpg", folder / "b.JFIF")
    for name in ("IMG_1.CR2", "IMG_2.CR2", "README"):
        (folder / name).write_bytes(b"x")
    (folder / "album").symlink_to(project / "data/healthy")
    assert run(str(folder)) == 0
    out, err = capsysbinary.readouterr()
    assert [Path(row["path"]).name for row in table(out.decode())] == ["a.jpg", "b.JFIF"]
    assert (
        f"{folder}: left out 4: 2 .cr2 at the top, 1 file without suffix at the top, 1 link to a folder in album\n"
    ) in err.decode()


def test_output_file(project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    target = tmp_path / "new folder" / "scores.csv"
    assert run("data/down_syndrome/down_3.png", output=target) == 0
    assert capsysbinary.readouterr().out == b""
    assert [row["path"] for row in table(target.read_text())] == ["data/down_syndrome/down_3.png"]
    assert run("data/healthy/healty_2.jpg", output=target) == 0  # its own output may be replaced
    assert [row["path"] for row in table(target.read_text())] == ["data/healthy/healty_2.jpg"]
    assert run("data/healthy/healty_2.jpg", output=target, format="jsonl") == 0
    assert run("data/healthy/healty_3.jpg", output=target) == 0
    assert [row["path"] for row in table(target.read_text())] == ["data/healthy/healty_3.jpg"]


def test_a_link_and_a_device_are_written_through(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "there" / "scores.csv")
    assert run("data/healthy/healty_1.jpg", output=tmp_path / "link.csv") == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len(table((tmp_path / "there/scores.csv").read_text())) == 1
    assert run("data/healthy/healty_1.jpg", output=Path("/dev/null")) == 0
    assert Path("/dev/null").is_char_device()


def test_an_output_that_cannot_be_written_is_told_before_any_work(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "photo.jpg").write_bytes(Path("data/healthy/healty_1.jpg").read_bytes())
    for output, says in {
        tmp_path: "is a folder; name a file in it",
        tmp_path / "file/scores.csv": "file is not a folder",
        tmp_path / ("x" * 300): "File name too long",
        tmp_path / "photo.jpg": "not an earlier output of this command; name another file",
    }.items():
        with pytest.raises(InputError, match=says) as error:
            run("data", model=Path("nowhere"), output=output)  # the model would be told later
        assert "\n" not in str(error.value)
    assert (tmp_path / "photo.jpg").read_bytes() == Path("data/healthy/healty_1.jpg").read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission(project: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied"):
        run("data", output=tmp_path / "scores.csv")


def test_odd_file_names(project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / 'é, "quoted"'
    folder.mkdir()
    names = ['comma, quote".jpg', "line\nbreak.jpg", b"\xff.jpg".decode("utf-8", "surrogateescape")]
    for name in names:
        (folder / name).write_bytes(Path("data/healthy/healty_1.jpg").read_bytes())
    assert run(str(folder)) == 0
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode(), newline="")))
    assert {Path(row["path"]).name for row in rows} == {*names[:2], "\\udcff.jpg"}
    assert len({row["probability"] for row in rows}) == 1
    assert run(str(folder), format="jsonl") == 0
    out = capsysbinary.readouterr().out
    assert {Path(json.loads(line)["path"]).name for line in out.splitlines()} == set(names)


def test_sample_model_says_that_it_means_nothing(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    run("data/healthy/healty_1.jpg", model=model_folder(tmp_path / "model", SMALL, source="sample"))
    assert b"trained on drawn faces" in capsysbinary.readouterr().err


def test_the_improved_run_is_the_default() -> None:
    assert REPOSITORY / "models/runs/improved" == predict.MODEL


def test_refusals(project: Path, tmp_path: Path) -> None:
    image = "data/healthy/healty_1.jpg"
    with pytest.raises(InputError, match="holds no images"):
        run("model")
    with pytest.raises(InputError, match=r"data holds no trained model: run\.json is missing"):
        run(image, model=Path("data"))
    with pytest.raises(InputError, match=r"nowhere holds no trained model"):
        run(image, model=Path("nowhere"))
    with pytest.raises(InputError, match=r"model\.pt is a file; the folder that holds model\.pt and run\.json"):
        run(image, model=Path("model/model.pt"))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run.json", "[]", "run.json is not a run's record"),
        ("run.json", "{}", "run.json is not a run's record"),
        ("run.json", "not JSON", "run.json is not a run's record"),
        ("run.json", {"recipe": {"batch_size": 8}}, "run.json is not a run's record"),
        ("run.json", {"model_sha256": "0" * 64}, "run.json is about another model than"),
        ("threshold.json", None, "threshold.json is missing: the model has not been evaluated"),
        ("threshold.json", "[]", "threshold.json is not what the evaluation writes"),
        ("threshold.json", {"value": 2}, "threshold.json is not what the evaluation writes"),
        ("threshold.json", {"model_sha256": "0" * 64}, "threshold.json is about another model than"),
    ],
)
def test_a_model_folder_that_does_not_fit_together(
    project: Path, tmp_path: Path, file: str, content: str | dict[str, Any] | None, says: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (project / "model").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / file).unlink()
    if isinstance(content, dict):
        content = json.dumps(json.loads((project / "model" / file).read_text()) | content)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(InputError, match=says) as error:
        run("data/healthy/healty_1.jpg", model=folder)
    assert "\n" not in str(error.value)


def test_the_command_line_in_any_folder(project: Path, tmp_path: Path) -> None:
    """Nothing of the repository is needed but the code: no params.yaml, no metrics, no PATH."""
    words = (str(project / "data/healthy"), "--format", "csv", "--model", str(project / "model"))
    done = subprocess.run(command(*words), env=environment(), cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert len(table(done.stdout.decode())) == 9
    assert b"not a diagnostic" in done.stderr
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_come_while_others_are_scored_and_an_interruption_says_how_many(project: Path, tmp_path: Path) -> None:
    n = 5000
    folder, output = tmp_path / "pictures", tmp_path / "scores.csv"
    folder.mkdir()
    for i in range(n):
        (folder / f"{i:04}.jpg").hardlink_to(project / "data/healthy/healty_1.jpg")
    words = (str(folder), "--output", str(output), "--model", str(project / "model"))
    with subprocess.Popen(command(*words), env=environment(), cwd=tmp_path, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 120
        while not (output.exists() and output.read_text().count("\n") > BATCH["cpu"]):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    rows = table(output.read_text())
    assert BATCH["cpu"] <= len(rows) < n
    assert f"interrupted: {len(rows)} of {n} images are scored, their rows are in {output}" in err.decode()
    assert b"Traceback" not in err
    assert all(row["model_sha256"] for row in rows)  # the last one is complete, too


def test_a_pipe_is_no_image_and_nothing_waits_for_it(
    project: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert run(str(tmp_path / "pipe.jpg"), "/dev/null", "data/healthy/healty_1.jpg") == 1
    pipe, null, image = table(capsysbinary.readouterr().out.decode())
    assert pipe["error"] == null["error"] == "not a regular file"
    assert image["error"] == ""
