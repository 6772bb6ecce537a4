"""Does the committed dvc.lock match the committed code, parameters and dvc.yaml?

    python -m ci.freshness [REVISION]

`dvc status` is asked in a fresh clone that has neither data nor cache, so it takes no GPU and no download. A file that
only the cache holds is absent there, which says nothing; what is recorded of it must agree from stage to stage.
Images of one's own (data.source) are looked at where they are.
Exit status: 0 it does, 1 something is behind (each stage is named, with a reason), 2 DVC or Git could not say.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from faces.cli import InputError, execute, run

DVC = (sys.executable, "-m", "dvc")
OWN = Path("downloads/source")  # the link to one's own images, which the stage source makes in each copy
MADE_IN_EACH_COPY = (str(OWN), f"{OWN}.txt")

Hashes = dict[str, str | None]  # path -> recorded hash


def behind(revision: str) -> dict[str, list[str]]:
    """Return the stages and .dvc files that are behind at a revision of this repository, and why each is."""
    with tempfile.TemporaryDirectory(prefix="freshness-") as clone:
        commit = execute("git", "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()
        execute("git", "clone", "--quiet", "--no-checkout", os.curdir, clone)
        execute("git", "-C", clone, "checkout", "--quiet", "--detach", commit)
        if OWN.is_symlink():
            Path(clone, OWN).parent.mkdir()
            Path(clone, OWN).symlink_to(OWN.readlink())
        names = execute(*DVC, "stage", "list", "--all", "--name-only", cwd=Path(clone)).split()
        status = json.loads(execute(*DVC, "status", "--json", cwd=Path(clone)))
        lock = _yaml(Path(clone, "dvc.lock")).get("stages", {})
        recorded = lock | {name: _yaml(Path(clone, name)) for name in names if name.endswith(".dvc")}
        reasons = _reasons(names, status, recorded)
        for name in lock.keys() - set(names):
            left = [f"{path} is left over" for path in _hashes(lock[name], "outs") if Path(clone, path).exists()]
            reasons[f"{name} (no longer a stage)"] = left
    return {name: found for name, found in reasons.items() if found}


def _reasons(names: list[str], status: dict[str, Any], recorded: dict[str, Any]) -> dict[str, list[str]]:
    written = {path: (name, hash_) for name in names for path, hash_ in _hashes(recorded.get(name), "outs").items()}
    reasons: dict[str, list[str]] = {}
    for name in names:
        reasons[name] = [reason for change in status.get(name, []) for reason in _of_change(change, set(written))]
        if name not in recorded:
            reasons[name] = ["has never been run"]
        for path, hash_ in _hashes(recorded.get(name), "deps").items():
            writer, latest = written.get(path, (None, hash_))
            if hash_ != latest:
                reasons[name].append(f"{path} is not the one that {writer} has written since")
    return reasons


def _of_change(change: str | dict[str, Any], written: set[str]) -> list[str]:
    """Return what one entry of `dvc status` says that does not come from the absence of the cache."""
    if isinstance(change, str):
        return [] if change == "always changed" else [change]  # the former is so in every clone
    found = []
    for path, what in ((path, what) for entries in change.values() for path, what in entries.items()):
        if isinstance(what, dict):
            found += [f"{path}: {key} is {state}" for key, state in what.items()]
        elif what == "deleted" and (path in MADE_IN_EACH_COPY or ("changed deps" in change and _among(path, written))):
            pass
        elif what != "not in cache":
            found.append(f"{path} is {what}")
    return found


def _among(path: str, written: set[str]) -> bool:
    """Say whether a path is an output, lies in one, or holds one; the output's own state is told beside it."""
    return any(out == path or path.startswith(f"{out}/") or out.startswith(f"{path}/") for out in written)


def _hashes(stage: dict[str, Any] | None, kind: str) -> Hashes:
    return {entry["path"]: entry.get("md5") for entry in (stage or {}).get(kind, [])}


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.exists() else {}


def report(revision: str) -> int:
    """Print what is behind at a revision and return the exit status."""
    try:
        stale = behind(revision)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not stale:
        print(f"dvc.lock matches code and parameters at {revision}")
        return 0
    print(f"dvc.lock is behind at {revision}:")
    for name, reasons in stale.items():
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        print(f"  {name}: {reasons[0]}{more}")
    print("run `dvc repro`, which also runs what follows; delete what is left over; commit")
    return 1


def main(revision: Annotated[str, typer.Argument(help="whose dvc.lock and code")] = "HEAD") -> None:
    """Say what is behind at a Git revision."""
    sys.exit(report(revision))


if __name__ == "__main__":
    run(main)
