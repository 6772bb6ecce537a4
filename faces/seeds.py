"""Several seeds of the same trials: is the difference between trials larger than the difference between seeds?

    dvc exp run --queue -S seed=1,2,3,4,5 && dvc queue start
    python -m faces.seeds $(dvc exp list --sha-only)

Each argument is a Git revision (its metrics/trials/*.json are read) or one run's metrics file.
"""

import subprocess
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from faces.cli import InputError, run
from faces.evidence.metrics import TITLES, parse_document, read_document
from faces.evidence.statistics import spread

TRIALS = "metrics/trials"

Seeds = dict[str, dict[int, float]]  # run -> seed -> value


def main(
    runs: Annotated[list[str], typer.Argument(help="Git revisions or metrics files")],
    metric: str = "accuracy",
    confidence: float = 0.95,
) -> None:
    """Print mean and spread over seeds per trial, and the trials' differences seed by seed."""
    documents = [document for name in runs for document in read_runs(name)]
    typer.echo(markdown(by_seed(documents, metric), documents[0]["source"], metric, confidence))


def read_runs(name: str) -> list[dict[str, Any]]:
    """Return the metrics documents of a file, or of a Git revision's trials."""
    if Path(name).is_file():
        return [read_document(Path(name))]
    if name.startswith("-"):
        raise InputError(f"{name} is neither a file nor a Git revision")
    listed = _git("ls-tree", "-r", "--name-only", f"{name}^{{commit}}", "--", f"{TRIALS}/")
    if listed is None:
        raise InputError(f"{name} is neither a file nor a Git revision")
    paths = [path for path in listed.splitlines() if path.endswith(".json")]
    if not paths:
        raise InputError(f"revision {name} has no {TRIALS}/*.json; run `dvc repro` there")
    return [parse_document(_git("show", f"{name}:{path}") or "", f"{name}:{path}") for path in paths]


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def by_seed(documents: list[dict[str, Any]], metric: str) -> Seeds:
    """Return run -> seed -> metric; an `InputError` where runs differ in more than their seed."""
    if metric not in TITLES:
        raise InputError(f"no metric named {metric!r}; there are: {', '.join(TITLES)}")
    values: Seeds = {}
    first: dict[str, dict[str, Any]] = {}
    for document in documents:
        name, training = document["run"], document["training"]
        same = first.setdefault(name, document)
        for key, own, other in (
            ("data", document["source"], documents[0]["source"]),
            ("images", document["n"], documents[0]["n"]),
            ("hyperparameters", training["recipe"], same["training"]["recipe"]),
        ):
            if own != other:
                raise InputError(f"{name} with seed {training['seed']} has other {key}; give runs that differ in seed")
        value = float(document["metrics"][metric]["value"])
        if values.setdefault(name, {}).setdefault(training["seed"], value) != value:
            raise InputError(f"{name} has two results with seed {training['seed']}; give one of them")
    return {name: dict(sorted(seeds.items())) for name, seeds in sorted(values.items())}


def summarise(values: Seeds, confidence: float) -> dict[str, dict[str, Any]]:
    """Return each run's spread over seeds."""
    return {name: spread(list(seeds.values()), confidence) for name, seeds in values.items()}


def differences(values: Seeds, confidence: float) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the spread of every two runs' difference, paired by the seeds they share."""
    result = {}
    for first, second in combinations(values, 2):
        shared = sorted(values[first].keys() & values[second].keys())
        if shared:
            result[first, second] = spread([values[first][s] - values[second][s] for s in shared], confidence)
    return result


def markdown(values: Seeds, source: str, metric: str, confidence: float) -> str:
    """Return the summary as Markdown: a table of runs and a sentence for every two of them."""
    mark = "" if source == "kaggle" else f" ({source})"
    rows = [
        {
            "run": name,
            "seeds": ", ".join(map(str, values[name])),
            "mean": f"{s['mean']:.4f}",
            "sd": "" if s["sd"] is None else f"{s['sd']:.4f}",
            "min": f"{s['min']:.4f}",
            "max": f"{s['max']:.4f}",
            f"{confidence:.0%} interval of the mean": "" if s["low"] is None else f"{s['low']:.4f} to {s['high']:.4f}",
        }
        for name, s in summarise(values, confidence).items()
    ]
    lines = [f"- {_sentence(pair, s)}" for pair, s in differences(values, confidence).items()]
    return "\n".join(
        [
            f"## {TITLES[metric][0].upper()}{TITLES[metric][1:]} over seeds{mark}",
            "",
            pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True),
            *(["", *lines] if lines else []),
            "",
            "The intervals hold the seeds' noise on these test images, not the choice of the images.",
        ]
    )


def _sentence(pair: tuple[str, str], s: dict[str, Any]) -> str:
    text = f"{pair[0]} minus {pair[1]}: {s['mean']:+.4f}"
    if s["low"] is None:
        return f"{text} with one seed; the noise of seeds takes two or more"
    larger = "larger than" if s["low"] > 0 or s["high"] < 0 else "not distinguishable from"
    return f"{text} ({s['low']:+.4f} to {s['high']:+.4f}), {larger} the noise of {s['n']} seeds"


if __name__ == "__main__":
    run(main)
