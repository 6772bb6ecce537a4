"""The paper beside us, the trials beside each other, and the paper's claims, in numbers and in words.

A figure of the paper is reproduced where it lies inside our interval; only the paper's own images allow a verdict,
so results on drawn or other images come without one (verdict None).
"""

import textwrap
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from faces.cli import InputError
from faces.evidence.paper import Claim, Paper, value_and_unit
from faces.evidence.statistics import Interval, combine, holm, mcnemar, mcnemar_range, paired_difference, wilson
from faces.params import Evaluate

Documents = dict[str, dict[str, Any]]  # trial -> its metrics document (faces.evidence.metrics)
TITLES = {
    "accuracy": "test accuracy",
    "precision": "test precision",
    "recall": "test recall",
    "f1": "test F1",
    "train_accuracy": "train accuracy",
    "validation_accuracy": "validation accuracy",
    "stopped_epoch": "stopped at epoch",
}
WIDTH = 110


def compare(
    paper: Paper, documents: Documents, predictions: dict[str, pd.DataFrame], params: Evaluate
) -> dict[str, Any]:
    """Return the comparison (keys below); predictions are each trial's, with columns path, subset, y_true, y_score."""
    sources = {document["source"] for document in documents.values()}
    if len(sources) > 1:
        raise InputError(f"trials come from different data ({', '.join(sorted(sources))}); run `dvc repro`")
    source = sources.pop()
    verdicts = source == "kaggle"
    pairs = trial_pairs(paper, documents, predictions, params)
    return {
        "source": source,
        "verdicts": verdicts,
        "n": next(iter(documents.values()))["n"],
        "confidence": params.confidence,
        "averaging": paper.averaging,
        "quantities": [
            quantity
            for trial, document in documents.items()
            for quantity in quantities(paper, trial, document, params.confidence, verdicts)
        ],
        "pairs": pairs,
        "claims": [
            weigh(claim, paper, documents, pairs, params.confidence) | ({} if verdicts else {"verdict": None})
            for claim in paper.claims
        ],
        "paper_pairs": paper_pairs(paper, params.confidence),
        "others": [other.model_dump() for other in paper.others],
    }


def quantities(
    paper: Paper, trial: str, document: dict[str, Any], confidence: float, verdicts: bool
) -> list[dict[str, Any]]:
    """Return each figure the paper reports of a trial beside ours; train and validation ones at the last epoch."""
    row = paper.rows.get(trial)
    stopped = document["training"]["at_stop"]
    training = document["training"]
    ours = {
        "accuracy": document["metrics"]["accuracy"],
        **{name: document["metrics"][f"{name}_{paper.averaging}"] for name in ("precision", "recall", "f1")},
        "train_accuracy": _share(stopped["train_accuracy"], training["n_train"], confidence),
        "validation_accuracy": _share(stopped["val_accuracy"], training["n_validation"], confidence),
        "stopped_epoch": {"value": training["stopped_epoch"], "low": None, "high": None, "n": None, "method": None},
    }
    result = []
    for name, metric in ours.items():
        printed = getattr(row, name, None)
        reported = printed if printed is None or isinstance(printed, int) else value_and_unit(printed)[0]
        result.append(
            {
                "trial": trial,
                "name": _name(paper, trial),
                "quantity": name,
                "title": TITLES[name],
                "paper": reported,
                "paper_text": None if printed is None else str(printed),
                **metric,
                "verdict": verdict(reported, metric["low"], metric["high"]) if verdicts else None,
            }
        )
    return result


def verdict(reported: float | None, low: float | None, high: float | None) -> str | None:
    """Say where a reported figure lies: reproduced inside our interval, better or worse if ours lies off it."""
    if reported is None or low is None or high is None:
        return None
    return "better" if low > reported else "worse" if high < reported else "reproduced"


def _share(value: float, n: int, confidence: float) -> dict[str, Any]:
    low, high = wilson(round(value * n), n, confidence)
    return {"value": value, "low": round(low, 6), "high": round(high, 6), "n": n, "method": "Wilson"}


def trial_pairs(
    paper: Paper, documents: Documents, predictions: dict[str, pd.DataFrame], params: Evaluate
) -> list[dict[str, Any]]:
    """Return every two trials on the same test images: exact McNemar (Holm over all pairs), bootstrap difference."""
    tables = {trial: _test_rows(predictions[trial]) for trial in documents}
    right = {
        trial: ((table["y_score"] >= documents[trial]["settings"]["threshold"]) == table["y_true"]).to_numpy()
        for trial, table in tables.items()
    }
    y_true = next(iter(tables.values()))["y_true"].to_numpy(np.int64)
    for trial, table in tables.items():
        if not table[["y_true"]].equals(next(iter(tables.values()))[["y_true"]]):
            raise InputError(f"predictions of {trial} are not of the same test images; run `dvc repro`")
    pairs: list[dict[str, Any]] = []
    for first, second in combinations(documents, 2):
        a, b = right[first], right[second]
        low, high = paired_difference(a, b, y_true, params.confidence, params.resamples, params.seed)
        first_only, second_only = int((a & ~b).sum()), int((~a & b).sum())
        pairs.append(
            {
                "first": first,
                "second": second,
                "n": len(a),
                "first_only": first_only,
                "second_only": second_only,
                "both_right": int((a & b).sum()),
                "both_wrong": int((~a & ~b).sum()),
                "difference": round((first_only - second_only) / len(a), 6),
                "low": round(low, 6),
                "high": round(high, 6),
                "p": mcnemar(first_only, second_only),
            }
        )
    for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p"], pair["p_holm"] = round(pair["p"], 6), round(corrected, 6)
        pair["distinguishable"] = corrected < 1 - params.confidence
        pair["sentence"] = _pair_sentence(paper, pair)
    return pairs


def _test_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["subset"] == "test"].set_index("path").sort_index()


def _name(paper: Paper, trial: str) -> str:
    return paper.rows[trial].name if trial in paper.rows else trial


def _pair_sentence(paper: Paper, pair: dict[str, Any]) -> str:
    difference, low, high = pair["difference"], pair["low"], pair["high"]
    better, worse = _name(paper, pair["first"]), _name(paper, pair["second"])
    if difference < 0:
        better, worse, difference, low, high = worse, better, -difference, -high, -low
    what = f"{better} beats {worse} by {points(difference)} points" if difference else f"{better} and {worse} tie"
    found = "distinguishable" if pair["distinguishable"] else "not distinguishable"
    p = f"p = {pair['p_holm']:.3f}" if pair["p_holm"] >= 0.001 else "p < 0.001"
    return f"{what} ({points(low)} to {points(high)}; {p}): {found} at n={pair['n']}"


def points(fraction: float) -> str:
    """Print a difference of fractions in percentage points, without a minus before zero."""
    return f"{100 * fraction:.1f}".replace("-0.0", "0.0")


def weigh(
    claim: Claim, paper: Paper, documents: Documents, pairs: list[dict[str, Any]], confidence: float
) -> dict[str, Any]:
    """Return a claim with its criterion, the evidence, and supported, not supported or undecidable."""
    name = _name(paper, claim.trial)
    against = _name(paper, claim.against) if claim.against else ""
    absent = [trial for trial in (claim.trial, claim.against) if trial and trial not in documents]
    if absent:
        criterion, evidence, found = "needs these trials", f"not run: {', '.join(absent)}", "undecidable"
    elif claim.kind == "best":
        criterion = (
            f"{name} beats each other trial of the paper on the same test images (exact McNemar, Holm-corrected)"
        )
        evidence, found = _best(claim, [pair for pair in pairs if {pair["first"], pair["second"]} <= paper.rows.keys()])
    elif claim.kind == "reaches":
        criterion = f"the interval of {name}'s test accuracy lies above {claim.accuracy:.0%}"
        evidence, found = _reaches(claim, documents)
    elif claim.kind == "underfits":
        criterion = (
            f"{name}'s train accuracy at its last epoch lies more than {points(claim.margin or 0)} points below "
            f"{against}'s (Newcombe's interval of the difference)"
        )
        evidence, found = _underfits(claim, documents, confidence)
    else:
        criterion = (
            f"train minus validation accuracy at the last epoch is larger for {name} than for {against} "
            "(interval of the difference from the four proportions)"
        )
        evidence, found = _overfits(claim, documents, confidence)
    return {"claim": claim.claim, "criterion": criterion, "evidence": evidence, "verdict": found}


def _decide(low: float, high: float, bound: float) -> str:
    return "supported" if low > bound else "not supported" if high < bound else "undecidable"


def _reaches(claim: Claim, documents: Documents) -> tuple[str, str]:
    metric = documents[claim.trial]["metrics"]["accuracy"]
    return f"{interval_text(metric)} at n={metric['n']}", _decide(metric["low"], metric["high"], claim.accuracy or 0)


def _best(claim: Claim, pairs: list[dict[str, Any]]) -> tuple[str, str]:
    own = [pair for pair in pairs if claim.trial in (pair["first"], pair["second"])]
    wins = [(pair["difference"] > 0) == (pair["first"] == claim.trial) for pair in own]
    clear = [pair["distinguishable"] for pair in own]
    lost = any(sure and not win for sure, win in zip(clear, wins, strict=True))
    found = "not supported" if lost else "supported" if own and all(clear) else "undecidable"
    return "; ".join(pair["sentence"] for pair in own) or "there is no other trial", found


def _underfits(claim: Claim, documents: Documents, confidence: float) -> tuple[str, str]:
    shares = [_train_validation(documents[trial], confidence)[0] for trial in (claim.against or "", claim.trial)]
    difference = shares[0]["value"] - shares[1]["value"]
    low, high = _combined((1, -1), shares)
    evidence = f"{points(difference)} points below ({points(low)} to {points(high)}) at n={shares[0]['n']} each"
    return evidence, _decide(low, high, claim.margin or 0)


def _overfits(claim: Claim, documents: Documents, confidence: float) -> tuple[str, str]:
    trials = (claim.trial, claim.against or "")
    shares = [share for trial in trials for share in _train_validation(documents[trial], confidence)]
    train, validation, other_train, other_validation = (share["value"] for share in shares)
    gap, other = train - validation, other_train - other_validation
    low, high = _combined((1, -1, -1, 1), shares)
    evidence = (
        f"gaps of {points(gap)} and {points(other)} points, {points(gap - other)} more "
        f"({points(low)} to {points(high)}) at n={shares[0]['n']} and {shares[1]['n']}"
    )
    return evidence, _decide(low, high, 0)


def _combined(coefficients: tuple[int, ...], shares: list[dict[str, Any]]) -> Interval:
    return combine(coefficients, [s["value"] for s in shares], [(s["low"], s["high"]) for s in shares])


def _train_validation(document: dict[str, Any], confidence: float) -> list[dict[str, Any]]:
    training = document["training"]
    return [
        _share(training["at_stop"]["train_accuracy"], training["n_train"], confidence),
        _share(training["at_stop"]["val_accuracy"], training["n_validation"], confidence),
    ]


def paper_pairs(paper: Paper, confidence: float) -> list[dict[str, Any]]:
    """Return how sure the paper's own ranking is, from its accuracies alone.

    Without its predictions only bounds are known: Newcombe's interval takes the errors as independent, and the exact
    McNemar p lies between what most and least overlap of the errors would give.
    """
    n = paper.test.total
    accuracies = {name: value_and_unit(row.accuracy)[0] for name, row in paper.rows.items() if row.accuracy is not None}
    result = []
    for first, second in combinations(sorted(accuracies, key=lambda name: -accuracies[name]), 2):
        right = [round(accuracies[name] * n) for name in (first, second)]
        intervals: list[Interval] = [wilson(count, n, confidence) for count in right]
        low, high = combine((1, -1), [count / n for count in right], intervals)
        p_min, p_max = mcnemar_range(right[0], right[1], n)
        difference = (right[0] - right[1]) / n
        result.append(
            {
                "first": first,
                "second": second,
                "difference": round(difference, 6),
                "low": round(low, 6),
                "high": round(high, 6),
                "p_min": float(f"{p_min:.3g}"),
                "p_max": float(f"{p_max:.3g}"),
                "sentence": f"{_name(paper, first)} beats {_name(paper, second)} by {points(difference)} points "
                f"({points(low)} to {points(high)}), McNemar p from {p_min:.2g} to {p_max:.2g}",
            }
        )
    return result


def interval_text(metric: dict[str, Any]) -> str:
    """Print a metric as a per cent with its interval: "92.3% (88.7 to 94.8)"."""
    return f"{metric['value']:.1%} ({100 * metric['low']:.1f} to {100 * metric['high']:.1f})"


def table(comparison: dict[str, Any], documents: Documents) -> pd.DataFrame:
    """Return the CSV: one row per trial, each figure of the paper before ours."""
    rows = []
    for trial, document in documents.items():
        own = {item["quantity"]: item for item in comparison["quantities"] if item["trial"] == trial}
        row = {"trial": trial, "source": comparison["source"], "n": document["n"]["test"]}
        row |= {"low": own["accuracy"]["low"], "high": own["accuracy"]["high"], "verdict": own["accuracy"]["verdict"]}
        for name, item in own.items():
            row |= {f"paper_{name}": item["paper"], name: item["value"]}
        rows.append(row | {"best_epoch": document["training"]["best_epoch"]})
    columns = ["trial", "source", "n", "paper_accuracy", "accuracy", "low", "high", "verdict"]
    frame = pd.DataFrame(rows).astype({"paper_stopped_epoch": "Int64"})  # whole also where one is missing
    if not comparison["verdicts"]:
        frame["verdict"] = f"{comparison['source']}: no verdict"
    return frame[[*columns, *(name for name in frame.columns if name not in columns)]]


def markdown(comparison: dict[str, Any], paper: Paper) -> str:
    """Return the comparison as a page for a terminal or a pull request, at most 120 columns wide."""
    source, n, level = comparison["source"], comparison["n"]["test"], f"{comparison['confidence']:.0%}"
    mark = "" if comparison["verdicts"] else f" ({source})"
    warning = {
        "kaggle": "",
        "sample": "**Sample: drawn faces, not photographs. These numbers say nothing about the paper.**\n\n",
    }.get(source, f"**Data: {source}, not the paper's images. These numbers are no verdict on the paper.**\n\n")
    averaged = f"Precision, recall and F1 are {comparison['averaging']} averages (why: metrics/consistency.md). "
    page = [
        f"# Our trials beside the paper's{mark}",
        warning
        + _fill(
            f"Paper: {paper.title}; n={paper.test.total}. Ours: {source}, n={n} test images, {level} intervals. "
            + averaged
            + "Train and validation accuracy are the last epoch's, before the best weights are restored."
        ),
        _quantities_table(comparison),
        f"## Trials against each other{mark}",
        _fill(
            f"Accuracy on the same {n} test images: difference in points with its {level} bootstrap interval, "
            "exact McNemar p after Holm's correction."
        ),
        _bullets([pair["sentence"] for pair in comparison["pairs"]] or ["there is one trial only"]),
    ]
    if comparison["claims"]:
        page += [
            f"## The paper's claims{mark}",
            _bullets([_claim_text(claim, source) for claim in comparison["claims"]]),
        ]
    if comparison["paper_pairs"]:
        page += [
            "## The paper's own ranking",
            _fill(
                f"From its accuracies and n={paper.test.total} alone: {level} intervals as if errors were independent; "
                "the p-value depends on how far the trials err on the same images, which is not printed."
            ),
            _bullets([pair["sentence"] for pair in comparison["paper_pairs"]]),
        ]
    return "\n\n".join(page) + "\n"


def _claim_text(claim: dict[str, Any], source: str) -> str:
    found = claim["verdict"] or f"{source}: no verdict"
    at_n = " at this n" if found == "undecidable" else ""
    return f"{claim['claim']}: **{found}{at_n}**. {claim['evidence']}. Criterion: {claim['criterion']}."


def _quantities_table(comparison: dict[str, Any]) -> str:
    rows = []
    for item in comparison["quantities"]:
        epoch = item["quantity"] == "stopped_epoch"
        rows.append(
            {
                "trial": item["name"],
                "figure": item["title"],
                "paper": item["paper_text"] if item["paper"] is None or epoch else f"{item['paper']:.2%}",
                "ours": str(item["value"]) if epoch else f"{item['value']:.2%}",
                f"{comparison['confidence']:.0%} interval": (
                    "" if epoch else f"{100 * item['low']:.1f} to {100 * item['high']:.1f}"
                ),
                "n": "" if epoch else str(item["n"]),
                "verdict": (item["verdict"] or "") if comparison["verdicts"] else f"{comparison['source']}: no verdict",
            }
        )
    return pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True)


def _fill(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _bullets(texts: list[str]) -> str:
    return "\n".join(textwrap.fill(f"- {text}", WIDTH, subsequent_indent="  ") for text in texts)
