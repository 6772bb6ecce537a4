"""Trainings in processes that start with the imports done: what a test waits for, or kills, is the work."""

import multiprocessing
import os
import socket
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_IMPORTS = ["pandas", "torch.distributed", "torchvision", "tqdm", "faces.training.loop", "faces.training.machine"]


def start(
    project: Path, out: str, run: str = "trial1", finished: Path | None = None, **environment: str
) -> BaseProcess:
    """Start training a run in a folder that pipeline.training_inputs has filled.

    It writes `out` and out.log there, and has a cache of its own, cache-out.
    """
    _context.set_forkserver_preload(_IMPORTS)
    process = _context.Process(target=_train, args=(project, out, run, finished, environment))
    process.start()
    return process


def start_together(projects: list[Path], out: str, local_ranks: list[int], **options: str | Path) -> list[BaseProcess]:
    """Start a training by several processes, in the place of torchrun: one in each of `projects`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(len(projects))}
    return [
        start(
            project,
            out,
            **options,  # type: ignore[arg-type]
            **there,
            TORCHELASTIC_RUN_ID="test",  # by which torch knows that it was launched
            RANK=str(rank),
            LOCAL_RANK=str(local_rank),
        )
        for rank, (project, local_rank) in enumerate(zip(projects, local_ranks, strict=True))
    ]


def finish(*processes: BaseProcess) -> None:
    """Wait for processes of `start`, which must end well."""
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0, f"{process.name} ended with {process.exitcode}; its log says why"


def _train(project: Path, out: str, run: str, finished: Path | None, environment: dict[str, str]) -> None:
    os.chdir(project)
    os.environ |= {"FACES_CACHE": str(project / f"cache-{out}"), **environment}
    import torch

    from stages.train import main

    torch.set_num_threads(1)

    with Path(f"{out}.log").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        main(
            run,
            Path("data"),
            Path("split/seed1.csv"),
            weights=Path("weights"),
            landmarks=Path("embed/landmarks.csv"),
            detector=Path("weights/faces"),
            out=Path(out),
            history=Path(out, "history.csv"),
            finished=finished,
        )
