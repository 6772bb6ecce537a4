"""Ask how much of the accuracy could come from shortcuts: models that see no face, beside those that do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from faces.cli import InputError, run
from faces.evidence import probes
from faces.evidence.metrics import read_predictions
from faces.evidence.statistics import wilson
from faces.files import write_atomically, write_json
from faces.params import load_params

OF_EVERYTHING = (probes.ALL, "random forest")
WHERE = ("where_probe_is_right", "where_probe_is_wrong")


def main(
    data: Path,
    images: Path,
    splits: Path,
    trials: Path,
    predictions: Path,
    out_json: Path,
    out_markdown: Path,
    out_predictions: Path,
) -> None:
    """Write each probe's cross-validated accuracy, on all images and on the test subset, beside the trials'.

    Each trial also where the probe of everything is right, and where it is wrong: a trial that took the same shortcuts
    would fail where the probe fails.
    """
    params = load_params()
    table = pd.read_csv(images, keep_default_na=False)
    subset = pd.read_csv(splits, keep_default_na=False)[["path", "subset"]]
    table = table[table.readable == 1].merge(subset, on="path", validate="one_to_one").sort_values("path")
    tests = (table.subset == "test").to_numpy()
    y_true = table.y_true.to_numpy()
    real = _trials(trials)

    views = probes.describe(data, table)
    fold = probes.folds(y_true, list(table.group), params.probe.folds, params.probe.seed)
    scores = {
        (view, model): probes.out_of_fold(numbers, y_true, fold, model, params.probe.seed)
        for view, numbers in views.items()
        for model in probes.MODELS
    }
    right = np.stack([(score >= 0.5) == (y_true == 1) for score in scores.values()], axis=1)
    settings = (params.evaluate.confidence, params.evaluate.resamples, params.probe.seed)
    on_all = probes.accuracies(right, list(table.group), *settings)
    on_test = probes.accuracies(right[tests], list(table.group[tests]), *settings)
    rows = [
        {"sees": view, "model": model, "accuracy": all_images, "accuracy_on_test": test_images}
        for (view, model), all_images, test_images in zip(scores, on_all, on_test, strict=True)
    ]
    probe_right = pd.Series(right[:, list(scores).index(OF_EVERYTHING)], index=table["path"])
    for name, trial in real.items():
        settled = _test_right(predictions / f"{name}.csv", trial.pop("threshold"))
        trial |= _where(settled, probe_right, params.evaluate.confidence)
    facts = {
        "source": params.data.kind,
        "n": len(table),
        "folds": params.probe.folds,
        "seed": params.probe.seed,
        "interval": f"{params.evaluate.confidence:.0%}, BCa bootstrap of groups of duplicates, models as fitted",
        "guessing": round(float(np.bincount(y_true).max() / len(y_true)), 4),
        "probes": rows,
        "trials": real,
        "summary": _summary(rows, real),
    }
    answers = table[["path", "y_true"]].assign(y_score=scores[OF_EVERYTHING])

    write_json(out_json, facts)
    write_atomically(out_markdown, _markdown(facts).encode())
    text = answers.to_csv(index=False, lineterminator="\n", float_format="%.6f")
    write_atomically(out_predictions, text.encode())


def _trials(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        accuracy = {key: document["metrics"]["accuracy"][key] for key in ("value", "low", "high", "n")}
        found[path.stem] = {"accuracy": accuracy, "threshold": document["settings"]["threshold"]}
    if not found:
        raise InputError(f"{folder} holds no trial's metrics (*.json) to compare with; run dvc repro")
    return found


def _test_right(predictions: Path, threshold: float) -> "pd.Series[bool]":
    """Return whether a trial's decision on each test image is right, by path."""
    test = read_predictions(predictions).query("subset == 'test'").set_index("path")
    return (test["y_score"] >= threshold) == (test["y_true"] == 1)


def _where(
    right: "pd.Series[bool]", probe_right: "pd.Series[bool]", confidence: float
) -> dict[str, dict[str, float] | None]:
    """Return a trial's accuracy on the images that the probe gets right and on those that it gets wrong."""
    by_probe = probe_right.reindex(right.index)
    if by_probe.isna().any():
        raise InputError("the predictions hold images that the audit does not; run dvc repro")
    return {
        key: _share(right[by_probe == is_right].to_numpy(dtype=bool), confidence)
        for key, is_right in zip(WHERE, (True, False), strict=True)
    }


def _share(right: npt.NDArray[np.bool_], confidence: float) -> dict[str, float] | None:
    if not len(right):
        return None
    low, high = wilson(int(right.sum()), len(right), confidence)
    return {"value": round(float(right.mean()), 4), "low": round(low, 4), "high": round(high, 4), "n": len(right)}


def _summary(rows: list[dict[str, Any]], real: dict[str, dict[str, Any]]) -> str:
    probe = max(rows, key=lambda row: row["accuracy"]["value"])
    trial = max(real, key=lambda name: real[name]["accuracy"]["value"])
    seen, best = probe["accuracy"], real[trial]["accuracy"]
    sentence = (
        f"Without seeing a face, the strongest probe ({probe['sees']}, {probe['model']}) is right on "
        f"{seen['value']:.1%} ({seen['low']:.1%} to {seen['high']:.1%}) of {seen['n']} images; "
        f"{trial} is right on {best['value']:.1%} of {best['n']} test images."
    )
    by_probe, by_trial = (100 * (value - 0.5) for value in (seen["value"], best["value"]))
    if min(by_probe, by_trial) <= 0:
        return sentence
    return sentence + (
        f" Of the {by_trial:.1f} points by which that beats a coin, shortcuts alone could explain up to "
        f"{min(by_probe, by_trial):.1f} ({min(by_probe / by_trial, 1):.0%}); whether the network uses them, this "
        "does not show."
    )


def _markdown(facts: dict[str, Any]) -> str:
    sample = " (sample: drawn faces)" if facts["source"] == "sample" else ""
    lines = [
        f"# Shortcut probes{sample}",
        "",
        facts["summary"],
        "",
        "| sees | model | accuracy, all images | accuracy, test subset |",
        "|---|---|---|---|",
    ]
    for row in facts["probes"]:
        lines.append(
            f"| {row['sees']} | {row['model']} | {_percent(row['accuracy'])} | {_percent(row['accuracy_on_test'])} |"
        )
    for name, trial in facts["trials"].items():
        lines.append(f"| the whole picture | {name}, ResNet-34 | - | {_percent(trial['accuracy'])} |")
    lines += [
        "",
        f"Where the {OF_EVERYTHING[1]} that sees all together is right, and where it is wrong, on the test subset:",
        "",
        "| trial | accuracy where the probe is right | where it is wrong |",
        "|---|---|---|",
    ]
    for name, trial in facts["trials"].items():
        where = (_percent(trial[key]) if trial[key] else "no such image" for key in WHERE)
        lines.append(f"| {name} | {' | '.join(where)} |")
    lines += ["", "What each probe sees:", ""]
    lines += [f"- {view}: {what}" for view, what in probes.SEES.items()]
    lines += [
        "",
        f"Each image is judged by models that saw neither it nor its duplicates: {facts['folds']}-fold "
        f"cross-validation, stratified, groups whole, seed {facts['seed']}. In brackets: {facts['interval']}; for "
        "the trials Wilson's. "
        f"Always guessing the larger class: {facts['guessing']:.1%}.",
    ]
    return "\n".join(lines) + "\n"


def _percent(accuracy: dict[str, Any]) -> str:
    return f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%}), n = {accuracy['n']}"


if __name__ == "__main__":
    run(main)
