"""What the working tree, a Git revision or a DVC experiment holds below metrics/ and predictions/."""

import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from faces.cli import InputError
from faces.evidence import metrics

RUNS = PurePosixPath("metrics/runs")
ACTIVE = PurePosixPath("metrics/active.json")
SEEDS = "metrics/seeds.json"  # the spread between runs of one recipe


class RevisionError(InputError):
    """A revision that this clone cannot see, or that holds no results; the message says why and what to do."""


@dataclass(frozen=True)
class Revision:
    """One revision's files below metrics/, and a function that reads any file (None if there is none)."""

    name: str
    read: Callable[[str], bytes | None]
    files: list[str]

    def runs(self) -> dict[str, str]:
        """Return the path of each run's metrics, by the run's name."""
        paths = map(PurePosixPath, self.files)
        found = [path for path in paths if path == ACTIVE or (path.parent == RUNS and path.suffix == ".json")]
        return {path.stem: str(path) for path in sorted(found)}

    def document(self, path: str) -> Any:
        """Return a JSON file's content; `InputError` if it is absent, corrupt or holds what is not finite."""
        content = self.read(path)
        if content is None:
            raise InputError(f"{path} is missing in {self.name}")
        try:
            return json.loads(content, parse_float=_finite, parse_constant=_finite)
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError too
            raise InputError(f"{path} in {self.name}: {error}") from None

    def predictions(self, run: str) -> pd.DataFrame | None:
        """Return a run's predictions sorted by path, or None if the revision has none."""
        path = f"predictions/{'' if run == ACTIVE.stem else 'runs/'}{run}.csv"
        content = self.read(path)
        if content is None:
            return None
        where = f"{path} in {self.name}"
        try:
            table = pd.read_csv(io.BytesIO(content))
        except ValueError as error:  # ParserError, EmptyDataError, UnicodeDecodeError too
            raise InputError(f"{where} is not a CSV file: {' '.join(str(error).split())}") from None
        metrics.check_predictions(table, where)
        return table.sort_values("path", ignore_index=True)


def _finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def working_tree(root: Path) -> Revision:
    """Return what lies in a folder."""
    files = [path.relative_to(root).as_posix() for path in sorted((root / "metrics").rglob("*")) if path.is_file()]
    return Revision("the working tree", lambda p: (root / p).read_bytes() if (root / p).is_file() else None, files)


def git_revision(name: str) -> Revision:
    """Return a revision of the repository around the current folder, by any of Git's names or an experiment's.

    Errors: RevisionError outside a repository, and where this clone cannot see the revision.
    """
    shallow = _git("rev-parse", "--is-shallow-repository")
    if shallow is None:
        raise RevisionError("not a Git repository; run this inside a clone")
    commit = _commit(name) or _experiment(name)
    if commit is None:
        full = "this clone is shallow; run `git fetch --unshallow`" if shallow == "true" else "run `git fetch`"
        raise RevisionError(
            f"cannot see the revision {name!r}: {full} (`dvc exp pull` for an experiment), or name another"
        )
    if shallow == "true" and commit == _commit("HEAD"):
        raise RevisionError(f"this clone is shallow and {name!r} is its only commit; run `git fetch --unshallow`")
    listed = _git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, "metrics/") or ""
    return Revision(name, lambda path: _git_bytes("show", f"{commit}:{path}"), listed.split("\0")[:-1])


def _commit(name: str) -> str | None:
    return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")


def _experiment(name: str) -> str | None:
    """Return a DVC experiment's commit, of several of the same name the one that started from HEAD."""
    listed = (_git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or "").splitlines()
    found = [line.split(" ", 1) for line in listed if line.split("/")[-1] == name and line.count("/") == 4]
    head = _commit("HEAD") or ""
    here = [commit for commit, ref in found if ref == f"refs/exps/{head[:2]}/{head[2:]}/{name}"]
    if not here and len(found) > 1:
        raise RevisionError(f"{len(found)} experiments are named {name!r}; give the commit of the one that is meant")
    return next(iter([*here, *(commit for commit, _ in found)]), None)


def _git(*arguments: str) -> str | None:
    output = _git_bytes(*arguments)
    return None if output is None else output.decode().strip()


def _git_bytes(*arguments: str) -> bytes | None:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None
