"""An output that is a whole folder: what the pipeline made is replaced, what is the user's stays."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pipeline
import pytest

from faces.cli import InputError
from faces.files import LIST, replaced

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  draw:
    cmd: python draw.py
    deps: [draw.py]
    outs: [{figures: {cache: false, persist: true}}]
"""
DRAW = """
from pathlib import Path
from faces.cli import run
from faces.files import replaced
def main() -> None:
    with replaced(Path("figures")) as new:
        for name in "NAMES":
            (new / name).write_text(name)
run(main)
"""


def fill(folder: Path, **content: str) -> None:
    with replaced(folder) as new:
        for name, text in content.items():
            path = new / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def held(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.name != LIST
    }


def test_what_was_made_before_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "plots/figures"
    fill(folder, a="1", b="1", trial4__c="1")
    fill(folder, a="2", d__e="2")
    assert held(folder) == {"a": "2", "d/e": "2"}
    assert sorted(path.name for path in folder.iterdir()) == [LIST, "a", "d"]
    assert [path.name for path in folder.parent.iterdir()] == ["figures"]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", LIST], cwd=folder, check=True)


@pytest.mark.parametrize("mine", ["mine.png", "sub/mine.png", "a"])
def test_what_is_the_users_is_not(tmp_path: Path, mine: str) -> None:
    """A file more, or a made one that was edited."""
    folder = tmp_path / "figures"
    fill(folder, a="1", b="1")
    (folder / mine).parent.mkdir(exist_ok=True)
    (folder / mine).write_text("mine", encoding="utf-8")
    before = held(folder)
    with pytest.raises(InputError, match=rf"{mine} was not made by the pipeline, .*; move it out, or delete it"):
        fill(folder, a="2")
    assert held(folder) == before
    (folder / mine).unlink()
    fill(folder, a="2")
    assert held(folder) == {"a": "2"}


def test_links_and_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    fill(folder, a="1")
    (tmp_path / "far").write_text("far", encoding="utf-8")
    (folder / ".DS_Store").write_text("hidden", encoding="utf-8")
    fill(folder, a="2")
    assert held(folder) == {"a": "2", ".DS_Store": "hidden"}
    (folder / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="link was not made by the pipeline"):
        fill(folder, a="3")
    assert (folder / "link").is_symlink()


def test_a_folder_that_an_earlier_version_filled(tmp_path: Path) -> None:
    """Without a list: files of the names that are made now may be replaced, others may not."""
    (tmp_path / "a").write_text("1", encoding="utf-8")
    fill(tmp_path, a="2")
    assert held(tmp_path) == {"a": "2"}
    (tmp_path / LIST).unlink()
    with pytest.raises(InputError, match="a was not made"):
        fill(tmp_path, b="2")


@pytest.mark.parametrize("call", ["unlink", "replace"])
def test_ended_at_any_moment_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    folder = tmp_path / "figures"
    fill(folder, a="1", b="1", c="1")
    for after in range(8):
        left = [after]
        real = getattr(Path, call)

        def dies(path: Path, *arguments: object, left: list[int] = left, real: object = real) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(path, *arguments)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            patch.setattr(Path, call, dies)
            try:
                fill(folder, a=str(after), d="2")
            except KeyboardInterrupt:
                assert set(held(folder)) & {"a", "d"}
        fill(folder, a="1", b="1", c="1")  # nothing that was left is taken for the user's
        assert held(folder) == {"a": "1", "b": "1", "c": "1"}


def test_every_folder_in_dvc_yaml_is_one_of_these() -> None:
    """DVC deletes any other folder, with all that is in it, before its stage runs."""
    import yaml

    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        body = stage.get("do", stage)
        for out in body["outs"]:
            path, settings = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            if Path(path).suffix:
                continue
            assert settings.get("persist"), f"{name}: {path}"
            text = (ROOT / body["cmd"].split(" -m ")[1].split()[0].replace(".", "/")).with_suffix(".py").read_text()
            assert "with replaced(" in text or name == "download", name  # which compares with its own record
    files = [out for stage in pipeline.stages() for out in stage.outs]
    assert len(files) == len(set(files)) > 50


def test_with_dvc(tmp_path: Path) -> None:
    """DVC does not delete such a folder, and the stage refuses."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def dvc(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert dvc("init", "--no-scm").returncode == 0
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    for names, mine, status in (("ab", None, 0), ("bc", "mine", 255), ("bc", None, 0)):
        (tmp_path / "draw.py").write_text(DRAW.replace("NAMES", names), encoding="utf-8")
        if mine:
            (tmp_path / "figures" / mine).write_text("mine", encoding="utf-8")
        done = dvc("repro")
        assert done.returncode == status, done.stderr
        if mine:
            assert "error: figures/mine was not made by the pipeline" in done.stderr
            assert held(tmp_path / "figures") == {"a": "a", "b": "b", "mine": "mine"}
            (tmp_path / "figures" / mine).unlink()
        else:
            assert sorted(held(tmp_path / "figures")) == sorted(names)
