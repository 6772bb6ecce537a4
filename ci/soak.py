"""Kill -9 `dvc repro` at random moments of every stage, and see whether anything is lost or changed.

    python -m ci.soak FOLDER --kills 100

A run on the drawn sample is left alone, and timed stage by stage. Then the same command is killed with everything it
has started and given again, until it finishes: every output must have the bytes of the run left alone. Then from
nothing again, until the kills are done. Each time it is killed in the first stage that comes along of those killed
least so far, at a random moment within the time that this stage took in the run left alone, from DVC's line that it
begins to DVC's line that the next one does; what precedes the first stage counts as one, too. A kill counts where it
hits, which may be in DVC around the stage or, where the stage was faster this time, in the next one. Exit status 1 if a
byte differs, or if the command did not go on and no remedy of docs/faults.md helped.
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
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
import yaml

from ci import demo
from faces.cli import InputError, OutFolder, run

# small, but with epochs that take about half of a training's time, so that kills find checkpoints, too
SMALL: dict[str, Any] = demo.overlay(
    demo.SAMPLE,
    {
        "sample": {"images_per_class": 24},
        "evaluate": {"resamples": 100},
        **demo.every_run(freeze="layer3", max_epochs=10, patience=10, transforms={"resize": 32, "crop": 32}),
    },
)
# times and what shows them, and what names the commit: the only outputs that differ from run to run
MEASURED = {"timing.json", "index.html", "tables.md", "MODEL_CARD.md", "comparison.md"}
BETWEEN = "DVC, before, between or after stages"
BEGINS = re.compile(r"^Running stage '(.+)'", re.MULTILINE)
POLL = 0.02  # seconds
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
        self.seconds: defaultdict[str, float] = defaultdict(float)  # by stage, in all calls of `repro`
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(original, root)

    def repro(self, moments: Mapping[str, float] | None = None) -> str | None:
        """Run `dvc repro`; kill it so many seconds after the first stage in `moments` began; `seconds` is filled.

        Return the stage that the kill hit, or None if it finished. What precedes the first stage counts as BETWEEN.
        Errors: InputError if it ended by itself with another exit status than 0.
        """
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the stages' python
        environment = {
            **os.environ,
            "PATH": path,
            "FACES_CACHE": str(self.root / ".cache"),
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc/tmp/site"),
            "DVC_NO_ANALYTICS": "1",
        }
        command = [sys.executable, "-m", "dvc", "repro"]
        with self.log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        began = time.monotonic()
        end: float | None = None
        hit: str | None = None
        try:
            while hit is None and process.poll() is None:
                stage = [BETWEEN, *BEGINS.findall(self.log.read_text(encoding="utf-8", errors="replace"))][-1]
                now = time.monotonic()
                self.seconds[stage] += now - began
                began = now
                if end is None and moments and stage in moments:
                    end = now + moments[stage]
                if end is not None and now >= end:
                    hit = _stage(process.pid)
                else:
                    time.sleep(POLL)
        finally:  # also when the soak itself is interrupted
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if hit is not None and process.returncode == -signal.SIGKILL:  # else it ended just before
            return hit
        if process.returncode:
            raise InputError(f"dvc repro ended with {process.returncode}; its last words: {self.words()[-300:]}")
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
    checkpoints: int = 0  # kills that left a checkpoint to go on from
    finished: int = 0  # runs with the right bytes


def survive(project: Project, rng: random.Random, tally: Tally, kills: int, seconds: Mapping[str, float]) -> None:
    """Kill `dvc repro` until it finishes or `kills` are done; then let it finish. `seconds`: what each stage takes."""
    while True:
        least = min(tally.hits[stage] for stage in seconds)
        moments = {stage: rng.uniform(0, seconds[stage]) for stage in seconds if tally.hits[stage] == least}
        try:
            hit = project.repro(moments if tally.hits.total() < kills else None)
        except InputError as error:
            name = project.mend()
            if name is None or tally.mended.total() > kills:
                raise
            tally.mended[name] += 1
            print(f"deleted {name}: {error}", flush=True)
            continue
        if hit is None:
            return
        tally.hits[hit] += 1
        # one that a kill of DVC alone leaves is an earlier kill's
        tally.checkpoints += hit != BETWEEN and any((project.root / ".cache/checkpoints").glob("*.pt"))


def main(
    folder: Annotated[OutFolder, typer.Argument(help="to work in; what is in it is deleted")],
    kills: Annotated[int, typer.Option(help="how often to kill")] = 100,
    seed: Annotated[int, typer.Option(help="of the moments")] = 1,
) -> None:
    """Print one line for each finished run, and at the end (Ctrl-C too) the kills of each stage."""
    folder = folder.resolve()
    original = folder / "original"
    demo.remove_earlier(folder, original / demo.MARK)
    demo.prepare(original, SMALL)
    alone = Project(folder / "alone", original)
    alone.repro()
    expected = alone.digests()
    print(f"left alone: {sum(alone.seconds.values()):.0f} s, {len(expected)} files to compare", flush=True)

    rng = random.Random(seed)
    tally = Tally()
    try:
        while tally.hits.total() < kills:
            project = Project(folder / "killed", original)
            survive(project, rng, tally, kills, alone.seconds)
            found = project.digests()
            differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            if differ:
                raise InputError(f"these files differ from those of the run left alone: {', '.join(differ)}")
            tally.finished += 1
            print(f"run {tally.finished}: the same bytes; {tally.hits.total()} kills so far", flush=True)
    finally:
        _print(tally, [*alone.seconds])


def _print(tally: Tally, stages: list[str]) -> None:
    print(
        f"\n{tally.hits.total()} kills, {tally.finished} finished runs with the same bytes; "
        f"{tally.checkpoints} kills left a checkpoint; deleted by hand: {dict(tally.mended) or 'nothing'}\n"
    )
    print("| killed in | kills |\n|---|---|")
    for stage in [*stages, *sorted(tally.hits.keys() - set(stages))]:
        print(f"| {stage} | {tally.hits[stage]} |")


if __name__ == "__main__":
    run(main)
