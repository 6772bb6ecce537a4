"""The paper beside us, the runs beside each other, and the paper's claims, in numbers.

A figure of the paper is reproduced where it lies inside our interval; only the paper's own images allow a verdict,
so results on drawn or other images come without one (verdict None).
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import pandas as pd

from faces.cli import InputError
from faces.evidence.claims import Finding, decide, train_validation
from faces.evidence.documents import Document, Images, RunMetrics
from faces.evidence.estimate import Estimate
from faces.evidence.pairs import Pair, PaperPair, paper_pairs, run_pairs
from faces.evidence.paper import Other, Paper, value_and_unit
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
    """When a run stopped, the epoch whose weights were kept, and when the paper's stopped."""

    run: str
    paper: int | None
    stopped: int
    kept: int


class Comparison(Document):
    """What metrics/comparison.json holds; names: for people, of the compared runs and of the paper's rows."""

    source: str
    paper: Reported
    names: dict[str, str]
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
    paper: Paper, runs: Mapping[str, RunMetrics], predictions: Mapping[str, pd.DataFrame], params: Evaluate
) -> Comparison:
    """Return the comparison; predictions are each run's, with columns path, subset, y_true, y_score.

    Errors: InputError where the runs are not of the same images.
    """
    sources = {document.source for document in runs.values()}
    if len(sources) > 1:
        raise InputError(f"runs come from different data ({', '.join(sorted(sources))}); run `dvc repro`")
    pairs = run_pairs(runs, predictions, params)
    comparison = Comparison(
        source=sources.pop(),
        paper=Reported(title=paper.title, n=paper.test.n),
        names={run: run for run in runs} | {name: row.name for name, row in paper.rows.items()},
        n=next(iter(runs.values())).n,
        confidence=params.confidence,
        averaging=paper.averaging,
        quantities=tuple(item for run in runs for item in quantities(paper, run, runs[run], params.confidence)),
        epochs=tuple(epochs(paper, run, document) for run, document in runs.items()),
        pairs=pairs,
        claims=tuple(decide(claim, paper, runs, pairs, params.confidence) for claim in paper.claims),
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


def quantities(paper: Paper, run: str, document: RunMetrics, confidence: float) -> Iterator[Quantity]:
    """Yield each figure that the paper reports of its rows, of this run, beside the paper's."""
    train, validation = train_validation(document, confidence)
    ours = {
        "accuracy": document.metrics["accuracy"],
        **{name: document.metrics[f"{name}_{paper.averaging}"] for name in ("precision", "recall", "f1")},
        "train_accuracy": train,
        "validation_accuracy": validation,
    }
    for name, estimate in ours.items():
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


def epochs(paper: Paper, run: str, document: RunMetrics) -> Epochs:
    """Return when a run stopped, beside the paper's."""
    reported = paper.rows[run].stopped_epoch if run in paper.rows else None
    training = document.training
    return Epochs(run=run, paper=reported, stopped=training.stopped_epoch, kept=training.best_epoch)


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
