"""One recipe on several splits: how far its results spread, and which images it gets wrong wherever they are held out.

`summarise` returns
    run, source, confidence
    splits       by split seed: n of test images, and the metrics of SHOWN as that split's document has them
    over_splits  for each metric of SHOWN: n (splits), mean, sd, min, max, low, high (t interval of the mean)
    held_out     images that at least one model scored without having been trained on them, validation and test alike;
                 metric: the share that the mean of these scores puts on the right side
    again        images held out at least TIMES times: n, and how many were wrong every time, and only sometimes
    suspects     those of them whose mean score is far on the other class's side, surest first

Splits overlap, so the interval of the mean holds the noise of training and of the choice of images, not that of other
data.
"""

from typing import Any

import numpy as np
import pandas as pd

from faces.cli import InputError
from faces.evidence.comparison import interval_text
from faces.evidence.metrics import THRESHOLD, Labels, proportions, subset
from faces.evidence.statistics import Array, spread, wilson
from faces.naming import LABELS

SHOWN = {  # name -> (title, where it stands in a run's document, if it does)
    "accuracy": ("accuracy", ("metrics", "accuracy")),
    "recall": ("recall, Down syndrome", ("metrics", "recall")),
    "specificity": ("specificity", ("metrics", "specificity")),
    "auroc": ("AUROC", ("metrics", "auroc")),
    "accuracy_chosen": ("accuracy at the threshold most accurate on validation", ()),
    "recall_at_point": ("recall at the operating point", ("operating_point", "test", "recall")),
    "specificity_at_point": ("specificity at the operating point", ("operating_point", "test", "specificity")),
}
TIMES = 2
SURE = 0.9  # mean probability of the other class


def summarise(
    documents: dict[int, dict[str, Any]], predictions: dict[int, pd.DataFrame], confidence: float
) -> dict[str, Any]:
    """Return the summary (its keys: this module's header) of one recipe's runs, by split seed.

    predictions: columns path, subset, y_true, y_score. Errors: InputError where runs differ in more than their split.
    """
    first = next(iter(documents.values()))
    for seed, document in documents.items():
        for key in ("recipe", "transforms", "seed"):
            if document["training"][key] != first["training"][key]:
                raise InputError(f"split {seed} was trained with other {key}; run `dvc repro` again")
    metrics = {
        seed: {
            name: _find(document, name) if where else _chosen(predictions[seed], confidence)
            for name, (_, where) in SHOWN.items()
        }
        for seed, document in documents.items()
    }
    scores = pd.concat(predictions.values())
    scores["wrong"] = (scores.y_score >= THRESHOLD) != (scores.y_true == 1)
    images = scores.groupby("path").agg(
        y_true=("y_true", "first"), y_score=("y_score", "mean"), times=("y_score", "size"), wrong=("wrong", "sum")
    )
    right = int(((images.y_score >= THRESHOLD) == (images.y_true == 1)).sum())
    low, high = wilson(right, len(images), confidence)
    images["other"] = images.y_score.where(images.y_true == 0, 1 - images.y_score)  # probability of the other class
    again = images[images.times >= TIMES]
    doubtful = again[again.other >= SURE].sort_values(["other", "path"], ascending=[False, True], kind="stable")
    return {
        "run": first["run"],
        "source": first["source"],
        "confidence": confidence,
        "splits": {str(seed): {"n": documents[seed]["n"]["test"], **metrics[seed]} for seed in documents},
        "over_splits": {
            name: _rounded(spread([metrics[seed][name]["value"] for seed in documents], confidence)) for name in SHOWN
        },
        "held_out": {
            "value": round(right / len(images), 6),
            "low": round(low, 6),
            "high": round(high, 6),
            "n": len(images),
            "method": "Wilson",
        },
        "again": {
            "n": len(again),
            "always_wrong": int((again.wrong == again.times).sum()),
            "sometimes_wrong": int(((again.wrong > 0) & (again.wrong < again.times)).sum()),
        },
        "suspects": [
            {
                "path": str(path),
                "label": LABELS[int(row.y_true)],
                "times_held_out": int(row.times),
                "other_class": round(float(row.other), 4),
            }
            for path, row in doubtful.iterrows()
        ],
    }


def _find(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: Any = document
    for key in SHOWN[name][1]:
        found = found[key]
    return dict(found)


def _chosen(predictions: pd.DataFrame, confidence: float) -> dict[str, Any]:
    """Return the test accuracy at the threshold that is most accurate on the validation subset."""
    threshold = most_accurate_threshold(*subset(predictions, "validation"))
    y_true, y_score = subset(predictions, "test")
    metric = proportions(y_true, y_score, threshold, confidence, ("accuracy",))["accuracy"]
    return metric | {"threshold": round(threshold, 6)}


def most_accurate_threshold(y_true: Labels, y_score: Array) -> float:
    """Return the score at or above which calling an image Down syndrome is right most often; the middle one of several.

    y_true [N] of 0 and 1, y_score [N].
    """
    candidates = np.unique(y_score)
    right = ((y_score >= candidates[:, None]) == (y_true == 1)).sum(axis=1)  # [candidates]
    best = candidates[right == right.max()]
    return float(best[len(best) // 2])


def _rounded(values: dict[str, float | int | None]) -> dict[str, float | int | None]:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}


def markdown(summary: dict[str, Any], target_recall: float) -> str:
    """Return the summary as a page: a row for each split, mean and spread, and the suspects by file name."""
    mark = "" if summary["source"] == "kaggle" else f" ({summary['source']}: not the paper's data)"
    name = summary["run"].removeprefix("trials.")
    rows = [
        {"split seed": seed, "n": split["n"]} | {SHOWN[key][0]: _metric(key, split[key]) for key in SHOWN}
        for seed, split in summary["splits"].items()
    ]
    over = summary["over_splits"]
    rows.append({"split seed": "mean", "n": ""} | {SHOWN[key][0]: _mean(key, over[key]) for key in SHOWN})
    rows.append({"split seed": "sd", "n": ""} | {SHOWN[key][0]: _plain(key, over[key]["sd"]) for key in SHOWN})
    held_out, again, suspects = summary["held_out"], summary["again"], summary["suspects"]
    lines = [
        f"# The recipe `{name}` on {len(summary['splits'])} splits{mark}",
        "",
        pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True),
        "",
        f"Test subset, {summary['confidence']:.0%} intervals: a split's hold the noise of its test images, the mean's "
        f"the noise between splits (t). The operating point is the threshold for a recall of {target_recall:.0%} on "
        "that split's validation images.",
        "",
        f"The mean of the scores that an image got from models not trained on it (validation or test) is on the right "
        f"side for {interval_text(held_out)}, n = {held_out['n']}. Of the {again['n']} images held out at least "
        f"{TIMES} times, {again['always_wrong']} were wrong every time and {again['sometimes_wrong']} only sometimes: "
        "the former are what another training on other images of this set does not mend.",
        "",
        "## Images that may carry the wrong label",
        "",
        f"Held out at least {TIMES} times and, in the mean, at least {SURE:.0%} sure of the other class: "
        f"{len(suspects) or 'none'}.",
    ]
    if suspects:
        table = [
            {
                "image": f"`{row['path']}`",
                "label": row["label"].replace("_", " "),
                "times held out": row["times_held_out"],
                "mean probability of the other class": f"{row['other_class']:.3f}",
            }
            for row in suspects
        ]
        lines += ["", pd.DataFrame(table).to_markdown(index=False, disable_numparse=True)]
    return "\n".join(lines) + "\n"


def _metric(key: str, metric: dict[str, Any]) -> str:
    if key == "auroc":
        return "{value:.3f} ({low:.3f} to {high:.3f})".format(**metric)
    return interval_text(metric)


def _mean(key: str, over: dict[str, Any]) -> str:
    if over["low"] is None:
        return _plain(key, over["mean"])
    return _metric(key, {"value": over["mean"], "low": max(over["low"], 0.0), "high": min(over["high"], 1.0)})


def _plain(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if key == "auroc" else f"{value:.1%}"
