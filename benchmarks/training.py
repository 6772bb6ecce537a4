"""Training speed beside what a user would pick instead: a plain torchvision loop, fastai, timm.

    make benchmark IMAGES=data WEIGHTS=weights/resnet34.pth

Every contestant fine-tunes the same ResNet-34 from the same weights file on the same images: frozen through layer3
(batch norms in evaluation mode), two classes, AdamW, the augmentation of params.yaml, one batch size, so many epochs,
validation after each. What is measured, the same for all:

- training images/s: over the epochs after the first, from the first batch asked for to the last optimizer step, with
  all loading and augmentation in between; the first epoch warms up;
- evaluation images/s: one pass over images not seen before, from files to loss and accuracy;
- trial: seconds of one whole run (reading the weights and the images' list, all epochs, validation), without imports;
- peak memory: of the process and its workers, shared pages divided by those who share them (PSS), sampled from /proc
  every quarter of a second; and the anonymous part of it, for the pages of mapped files can be dropped at any time.

`ours` is one trial that finds nothing computed before; `ours, three trials` are three learning rates in sequence that
share the frozen body's output, counted per trial. Each repetition runs in a fresh process with an empty cache; the
contestants take turns, and ratios are formed within a repetition. Speed does not depend on what the images show.
"""

import importlib.metadata
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from benchmarks.contestants import CONTESTANTS, SEED, SIDE, Job, Result, matrix_rates, random_weights
from faces.cli import InFolder, InputError, OutFileOrDevice, PathRole, run
from faces.files import as_json, begins_with, check_output, write_through
from faces.images import decode as files
from faces.naming import LABELS
from faces.params import load_params
from faces.source.listing import list_classes
from faces.training import cache, machine
from faces.training.recipe import ACTIVE, resolve

SUFFIXES = (".jpg", ".jpeg", ".png")  # which all contestants read
OURS = ("ours", "ours, three trials")
MADE_HERE = b'{\n  "header": '  # how the JSON begins
WEIGHTS = PathRole("file", read=True, word="random", remedy="`make repro` makes it, or write: random")
PACKAGES = ("fastai", "timm")  # contestants that are packages of this name


def figures(result: Result, rates: Result) -> dict[str, float]:
    """Return a repetition's figures: images/s, seconds per trial, bytes, and the share of the matrix rate."""
    trials = result["trials"]
    laps = [lap for trial in trials for lap in trial["epochs"][1:]]
    training = sum(n for n, _ in laps) / sum(seconds for _, seconds in laps)
    flops = rates["body_flops"] / len(trials) + rates["tail_flops"]  # trials share the body's work
    n, seconds = result["evaluation"]
    return {
        "training": training,
        "evaluation": n / seconds,
        "trial": sum(trial["seconds"] for trial in trials) / len(trials),
        "memory": result["memory"],
        "anonymous": result["anonymous"],
        "share": training * flops / rates["matrix_rate"][result["precision"]],
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(mine: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return how many times as fast the first is, repetition by repetition, and its memory over the other's."""
    pairs = list(zip(mine, other, strict=True))
    return {
        "training": spread([a["training"] / b["training"] for a, b in pairs]),
        "evaluation": spread([a["evaluation"] / b["evaluation"] for a, b in pairs]),
        "trial": spread([b["trial"] / a["trial"] for a, b in pairs]),
        "memory": spread([a["memory"] / b["memory"] for a, b in pairs]),
    }


def summarise(raw: list[Result]) -> dict[str, Any]:
    """Return each contestant's figures and ours over each other's; InputError if they did not do the same work."""
    names = [name for name in CONTESTANTS if any(entry["contestant"] == name for entry in raw)]
    by_name = {name: [entry for entry in raw if entry["contestant"] == name] for name in names}
    for what in ("trained", "images_trained", "images_evaluated"):
        seen = {name: sorted({entry[what] for entry in entries}) for name, entries in by_name.items()}
        if len({tuple(values) for values in seen.values()}) > 1 or any(len(values) > 1 for values in seen.values()):
            raise InputError(f"the contestants did not do the same work; {what}: {seen}")
    values = {name: [entry["figures"] for entry in entries] for name, entries in by_name.items()}
    return {
        "contestants": {
            name: {
                "precision": by_name[name][0]["precision"],
                **{figure: spread([entry[figure] for entry in values[name]]) for figure in values[name][0]},
            }
            for name in names
        },
        "ratios": {
            mine: {other: ratios(values[mine], values[other]) for other in names if other not in OURS}
            for mine in OURS
            if mine in names
        },
    }


def markdown(header: dict[str, Any], summary: dict[str, Any]) -> str:
    """Return the header and the two tables."""
    h = header
    rates = ", ".join(f"{name} {_span(rate, 1e9)} GFLOP/s" for name, rate in h["matrix_rate"].items())
    lines = [
        f"{h['hardware']}; {', '.join(f'{name} {version}' for name, version in h['versions'].items())}; "
        f"{', '.join(f'{n} {subset}' for subset, n in h['images'].items())} images, "
        f"{h['epochs']} epochs, batch size {h['batch_size']}, {h['repeats']} repetitions; "
        f"median (min to max); matrix rate ({SIDE} x {SIDE}): {rates}.",
        "",
        "| | precision | training, images/s | evaluation, images/s | one trial, s | peak memory, GB "
        "| of it anonymous, GB | share of the matrix rate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, c in summary["contestants"].items():
        cells = [_span(c["training"]), _span(c["evaluation"]), _span(c["trial"]), _span(c["memory"], 1e9)]
        cells += [_span(c["anonymous"], 1e9), _span(c["share"], 0.01, "%")]
        lines.append(f"| {name} | {c['precision']} | {' | '.join(cells)} |")
    lines += [f"| {name} | | not installed | | | | | |" for name in h["missing"]]
    lines += ["", "| times as fast | training | evaluation | one trial | memory, ours / theirs |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for mine, others in summary["ratios"].items():
        for other, r in others.items():
            cells = [_span(r[figure]) for figure in ("training", "evaluation", "trial", "memory")]
            lines.append(f"| {mine} / {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(s: dict[str, float], unit: float = 1.0, sign: str = "") -> str:
    low, middle, high = (f"{s[key] / unit:.3g}" for key in ("min", "median", "max"))
    return f"{middle}{sign} ({low} to {high})"


def in_process(measure: Callable[[Job], Result], job: Job, name: str) -> Result:
    """Return a contestant's result and its peak memory, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(measure, job, sender))
    process.start()
    sender.close()
    peak = {"memory": 0, "anonymous": 0}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.25):
            pss, anonymous = _memory(process.pid or 0)
            peak["memory"], peak["anonymous"] = max(peak["memory"], pss), max(peak["anonymous"], anonymous)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        result: Result | InputError = receiver.recv()
    except EOFError:
        raise InputError(f"{name} failed; its own message stands above") from None
    finally:
        done.set()
        sampler.join()
        process.join()
    if isinstance(result, InputError):
        raise InputError(f"{name}: {result}")
    return {**result, **peak}


def _child(measure: Callable[[Job], Result], job: Job, sender: Any) -> None:
    multiprocessing.set_start_method(None, force=True)  # loaders start their workers as they would for a user
    os.environ["FACES_CACHE"] = str(job.cache)
    try:
        sender.send(measure(job))
    except InputError as error:
        sender.send(error)


def _memory(pid: int) -> tuple[int, int]:
    """Return the bytes a process and its descendants hold (PSS), and those that are not a file's."""
    pss = anonymous = 0
    with suppress(OSError):  # it may end meanwhile; other systems have no /proc
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kilobytes = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines[1:])}
        pss, anonymous = 1024 * kilobytes["Pss"], 1024 * kilobytes["Pss_Anon"]
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                of_child = _memory(int(child))
                pss, anonymous = pss + of_child[0], anonymous + of_child[1]
    return pss, anonymous


def choose(source: Path, folder: Path, counts: dict[str, int]) -> None:
    """Link readable images, half of each class, into folder/<subset>/<class>; reading them also warms the disk's cache.

    Errors: InputError if there are too few.
    """
    listed = list_classes(source).images
    for y_true, label in enumerate(LABELS):
        paths = [path for path in listed if path.startswith(f"{label}/") and path.lower().endswith(SUFFIXES)]
        order = iter(np.random.default_rng([SEED, y_true]).permutation(paths))
        for subset, count in counts.items():
            (folder / subset / label).mkdir(parents=True)
            for number in range(count // 2):
                path = next((p for p in order if _readable(source / p)), None)
                if path is None:
                    need = sum(n // 2 for n in counts.values())
                    raise InputError(f"{source / label} has fewer than {need} readable images; ask for fewer: --images")
                link = folder / subset / label / f"{number:05}{Path(path).suffix.lower()}"
                link.symlink_to((source / path).resolve())


def _readable(path: Path) -> bool:
    try:
        files.decode(path, max_pixels=sys.maxsize)
    except files.UnreadableError:
        return False
    return True


def main(
    images: Annotated[InFolder, typer.Argument(help="a folder with down_syndrome/ and healthy/")],
    weights: Annotated[
        Path,
        WEIGHTS,
        typer.Argument(help="a ResNet-34 state dict, or the word random"),
    ],
    train_images: Annotated[int, typer.Option("--images", help="training images, in whole batches")] = 160,
    epochs: Annotated[int, typer.Option(min=2, help="the first of them warms up")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="of every contestant, in turn")] = 3,
    batch_size: Annotated[int, typer.Option(min=2, help="the same for all contestants")] = 32,
    precision: Annotated[Literal["bf16", "fp32"] | None, typer.Option(help="of ours; default: params.yaml's")] = None,
    contestant: Annotated[list[str] | None, typer.Option(help="one or more; default: all")] = None,
    json: Annotated[OutFileOrDevice | None, typer.Option(help="write every repetition's values here")] = None,
) -> None:
    """Measure training and evaluation, ours beside a plain torchvision loop, fastai and timm."""
    params = load_params()
    wanted = list(contestant or CONTESTANTS)
    if unknown := [name for name in wanted if name not in CONTESTANTS]:
        raise InputError(f"no contestant {unknown[0]!r}; there are: {', '.join(CONTESTANTS)}")
    if train_images % batch_size or train_images < batch_size or batch_size % 2:
        raise InputError(f"--images {train_images} is not a multiple of --batch-size {batch_size}, or that is odd")
    if json:
        check_output(json, begins_with(MADE_HERE))
    missing = [name for name in wanted if name in PACKAGES and importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"error: {name} is left out: it is not installed; make benchmark installs it", file=sys.stderr)
    running = [name for name in wanted if name not in missing]

    change: dict[str, Any] = {"freeze": "layer3", "batch_size": batch_size, "max_epochs": epochs, "patience": epochs}
    if precision:
        change["precision"] = precision
    recipe = resolve(params, ACTIVE).recipe.model_copy(update=change)
    held_out = 2 * max(1, train_images // 8)  # validation, and as many test images
    counts = {"train": train_images, "validation": held_out, "test": held_out}
    root = cache.root()  # on the disk that training itself would use
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="benchmark.") as name:
        folder = Path(name).resolve()
        job = Job(folder, weights.resolve(), folder / "cache", recipe, _cores())
        if str(weights) == "random":
            job = replace(job, weights=folder / "random.pth")
            in_process(random_weights, job, "random weights")
        choose(images, folder, counts)
        raw, rates = _rounds(job, running, repeats)

    header = {
        "hardware": rates[0]["hardware"],
        "versions": _versions(),
        "matrix_rate": {kind: spread([r["matrix_rate"][kind] for r in rates]) for kind in rates[0]["matrix_rate"]},
        "images": counts,
        "epochs": epochs,
        "batch_size": batch_size,
        "repeats": repeats,
        "workers": job.workers,
        "body_flops": rates[0]["body_flops"],
        "tail_flops": rates[0]["tail_flops"],
        "missing": missing,
    }
    summary = summarise(raw)
    if json:
        write_through(json, as_json({"header": header, "summary": summary, "raw": raw}))
    typer.echo(markdown(header, summary))


def _rounds(job: Job, names: list[str], repeats: int) -> tuple[list[Result], list[Result]]:
    """Return every repetition's result and every round's matrix rates; each round starts with another contestant."""
    raw, rates = [], []
    for repeat in range(repeats):
        rates.append(in_process(matrix_rates, job, "matrix rate"))
        job = replace(job, recipe=job.recipe.model_copy(update={"precision": rates[0]["precision"]}))
        first = repeat % max(1, len(names))
        for name in names[first:] + names[:first]:
            with tempfile.TemporaryDirectory(dir=job.folder) as cache:
                result = in_process(CONTESTANTS[name], replace(job, cache=Path(cache)), name)
            epochs = [n for trial in result["trials"] for n, _ in trial["epochs"]]
            entry = {
                "contestant": name,
                "repeat": repeat + 1,
                "images_trained": sum(epochs) // len(result["trials"]),
                "images_evaluated": result["evaluation"][0],
                "figures": figures(result, rates[-1]),
                "matrix_rate": rates[-1]["matrix_rate"],
                **result,
            }
            raw.append(entry)
            f = entry["figures"]
            told = f"{f['training']:.2f} and {f['evaluation']:.2f} images/s, {f['trial']:.1f} s"
            print(f"{repeat + 1}/{repeats} {name}: {told}", file=sys.stderr, flush=True)
    return raw, rates


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = machine.versions()
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


if __name__ == "__main__":
    run(main)
