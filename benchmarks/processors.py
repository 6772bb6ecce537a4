"""What another processor's arithmetic does to a run: the same run under several instruction sets, on one machine.

    python -m benchmarks.processors [RUN] --out FOLDER

oneDNN computes the convolutions; ONEDNN_MAX_CPU_ISA makes it compute as an older processor would, in the same
precision as that one (fp32 where it has no bf16). Each setting trains and evaluates RUN (trial3 by default) anew from
the pipeline's data, split and weights, with a cache of its own; a setting whose result lies in FOLDER is not repeated.
Prints the table of docs/statistics.md.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from faces.cli import InputError, OutFolder, run
from faces.pages.markdown import table
from faces.params import load_params
from faces.training.machine import hardware
from faces.training.recipe import resolve

SETTINGS = ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_AMX", "ALL")  # of ONEDNN_MAX_CPU_ISA; ALL: no limit
METRICS = ("accuracy", "recall", "specificity")


def main(
    name: Annotated[str, typer.Argument(metavar="RUN", help="one of params.yaml's runs")] = "trial3",
    out: Annotated[OutFolder, typer.Option(help="folder for the settings' results")] = Path(".processors"),
) -> None:
    """Train and evaluate a run under each instruction set that this machine has, and print what comes of it."""
    split = resolve(load_params(), name).split
    found: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": setting, "FACES_CACHE": str(out / "cache")}
        kind = _asked(environment)
        if kind in found:
            continue  # this machine has nothing between the two
        folder = out / setting
        if not (folder / "metrics.json").exists():
            _run(environment, "train", name, split, "--weights", "weights", "--detector", "weights/faces",
                 "--out", str(folder / "model"), "--history", str(folder / "history.csv"))  # fmt: skip
            _run(environment, "evaluate", name, split, "--model", str(folder / "model"),
                 "--predictions", str(folder / "predictions.csv"), "--metrics", str(folder / "metrics.json"),
                 "--curves", str(folder / "curves"))  # fmt: skip
        found[kind] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    print(f"{name} on {hardware('cpu')}\n\n{markdown(found)}")


def _asked(environment: dict[str, str]) -> str:
    code = "from faces.training.machine import isa; print(isa().get('onednn', 'none'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _run(environment: dict[str, str], stage: str, name: str, split: str, *options: str) -> None:
    inputs = [name, "data", f"split/{split}.csv", "--landmarks", "embed/landmarks.csv"]
    done = subprocess.run([sys.executable, "-m", f"stages.{stage}", *inputs, *options], env=environment, check=False)
    if done.returncode:
        raise InputError(f"stages.{stage} failed under {environment['ONEDNN_MAX_CPU_ISA']}; the lines above say why")


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Return the table of the settings' metrics documents, with mean, standard deviation and range below."""
    rows = []
    values: dict[str, list[float]] = {key: [] for key in (*METRICS, "epoch")}
    for setting, document in found.items():
        training, metrics = document["training"], document["metrics"]
        for key in METRICS:
            values[key].append(100 * metrics[key]["value"])
        values["epoch"].append(training["stopped_epoch"])
        cells = [f"{metrics[key]['value']:.1%}" for key in METRICS]
        precision = f"{training['machine']['precision']}, {training['machine']['threads']}"
        rows.append((setting, precision, *cells, training["stopped_epoch"], document["n"]["test"]))
    summary = {
        "mean": lambda x: f"{statistics.mean(x):.1f}",
        "standard deviation": lambda x: f"{statistics.stdev(x):.1f}" if len(x) > 1 else "-",
        "range": lambda x: f"{min(x):.1f} to {max(x):.1f}",
    }
    ends = [(word, "", *(of(column) for column in values.values()), len(rows)) for word, of in summary.items()]
    return table(("instruction set", "precision, threads", *METRICS, "stopped at epoch", "n"), [*rows, *ends])


if __name__ == "__main__":
    run(main)
