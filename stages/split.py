"""Divide the readable images into training, validation and test subsets that share no group of images."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from faces.cli import InFile, InputError, OutFile, run
from faces.files import write_atomically, write_json
from faces.images import splits
from faces.params import Shares, Split, load_params

LEAKY_SPLITS = 20
Z = 1.96  # of a 95% interval
TRUSTED, EVEN = 0.8, 0.8  # below this lower limit, above this share of one class, there is a warning


def main(
    name: Annotated[str, typer.Argument(help="the split in params.yaml: splits")],
    images: Annotated[InFile, typer.Argument(help="the audit's table of images")],
    out: Annotated[OutFile, typer.Argument(help="where to write each image's subset, as CSV")],
    groups: Annotated[InFile, typer.Option(help="each image's groups: duplicates, or what may be one child's")],
    facts: Annotated[OutFile, typer.Option(help="where to write the counts, as JSON")],
) -> None:
    """Write each image's subset (and fold), and a Table I of our own beside the paper's."""
    params = load_params()
    shares, split = params.split, params.splits[name]
    table = pd.read_csv(images, keep_default_na=False)
    table = table.loc[table.readable == 1, ["path", "label", "y_true"]].sort_values("path")
    table["group"] = _groups(table.path, groups, split.groups)
    rows = [splits.Image(*row) for row in table[["path", "label", "group"]].itertuples(index=False)]
    totals = Counter(row.label for row in rows)

    if split.scheme == "folders":
        subset = splits.by_folder(rows)
        quotas = {label: _count(rows, label, subset, len(splits.SUBSETS)) for label in splits.TABLE_1}
    else:
        quotas = {label: _quota(label, totals[label], shares, split.scheme) for label in splits.TABLE_1}
        subset = splits.assign(rows, quotas, split.seed, "subset")
    _check_spread(rows, subset, splits.SUBSETS, split.scheme, split.groups)
    table["subset"] = [splits.SUBSETS[part] for part in subset]
    if shares.folds:
        equal = {label: splits.counts(totals[label], [1] * shares.folds) for label in splits.TABLE_1}
        table["fold"] = fold = splits.assign(rows, equal, split.seed, "fold")
        _check_spread(rows, fold, [f"fold {number}" for number in range(shares.folds)], "folds", split.groups)
    counts = _facts(table, quotas, split, shares.folds, params.data.kind)
    counts["ignoring_groups"] = _leak(rows, quotas)
    if warnings := _warnings(table, split):
        counts["warnings"] = warnings
        for line in warnings:
            print(f"warning: {name}: {line}", file=sys.stderr)

    write_atomically(out, table.to_csv(index=False, lineterminator="\n").encode())
    write_json(facts, counts)


def _groups(paths: "pd.Series[str]", groups: Path, kind: str) -> "pd.Series[str]":
    found = paths.map(pd.read_csv(groups, keep_default_na=False, index_col="path")[kind])
    if found.isna().any():
        raise InputError(f"{groups} has no {paths[found.isna()].iloc[0]}; run `dvc repro` to make it again")
    return found


def _quota(label: str, n: int, shares: Shares, scheme: str) -> list[int]:
    parts = [shares.train, shares.validation, shares.test]
    quota = splits.paper_counts(label, n) if scheme == "paper" else splits.counts(n, parts)
    for subset, count in zip(splits.SUBSETS, quota, strict=True):
        if count < 1:
            raise InputError(f"class {label}: its {n} readable images leave none for the {subset} subset; add images")
    return quota


def _count(rows: list[splits.Image], label: str, parts: list[int], n: int) -> list[int]:
    counts = Counter(part for row, part in zip(rows, parts, strict=True) if row.label == label)
    return [counts[part] for part in range(n)]


def _check_spread(rows: list[splits.Image], parts: list[int], names: Sequence[str], scheme: str, kind: str) -> None:
    """Refuse a class that is missing in a part: what is trained or measured there would mean nothing."""
    for label in splits.TABLE_1:
        counts = _count(rows, label, parts, len(names))
        if 0 in counts:
            groups = len({row.group for row in rows if row.label == label})
            got = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
            mend = "add images of other scenes, or lower audit.hash_distance and audit.feature_distance"
            if kind != "duplicates":
                mend = f"add images of other children, or raise the similarities of group.{kind}"
            if scheme == "folders":
                mend = "split.scheme folders takes the source's own folders as they are; use stratified"
            raise InputError(
                f"class {label}: {sum(counts)} images in {groups} groups of {kind} leave a part empty ({got}); {mend}"
            )


def _warnings(table: pd.DataFrame, split: Split) -> list[str]:
    """Say what is right, but easily misread: small or uneven test subsets, a split of the source's own."""
    found = []
    test = Counter(table[table.subset == "test"].label)
    for label, metric in (("down_syndrome", "recall"), ("healthy", "specificity")):
        lowest = test[label] / (test[label] + Z**2)  # of Wilson's interval, if all are right
        if lowest < TRUSTED:
            found.append(
                f"{test[label]} test images of the class {label}: even if all were right, the 95% interval of "
                f"the {metric} would reach down to {lowest:.0%}"
            )
    largest, n = test.most_common(1)[0]
    if n > EVEN * test.total():
        found.append(
            f"{n} of {test.total()} test images are {largest}: always to answer {largest} is right on "
            f"{n / test.total():.0%} of them; read recall, specificity and AUROC, not accuracy"
        )
    own = Counter(path.split("/")[1] for path in table.path if path.count("/") > 1)
    across = int((table.groupby("group").subset.nunique() > 1).sum())
    if own and split.scheme != "folders":
        counts = ", ".join(f"{subset} {own[subset]}" for subset in splits.SUBSETS)
        found.append(f"the split of the source's own folders ({counts}) is not used; scheme: folders uses it")
    if across:
        found.append(
            f"{across} groups of {split.groups} lie in several subsets; the scheme stratified keeps them together"
        )
    return found


def _facts(table: pd.DataFrame, quotas: dict[str, list[int]], split: Split, folds: int, source: str) -> dict[str, Any]:
    groups = table.groupby("group")
    sizes = groups.size()
    facts: dict[str, Any] = {
        "source": source,
        "scheme": split.scheme,
        "seed": split.seed,
        "grouped_by": split.groups,
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
