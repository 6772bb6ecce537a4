"""Kill -9 `dvc repro` at random moments, over the whole pipeline, and see whether anything is lost or changed.

    python -m ci.soak FOLDER --kills 100

A run on the drawn sample is left alone. Then the same command is killed with everything it has started and given
again, until it finishes: every output must have the bytes of the run left alone. Then from nothing again, until the
kills are done. Exit status 1 if a byte differs, or if the command did not go on and no remedy of docs/faults.md helped.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from ci import demo
from faces.cli import InputError, run

SMALL: dict[str, Any] = demo.overlay(
    demo.SAMPLE,
    {
        "sample": {"images_per_class": 24},
        "transforms": {"resize": 32, "crop": 32},
        "fit": {"freeze": "layer4", "max_epochs": 6},
        "evaluate": {"resamples": 100},
    },
)
# times and what shows them, and what names the commit: the only outputs that differ from run to run
MEASURED = {"timing.json", "index.html", "tables.md", "MODEL_CARD.md"}
BETWEEN = "DVC, between two stages"
# DVC writes these in place, so that a kill can cut them short; the first also holds the number of the killed process,
# which another may have by now. DVC says so in these words, and the remedy is to delete the file.
DAMAGED = re.compile(
    r"'[^']*?(\.dvc/tmp/rwlock|dvc\.lock)'(?: validation failed|.{0,20} structure is corrupted| and try again)"
)


class Project:
    """A copy of the repository with the sample's parameters, in which `dvc repro` is given and killed."""

    def __init__(self, root: Path, original: Path) -> None:
        self.root = root
        self.original = original
        self.log = root.with_suffix(".log")
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(original, root)

    def repro(self, seconds: float | None = None) -> str | None:
        """Run `dvc repro`, for at most so many seconds; return the stage that a kill hit, or None if it finished.

        Errors: InputError if it ended by itself with another exit status than 0.
        """
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the stages' python
        environment = {
            **os.environ,
            "PATH": path,
            "FACES_CACHE": str(self.root / ".cache"),
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc/tmp/site"),
        }
        command = [sys.executable, "-m", "dvc", "repro"]
        with self.log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return _stage(process.pid)
            finally:  # also when the soak itself is interrupted
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if status:
            raise InputError(f"dvc repro ended with {status}; its last words: {self.words()[-300:]}")
        return None

    def words(self) -> str:
        """Return what the last `dvc repro` printed, on one line."""
        return " ".join(self.log.read_text(encoding="utf-8", errors="replace").split())

    def mend(self) -> str | None:
        """Delete the file of its own that DVC cannot read, as docs/faults.md says; return its name, or None."""
        complaint = DAMAGED.search(self.words())
        if complaint is None:
            return None
        (self.root / complaint[1]).unlink()
        return complaint[1]

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every file of every output that dvc.lock lists, those in MEASURED aside."""
        found = {}
        lock = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))
        for out in [out["path"] for stage in lock["stages"].values() for out in stage["outs"]]:
            path = self.root / out
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and file.name not in MEASURED:
                    found[file.relative_to(self.root).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        return found


def _stage(pid: int) -> str:
    for child in psutil.Process(pid).children(recursive=True):
        try:
            return child.environ()["DVC_STAGE"]
        except (psutil.Error, KeyError):  # it has just ended, or not begun
            continue
    return BETWEEN


@dataclass
class Tally:
    """What has happened so far."""

    hits: Counter[str] = field(default_factory=Counter)  # kills by stage
    mended: Counter[str] = field(default_factory=Counter)  # DVC's own files, by hand
    resumed: int = 0  # starts that found a checkpoint
    finished: int = 0  # runs with the right bytes


def survive(project: Project, rng: random.Random, tally: Tally, kills: int, seconds: float) -> None:
    """Kill `dvc repro`, each time within `seconds`, until it finishes or `kills` are done; then let it finish."""
    while True:
        tally.resumed += any((project.root / ".cache/checkpoints").glob("*.pt"))
        try:
            hit = project.repro(rng.uniform(0, seconds) if tally.hits.total() < kills else None)
        except InputError:
            name = project.mend()
            if name is None or tally.mended.total() > kills:
                raise
            tally.mended[name] += 1
            continue
        if hit is None:
            return
        tally.hits[hit] += 1


def main(folder: Path, kills: int = 100, seed: int = 1) -> None:
    """Print one line for each finished run, and at the end (Ctrl-C too) the kills of each stage."""
    folder = folder.resolve()
    original = folder / "original"
    shutil.rmtree(folder, ignore_errors=True)
    demo.prepare(original, SMALL)
    alone = Project(folder / "alone", original)
    started = time.monotonic()
    alone.repro()
    seconds = time.monotonic() - started
    expected = alone.digests()
    print(f"left alone: {seconds:.0f} s, {len(expected)} files to compare", flush=True)

    rng = random.Random(seed)
    tally = Tally()
    try:
        while tally.hits.total() < kills:
            project = Project(folder / "killed", original)
            survive(project, rng, tally, kills, seconds / 6)
            found = project.digests()
            differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            if differ:
                raise InputError(f"these files differ from those of the run left alone: {', '.join(differ)}")
            tally.finished += 1
            print(f"run {tally.finished}: the same bytes; {tally.hits.total()} kills so far", flush=True)
    finally:
        _print(tally, list(yaml.safe_load((alone.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]))


def _print(tally: Tally, stages: list[str]) -> None:
    print(
        f"\n{tally.hits.total()} kills, {tally.finished} finished runs with the same bytes; "
        f"{tally.resumed} starts from a checkpoint; deleted by hand: {dict(tally.mended) or 'nothing'}\n"
    )
    print("| killed in | kills |\n|---|---|")
    for stage in [*stages, *sorted(tally.hits.keys() - set(stages))]:
        print(f"| {stage} | {tally.hits[stage]} |")


if __name__ == "__main__":
    run(main)
