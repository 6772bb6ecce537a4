"""Group the images that may show one child, class by class, and check the groups by file numbers."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from faces.children.check import Check, by_similarity, sizes
from faces.children.groups import Forest, joined, similar_pairs
from faces.children.sessions import Sessions, file_numbers
from faces.cli import InFile, InputError, OutFile, run
from faces.files import write_atomically, write_json
from faces.naming import LABELS
from faces.params import Params, load_params

SETTINGS = ("children", "strict")
MARGIN_DIGITS = 6  # of a distance between similarities; processors differ in the eighth


def main(
    images: Annotated[InFile, typer.Argument(help="the audit's table of images")],
    embeddings: Annotated[InFile, typer.Argument(help="the faces' embeddings")],
    landmarks: Annotated[InFile, typer.Argument(help="the faces' boxes and landmarks")],
    groups: Annotated[OutFile, typer.Option(help="where to write each image's groups by file name, as CSV")],
    facts: Annotated[OutFile, typer.Option(help="where to write counts, distributions and estimates, as JSON")],
) -> None:
    """Write for each readable image the first image of its group, by each setting; duplicates stay together in all."""
    params = load_params()
    table, vectors = _read(images, embeddings, landmarks)
    label = table.path.str.partition("/")[0].to_numpy()
    duplicates = np.searchsorted(table.path, table.group)
    with_face = np.flatnonzero(table.faces > 0)
    found, similarity = similar_pairs(vectors[with_face], params.group.floor)
    pairs = with_face[found]  # rows of the table, as all that follows

    across = label[pairs[:, 0]] != label[pairs[:, 1]]
    rows = {name: with_face[label[with_face] == name] for name in LABELS}
    inside = {name: ~across & (label[pairs[:, 0]] == name) for name in LABELS}
    local = {name: np.searchsorted(rows[name], pairs[inside[name]]) for name in LABELS}
    forests = {name: Forest.grow(vectors[rows[name]], local[name], params.group.linkage) for name in LABELS}
    grouped = {}
    for setting in SETTINGS:
        thresholds = getattr(params.group, setting)
        alike = np.arange(len(table))
        for name in LABELS:
            alike[rows[name]] = rows[name][forests[name].cut(getattr(thresholds, name))]
        grouped[setting] = joined([duplicates, alike], pairs[across & (similarity >= params.group.across)])

    classes: dict[str, dict[str, Any]] = {}
    for name in LABELS:
        mine = rows[name]
        numbers = file_numbers(table.path.iloc[mine].tolist())
        sessions = Sessions.of(
            numbers, grouped["children"][mine], params.group.window, params.evaluate.resamples, params.evaluate.seed
        )
        check = Check(
            vectors[mine],
            duplicates[mine],
            local[name],
            similarity[inside[name]],
            sessions,
            getattr(params.group.reference, name),
            params.evaluate.confidence,
        )
        classes[name] = check.facts(params.group.floor, params.evaluate.seed)
        classes[name]["settings"] = {
            setting: {
                "threshold": threshold,
                "nearest_merge": _rounded(forests[name].margin(threshold)),
                **check.of_groups(grouped[setting][mine]),
            }
            for setting in SETTINGS
            for threshold in [getattr(getattr(params.group, setting), name)]
        }

    names = table.path.to_numpy()
    columns = {"path": names, "duplicates": names[duplicates], **{key: names[group] for key, group in grouped.items()}}
    write_atomically(groups, pd.DataFrame(columns).to_csv(index=False, lineterminator="\n").encode())
    write_json(facts, _document(params, table, label, duplicates, grouped, similarity[across]) | {"classes": classes})


def _rounded(distance: float | None) -> float | None:
    return None if distance is None else round(distance, MARGIN_DIGITS)


def _read(images: Path, embeddings: Path, landmarks: Path) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return path, group (of duplicates) and faces of each readable image, by path, and their embeddings [N, D]."""
    table = pd.read_csv(images, keep_default_na=False)
    table = table.loc[table.readable == 1, ["path", "group"]].sort_values("path", ignore_index=True)
    places, vectors = pd.read_csv(landmarks), np.load(embeddings)
    if len(vectors) != len(table) or places.path.tolist() != table.path.tolist():
        raise InputError(f"{landmarks} or {embeddings} is of other images than {images}; run `dvc repro`")
    return table.assign(faces=places.faces), vectors


def _document(
    params: Params,
    table: pd.DataFrame,
    label: NDArray[np.str_],
    duplicates: NDArray[np.int64],
    groups: dict[str, NDArray[np.int64]],
    across: NDArray[np.float64],
) -> dict[str, Any]:
    """Return what is known of all images together; across: similarities of the pairs across the classes."""
    return {
        "source": params.data.kind,
        "n": len(table),
        "with_a_face": int((table.faces > 0).sum()),
        "linkage": params.group.linkage,
        "confidence": params.evaluate.confidence,
        "pairs_across_classes": by_similarity(across, params.group.floor),
        "groups": {
            name: {
                **sizes(group),
                "of_both_classes": int((pd.Series(label).groupby(group).nunique() > 1).sum()),
            }
            for name, group in {"duplicates": duplicates, **groups}.items()
        },
    }


if __name__ == "__main__":
    run(main)
