"""Ask how much of the accuracy could come from shortcuts: models that see no face, beside those that do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from faces import probes
from faces.cli import InputError, run
from faces.files import write_atomically, write_json
from faces.params import load_params


def main(
    data: Path,
    images: Path,
    splits: Path,
    trials: Path,
    out_json: Path,
    out_markdown: Path,
    out_predictions: Path,
) -> None:
    """Write each probe's cross-validated accuracy, on all images and on the test subset, beside the trials'."""
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
    predictions = table[["path", "y_true"]].assign(y_score=scores[probes.ALL, "random forest"])

    write_json(out_json, facts)
    write_atomically(out_markdown, _markdown(facts).encode())
    text = predictions.to_csv(index=False, lineterminator="\n", float_format="%.6f")
    write_atomically(out_predictions, text.encode())


def _trials(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        accuracy = json.loads(path.read_text(encoding="utf-8"))["metrics"]["accuracy"]
        found[path.stem] = {key: accuracy[key] for key in ("value", "low", "high", "n")}
    if not found:
        raise InputError(f"{folder} holds no trial's metrics (*.json) to compare with; run dvc repro")
    return found


def _summary(rows: list[dict[str, Any]], real: dict[str, dict[str, Any]]) -> str:
    probe = max(rows, key=lambda row: row["accuracy"]["value"])
    trial = max(real, key=lambda name: real[name]["value"])
    seen, best = probe["accuracy"], real[trial]
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
    for trial, accuracy in facts["trials"].items():
        lines.append(f"| the whole picture | {trial}, ResNet-34 | - | {_percent(accuracy)} |")
    lines += ["", "What each probe sees:", ""]
    lines += [f"- {view}: {what}" for view, what in probes.SEES.items()]
    lines += [
        "",
        f"Each image is judged by models that saw neither it nor its duplicates: {facts['folds']}-fold "
        f"cross-validation, stratified, groups whole, seed {facts['seed']}. In brackets: {facts['interval']}. "
        f"Always guessing the larger class: {facts['guessing']:.1%}.",
    ]
    return "\n".join(lines) + "\n"


def _percent(accuracy: dict[str, Any]) -> str:
    return f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%}), n = {accuracy['n']}"


if __name__ == "__main__":
    run(main)
