"""Freshness on a small project of this one's shape: a download, its import, a stage for each of several runs."""

import os
import re
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
    outs: [raw]
  train:
    foreach: ${runs}
    do:
      cmd: python train.py ${key}
      deps: [train.py, data]
      params: ["runs.${key}"]
      outs: ["${key}.pt"]
  judge:
    cmd: python judge.py
    deps: [judge.py, a.pt, b.pt]
    metrics:
    - judged.json: {cache: false}
"""
FILES = {
    "params.yaml": "runs:\n  a: 1\n  b: 2\n",
    "dvc.yaml": DVC_YAML,
    "data.dvc": "deps:\n- path: raw\nouts:\n- path: data\n",
    "download.py": "from pathlib import Path\nPath('raw').mkdir()\nPath('raw/1').write_text('x')\n",
    "train.py": "import sys\nopen(f'{sys.argv[1]}.pt', 'w').write(sys.argv[1])\n",
    "judge.py": "open('judged.json', 'w').write('{}')\n",
    ".gitignore": "raw\n/data\n*.pt\n",
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


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda root: None, []),
        (edit("judge.py", "{}", "{ }"), ["judge"]),
        (edit("params.yaml", "b: 2", "b: 3"), ["train@b"]),
        (edit("download.py", "'x'", "'y'"), ["download"]),
        (lambda root: (root / "dvc.lock").unlink(), ["download", "train@a"]),
    ],
)
def test_what_would_run_is_named(
    reproduced: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    stale: list[str],
) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(reproduced), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    change(Path())
    commit(Path())
    assert freshness.main() == bool(stale)
    said = capsys.readouterr().out
    assert re.findall(r"download|train@[ab]|judge", said) == stale


def test_what_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit) as end:
        freshness.main()
    assert end.value.code == 2
    assert "error: git" in capsys.readouterr().err
