"""The paper beside us, the runs beside each other, and the paper's claims, in numbers.

A figure of the paper is reproduced where it lies inside our interval; only the paper's own images allow a verdict,
so results on drawn or other images come without one (verdict None).
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import pandas as pd

from faces.cli import InputError
from faces.evidence.claims import Finding, decide
from faces.evidence.documents import Document, Images, RunMetrics
from faces.evidence.estimate import Estimate, Spread
from faces.evidence.pairs import Pair, PaperPair, paper_pairs, run_pairs
from faces.evidence.paper import Other, Paper, value_and_unit
from faces.evidence.seeds import Recipe, Seeds
from faces.params import Evaluate

Verdict = Literal["reproduced", "better", "worse"]


class Reported(Document):
    """The paper, and the number of its test images."""

    title: str
    n: int


class Quantity(Document):
    """A figure of a run beside the paper's: train and validation accuracy at the last epoch, the others on test."""

    run: str
    quantity: str
    printed: str | None  # as the paper has it
    paper: float | None  # as a fraction
    ours: Estimate
    verdict: Verdict | None


class Epochs(Document):
    """When a run stopped, the epoch whose weights were kept, when the paper's stopped, and the run's other seeds."""

    run: str
    paper: int | None
    stopped: int
    kept: int
    over_seeds: Spread | None


class Comparison(Document):
    """What metrics/comparison.json holds; names: for people, of the compared runs and of the paper's rows.

    recipes: of the compared runs that are their recipe unchanged.
    """

    source: str
    paper: Reported
    names: dict[str, str]
    recipes: dict[str, str]
    n: Images
    confidence: float
    averaging: str
    quantities: tuple[Quantity, ...]
    epochs: tuple[Epochs, ...]
    pairs: tuple[Pair, ...]
    claims: tuple[Finding, ...]
    paper_pairs: tuple[PaperPair, ...]
    others: tuple[Other, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """The compared runs, in the order of params.yaml."""
        return tuple(row.run for row in self.epochs)

    @property
    def trials(self) -> set[str]:
        """The compared runs that are the paper's."""
        return {item.run for item in self.quantities if item.printed is not None}

    def of(self, run: str) -> dict[str, Quantity]:
        """Return a run's quantities by name."""
        return {item.quantity: item for item in self.quantities if item.run == run}


def compare(
    paper: Paper,
    runs: Mapping[str, RunMetrics],
    predictions: Mapping[str, pd.DataFrame],
    recipes: Mapping[str, str],
    seeds: Seeds,
    params: Evaluate,
) -> Comparison:
    """Return the comparison: of means over seeds where a run's recipe has several, of the run alone elsewhere.

    predictions: each run's, with columns path, subset, y_true, y_score; recipes: each run's, by name.

    Errors: InputError where the runs are not of the same images.
    """
    sources = {document.source for document in runs.values()}
    if len(sources) > 1:
        raise InputError(f"runs come from different data ({', '.join(sorted(sources))}); run `dvc repro`")
    pairs = run_pairs(runs, predictions, seeds.between(recipes), params)
    over_seeds = {run: seeds.recipes.get(recipe) for run, recipe in recipes.items()}
    measured = {run: measure(runs[run], over_seeds.get(run), paper.averaging, params.confidence) for run in runs}
    comparison = Comparison(
        source=sources.pop(),
        paper=Reported(title=paper.title, n=paper.test.n),
        names={run: run for run in runs} | {name: row.name for name, row in paper.rows.items()},
        recipes=dict(recipes),
        n=next(iter(runs.values())).n,
        confidence=params.confidence,
        averaging=paper.averaging,
        quantities=tuple(item for run in runs for item in quantities(paper, run, measured[run])),
        epochs=tuple(epochs(paper, run, document, over_seeds.get(run)) for run, document in runs.items()),
        pairs=pairs,
        claims=tuple(decide(claim, paper, measured, pairs) for claim in paper.claims),
        paper_pairs=paper_pairs(paper, params.confidence),
        others=paper.others,
    )
    return comparison if comparison.source == "kaggle" else _without_verdicts(comparison)


def _without_verdicts(comparison: Comparison) -> Comparison:
    changes = {
        name: tuple(item.model_copy(update={"verdict": None}) for item in getattr(comparison, name))
        for name in ("quantities", "claims")
    }
    return comparison.model_copy(update=changes)


def measure(run: RunMetrics, over_seeds: Recipe | None, averaging: str, confidence: float) -> dict[str, Estimate]:
    """Return what the paper reports of its runs, of one of ours or of all seeds of its recipe.

    accuracy, precision, recall and f1 are of the test images, train_accuracy and validation_accuracy of the last epoch.
    """
    of_class = {"accuracy": "accuracy", **{name: f"{name}_{averaging}" for name in ("precision", "recall", "f1")}}
    if over_seeds is not None:
        return {name: over_seeds.estimate(key, run.n.test) for name, key in of_class.items()} | {
            "train_accuracy": over_seeds.estimate("train_accuracy", run.training.n_train),
            "validation_accuracy": over_seeds.estimate("validation_accuracy", run.training.n_validation),
        }
    stop, n_train, n_validation = run.training.at_stop, run.training.n_train, run.training.n_validation
    return {name: run.metrics[key] for name, key in of_class.items()} | {
        "train_accuracy": Estimate.proportion(round(stop.train_accuracy * n_train), n_train, confidence),
        "validation_accuracy": Estimate.proportion(round(stop.val_accuracy * n_validation), n_validation, confidence),
    }


def quantities(paper: Paper, run: str, measured: Mapping[str, Estimate]) -> Iterator[Quantity]:
    """Yield each figure that the paper reports of its rows, of this run, beside the paper's."""
    for name, estimate in measured.items():
        printed: str | None = getattr(paper.rows.get(run), name, None)
        reported = None if printed is None else value_and_unit(printed)[0]
        yield Quantity(
            run=run,
            quantity=name,
            printed=printed,
            paper=reported,
            ours=estimate,
            verdict=None if reported is None else verdict(reported, estimate),
        )


def verdict(reported: float, ours: Estimate) -> Verdict:
    """Say where a reported figure lies: reproduced inside our interval, better or worse if ours lies off it."""
    return "better" if ours.low > reported else "worse" if ours.high < reported else "reproduced"


def epochs(paper: Paper, run: str, document: RunMetrics, over_seeds: Recipe | None) -> Epochs:
    """Return when a run stopped, beside the paper's."""
    training = document.training
    return Epochs(
        run=run,
        paper=paper.rows[run].stopped_epoch if run in paper.rows else None,
        stopped=training.stopped_epoch,
        kept=training.best_epoch,
        over_seeds=over_seeds.stopped_epoch if over_seeds else None,
    )


def to_frame(comparison: Comparison) -> pd.DataFrame:
    """Return the comparison as one row per run, each figure of the paper before ours."""
    rows = []
    for run, stopped in zip(comparison.runs, comparison.epochs, strict=True):
        items = comparison.of(run)
        accuracy = items["accuracy"]
        rows.append(
            {
                "run": run,
                "source": comparison.source,
                "n": accuracy.ours.n,
                "paper_accuracy": accuracy.paper,
                "accuracy": accuracy.ours.value,
                "low": accuracy.ours.low,
                "high": accuracy.ours.high,
                "verdict": accuracy.verdict if comparison.source == "kaggle" else f"{comparison.source}: no verdict",
            }
            | {
                column: value
                for name, item in items.items()
                if name != "accuracy"
                for column, value in ((f"paper_{name}", item.paper), (name, item.ours.value))
            }
            | {"paper_stopped_epoch": stopped.paper, "stopped_epoch": stopped.stopped, "best_epoch": stopped.kept}
        )
    return pd.DataFrame(rows).astype({"paper_stopped_epoch": "Int64"})  # whole also where one is missing
