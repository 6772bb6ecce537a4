"""A word before a long training on a machine that is in use. Two threads on two cores wait for each other hundreds of
times in each step; where another program has one of the cores, each wait lasts until the scheduler comes round
(docs/speed.md). Threads are not chosen behind the user's back, for other threads give other last digits.

    python -m ci.busy
"""

import os
from typing import Annotated

import psutil
import typer

from faces.cli import run

ENOUGH = 0.7  # of a core, taken by others: less is what any desktop needs


def advice(cores: int, busy: float, threads: int) -> str | None:
    """Return what to do about `busy` cores of `cores`, if training with so many threads would be slow; else None."""
    free = cores - round(busy)
    if busy < ENOUGH or threads <= max(1, free):
        return None
    return (
        f"other programs keep {busy:.1f} of {cores} cores busy: training with {threads} threads would be slowed down "
        f"several times; stop them, or use OMP_NUM_THREADS={max(1, free)} (other last digits: docs/statistics.md)"
    )


def main(seconds: Annotated[float, typer.Option(help="how long to look")] = 1.0) -> None:
    """Say so if other programs keep cores busy that training would use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdecimal() else cores
    total = os.cpu_count() or 1
    said = advice(cores, min(cores, psutil.cpu_percent(seconds) / 100 * total), threads)
    if said is not None:
        print(said)


if __name__ == "__main__":
    run(main)
