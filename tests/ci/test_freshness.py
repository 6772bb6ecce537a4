"""Freshness on a small project of this one's shape: a download, its import, a stage for each of several runs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import freshness

DVC_YAML = """
stages:
  download:
    cmd: python download.py
    deps: [download.py]
    params: [images]
    outs: [raw]
  train:
    foreach: ${runs}
    do:
      cmd: python train.py ${key}
      deps: [train.py, data]
      params: ["runs.${key}"]
      outs:
      - models/${key}.pt
      - scores/${key}.csv: {cache: false}
  judge:
    cmd: python judge.py
    deps: [judge.py, scores]
    params: [runs]
    metrics:
    - judged.json: {cache: false}
"""
FILES = {
    "params.yaml": "images: 1\nruns:\n  a: 1\n  b: 2\n",
    "dvc.yaml": DVC_YAML,
    "data.dvc": "deps:\n- path: raw\nouts:\n- path: data\n",
    "download.py": """
from pathlib import Path
import yaml
Path("raw").mkdir()
for number in range(yaml.safe_load(open("params.yaml"))["images"]):
    Path("raw", str(number)).write_text("x")
""",
    "train.py": """
import sys
from pathlib import Path
for folder, suffix in (("models", "pt"), ("scores", "csv")):
    Path(folder).mkdir(exist_ok=True)
    Path(folder, f"{sys.argv[1]}.{suffix}").write_text(sys.argv[1])
""",
    "judge.py": "open('judged.json', 'w').write('{}')\n",
    ".gitignore": "/raw\n/data\n/models\n",
}


def run(root: Path, *command: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # the stages' python
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commit(root: Path) -> None:
    run(root, "git", "add", "--all")
    run(
        root,
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "commit",
        "--allow-empty",
        "--quiet",
        "-m",
        "state",
    )


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("a project")
    run(root, "git", "init", "--quiet")
    run(root, sys.executable, "-m", "dvc", "init", "--quiet")
    for name, text in FILES.items():
        (root / name).write_text(text)
    run(root, sys.executable, "-m", "dvc", "repro", "--quiet")
    commit(root)
    return root


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


def more_images_downloaded(root: Path) -> None:
    edit("params.yaml", "images: 1", "images: 2")(root)
    run(root, sys.executable, "-m", "dvc", "repro", "--quiet", "download")


def run_removed(root: Path) -> None:
    edit("params.yaml", "  b: 2\n", "")(root)


def run_removed_with_its_file(root: Path) -> None:
    run_removed(root)
    (root / "scores/b.csv").unlink()


NEVER = "has never been run"
OTHER_DATA = {
    "data.dvc": "changed checksum",
    **dict.fromkeys(("train@a", "train@b"), "data is not the one that data.dvc has written since"),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: None, {}),
        (edit("judge.py", "{}", "{ }"), {"judge": "judge.py is modified"}),
        (edit("dvc.yaml", "python judge.py", "python judge.py --all"), {"judge": "changed command"}),
        (
            edit("params.yaml", "b: 2", "b: 3"),
            {"train@b": "params.yaml: runs.b is modified", "judge": "params.yaml: runs"},
        ),
        (edit("download.py", '"x"', '"y"'), {"download": "download.py is modified"}),
        (lambda root: (root / "train.py").unlink(), dict.fromkeys(("train@a", "train@b"), "train.py is deleted")),
        (lambda root: (root / "judged.json").unlink(), {"judge": "judged.json is deleted"}),
        (
            lambda root: (root / "scores/b.csv").write_text("!"),
            {"train@b": "scores/b.csv is modified", "judge": "scores"},
        ),
        (
            lambda root: (root / "dvc.lock").unlink(),
            {"data.dvc": "raw is deleted", **dict.fromkeys(("download", "train@a", "train@b", "judge"), NEVER)},
        ),
        (edit("params.yaml", "b: 2", "b: 2\n  c: 3"), {"train@c": NEVER, "judge": "params.yaml: runs is modified"}),
        (more_images_downloaded, {"data.dvc": "raw is not the one that download has written since"}),
        (edit("data.dvc", "md5: 0", "md5: 1"), OTHER_DATA),
        (
            run_removed,
            {"judge": "params.yaml: runs is modified", "train@b (no longer a stage)": "scores/b.csv is left"},
        ),
        (run_removed_with_its_file, {"judge": "scores is modified"}),
    ],
)
def test_what_is_behind_is_named(
    reproduced: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    expected: dict[str, str],
) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(reproduced), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    change(Path())
    commit(Path())
    assert freshness.report("HEAD") == bool(expected)
    said = dict(line.strip().split(": ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert said.keys() == expected.keys()
    for name, reason in expected.items():
        assert said[name].startswith(reason)


def test_a_stage_that_always_runs_is_not_behind(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(reproduced), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    edit("dvc.yaml", "    cmd: python download.py\n", "    cmd: python download.py\n    always_changed: true\n")(Path())
    commit(Path())
    assert freshness.behind("HEAD") == {}


def test_what_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit) as end:
        freshness.main()
    assert end.value.code == 2
    assert "error: git" in capsys.readouterr().err
