"""Divide the readable images into training, validation and test subsets that share no group of duplicates."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from faces.cli import InputError, run
from faces.files import write_atomically, write_json
from faces.images import splits
from faces.params import Shares, Split, load_params

LEAKY_SPLITS = 20


def main(
    name: Annotated[str, typer.Argument(help="the split in params.yaml: splits")],
    images: Path,
    out: Path,
    facts: Annotated[Path, typer.Option(help="where to write the counts, as JSON")],
) -> None:
    """Write each image's subset (and fold), and a Table I of our own beside the paper's."""
    params = load_params()
    shares, split = params.split, params.splits[name]
    table = pd.read_csv(images, keep_default_na=False)
    table = table.loc[table.readable == 1, ["path", "label", "y_true", "group"]].sort_values("path")
    rows = [splits.Image(*row) for row in table[["path", "label", "group"]].itertuples(index=False)]
    totals = Counter(row.label for row in rows)

    quotas = {label: _quota(label, totals[label], shares, split.scheme) for label in splits.TABLE_1}
    subset = splits.assign(rows, quotas, split.seed, "subset")
    table["subset"] = [splits.SUBSETS[part] for part in subset]
    if shares.folds:
        equal = {label: splits.counts(totals[label], [1] * shares.folds) for label in splits.TABLE_1}
        table["fold"] = splits.assign(rows, equal, split.seed, "fold")
    counts = _facts(table, quotas, split, shares.folds, params.data.kind)
    counts["ignoring_groups"] = _leak(rows, quotas)

    write_atomically(out, table.to_csv(index=False, lineterminator="\n").encode())
    write_json(facts, counts)


def _quota(label: str, n: int, shares: Shares, scheme: str) -> list[int]:
    parts = [shares.train, shares.validation, shares.test]
    quota = splits.paper_counts(label, n) if scheme == "paper" else splits.counts(n, parts)
    for subset, count in zip(splits.SUBSETS, quota, strict=True):
        if count < 1:
            raise InputError(f"class {label}: its {n} readable images leave none for the {subset} subset; add images")
    return quota


def _facts(table: pd.DataFrame, quotas: dict[str, list[int]], split: Split, folds: int, source: str) -> dict[str, Any]:
    groups = table.groupby("group")
    sizes = groups.size()
    facts: dict[str, Any] = {
        "source": source,
        "scheme": split.scheme,
        "seed": split.seed,
        "n": len(table),
        "groups": {
            "n": len(sizes),
            "of_several_images": int((sizes > 1).sum()),
            "largest": int(sizes.max()),
            "of_both_classes": int((groups.label.nunique() > 1).sum()),
            "in_several_subsets": int((groups.subset.nunique() > 1).sum()),
        },
        "subsets": {subset: _row(table[table.subset == subset], len(table)) for subset in splits.SUBSETS},
        "paper": {
            subset: {label: counts[number] for label, counts in splits.TABLE_1.items()}
            for number, subset in enumerate(splits.SUBSETS)
        },
        "off_target": _off_target(table, quotas),
    }
    if split.scheme == "paper":
        facts["off_paper"] = _off_target(table, splits.TABLE_1)
    if folds:
        facts["folds"] = {str(fold): _row(table[table.fold == fold], len(table)) for fold in range(folds)}
    return facts


def _leak(rows: list[splits.Image], quotas: dict[str, list[int]]) -> dict[str, Any]:
    """Count the test images whose duplicate would be in training if groups were ignored, over several such splits.

    Their share of the test subset bounds what the leak could add to a test accuracy.
    """
    alone = [row._replace(group=row.path) for row in rows]
    leaked = []
    for seed in range(LEAKY_SPLITS):
        part = splits.assign(alone, quotas, seed, "subset")
        trained = {row.group for row, number in zip(rows, part, strict=True) if splits.SUBSETS[number] == "train"}
        tested = [row.group for row, number in zip(rows, part, strict=True) if splits.SUBSETS[number] == "test"]
        leaked.append(sum(group in trained for group in tested))
    n = sum(quota[splits.SUBSETS.index("test")] for quota in quotas.values())
    mean = sum(leaked) / len(leaked)
    return {
        "splits": LEAKY_SPLITS,
        "n_test": n,
        "leaked_test_images": {"mean": round(mean, 2), "min": min(leaked), "max": max(leaked)},
        "at_most_points_of_accuracy": round(100 * mean / n, 2),
    }


def _row(rows: pd.DataFrame, n: int) -> dict[str, Any]:
    labels = {label: int((rows.label == label).sum()) for label in splits.TABLE_1}
    return {**labels, "n": len(rows), "share": round(len(rows) / n, 4), "groups": rows.group.nunique()}


def _off_target(table: pd.DataFrame, targets: Any) -> list[dict[str, Any]]:
    """Return the counts that differ from what was wanted: none, if the single images could even out the groups."""
    off = []
    for label, target in targets.items():
        for subset, wanted in zip(splits.SUBSETS, target, strict=True):
            count = int(((table.label == label) & (table.subset == subset)).sum())
            if count != wanted:
                off.append({"label": label, "subset": subset, "wanted": wanted, "is": count})
    return off


if __name__ == "__main__":
    run(main)
