"""Decode every image once; record what it is, what cannot be read, and which images show the same thing."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import imagehash
import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from tqdm import tqdm

from faces.cli import InFile, InFolder, InputError, OutFile, run
from faces.files import write_atomically, write_json
from faces.images import decode as images
from faces.images import duplicates
from faces.naming import LABELS
from faces.params import Params, load_params
from faces.source.listing import list_classes, summary

CHUNK = 512  # images in memory at a time
LISTED = 20  # unreadable files named in the error message
Pixels = NDArray[np.uint8]


def main(
    data: Annotated[InFolder, typer.Argument(help="folder of the images, one folder a class")],
    weights: Annotated[InFile, typer.Argument(help="the pretrained network, whose features tell near duplicates")],
    out_images: Annotated[OutFile, typer.Option("--images", help="where to write the table of images, as CSV")],
    out_sheet: Annotated[OutFile, typer.Option("--sheet", help="where to write the data sheet, as JSON")],
) -> None:
    """Write the table of images and the data sheet."""
    params = load_params()
    listing = list_classes(data)
    paths, others = listing.images, [file.path for file in listing.left_out]
    if listing.left_out:
        print(f"left out {summary(listing.left_out)}")

    embed = None
    if params.weights.source != "random":  # features of random weights mean nothing
        from faces.training.embedding import embedder

        embed = embedder(weights)
    rows: list[dict[str, Any]] = []
    features: list[NDArray[np.float32]] = []
    for chunk_rows, pixels in _survey(data, paths, params):
        rows += chunk_rows
        if embed is not None:
            features.append(embed(pixels))
    table = pd.DataFrame(rows)
    _require_readable(table, params.audit.max_unreadable)

    readable = table[table.readable == 1].reset_index(drop=True)
    links, pairs, gap = _pairs(readable, np.concatenate(features) if features else None, params)
    first = duplicates.components(len(readable), links)
    table["group"] = table.path
    table.loc[table.readable == 1, "group"] = readable.path.to_numpy()[first]
    sheet = _data_sheet(table, pairs, gap, others, params)
    for pair in gap["undecided"] if gap else []:
        print(
            f"warning: whether {pair['a']} and {pair['b']} are linked hangs on rounding: their distance is within "
            f"{duplicates.ROUNDING} of audit.feature_distance; choose a threshold in a gap",
            file=sys.stderr,
        )

    write_atomically(out_images, table.to_csv(index=False, lineterminator="\n").encode())
    write_json(out_sheet, sheet)


def _survey(data: Path, paths: Sequence[str], params: Params) -> Iterator[tuple[list[dict[str, Any]], Pixels]]:
    """Yield the rows of some images at a time, and the pixels of the readable ones: uint8 [N, 3, H, W]."""
    size = params.audit.feature_size

    def examine(path: str) -> tuple[dict[str, Any], Pixels | None]:
        return _examine(data, path, params.audit.max_pixels, size)

    progress = tqdm(total=len(paths), desc="audit", unit="image", disable=None)
    with images.quiet(), ThreadPoolExecutor(os.cpu_count()) as pool, progress:
        for start in range(0, len(paths), CHUNK):
            examined = list(pool.map(examine, paths[start : start + CHUNK]))
            pixels = [array for _, array in examined if array is not None]
            yield [row for row, _ in examined], np.array(pixels, np.uint8).reshape(-1, 3, size, size)
            progress.update(len(examined))


def _examine(data: Path, path: str, max_pixels: int, size: int) -> tuple[dict[str, Any], Pixels | None]:
    label = path.partition("/")[0]
    row = {
        "path": path,
        "label": label,
        "y_true": LABELS.index(label),
        "format": "",
        "mode": "",
        "width": 0,
        "height": 0,
        "bytes": (data / path).stat().st_size,
        "readable": 0,
        "reason": "",
        "pixels_sha256": "",
        "hash": "",
    }
    try:
        header, image = images.read(data / path, max_pixels)
    except images.UnreadableError as error:
        return row | {"reason": error.reason} | (vars(error.header) if error.header else {}), None
    content = f"{image.width}x{image.height}:".encode() + image.tobytes()
    found = {
        "readable": 1,
        "pixels_sha256": hashlib.sha256(content).hexdigest(),
        "hash": str(imagehash.phash(image)),
    }
    return row | vars(header) | found, images.to_array(image, size)


def _require_readable(table: pd.DataFrame, max_unreadable: int) -> None:
    bad = table[table.readable == 0]
    if len(bad) > max_unreadable:
        named = [f"{row.path} ({row.reason})" for row in bad.head(LISTED).itertuples()]
        more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise InputError(
            f"{len(bad)} unreadable images, audit.max_unreadable allows {max_unreadable}: {', '.join(named)}{more}"
        )
    for label, rows in table.groupby("label"):
        if not rows.readable.any():
            raise InputError(f"class {label}: none of its {len(rows)} images can be read")


def _pairs(
    readable: pd.DataFrame, features: NDArray[np.float32] | None, params: Params
) -> tuple[NDArray[np.int64], list[dict[str, Any]], dict[str, Any] | None]:
    """Return the pairs of duplicates as rows of `readable` (int [P, 2]), what is known of each, and the gap.

    Of images with the same pixels only the first is compared with others. The gap (None without features) says
    which pairs lie nearest to `audit.feature_distance`, and whether rounding could decide one.
    """
    _, first, inverse = np.unique(readable.pixels_sha256, return_index=True, return_inverse=True)
    same = np.stack([first[inverse], np.arange(len(readable))], axis=1)
    hashes = np.array([int(text, 16) for text in readable["hash"]], np.uint64)

    distinct = np.sort(first)
    found = [same[same[:, 0] != same[:, 1]]]
    found.append(distinct[duplicates.hash_pairs(hashes[distinct], params.audit.hash_distance)])
    gap = None
    if features is not None:
        threshold = params.audit.feature_distance
        near, distances = duplicates.feature_pairs(features[distinct], threshold + duplicates.REACH)
        found.append(distinct[near[distances <= threshold]])
        gap = _gap(readable.path.to_numpy()[distinct[near]], distances, threshold)
    pairs = np.unique(np.concatenate(found), axis=0)

    bits = duplicates.hash_distances(hashes, pairs)
    cosines = None if features is None else duplicates.cosine_distances(features, pairs)
    by_hash = bits <= params.audit.hash_distance
    by_features = np.zeros(len(pairs), bool) if cosines is None else cosines <= params.audit.feature_distance
    facts = [
        {
            "a": str(readable.path[a]),
            "b": str(readable.path[b]),
            "same_pixels": bool(inverse[a] == inverse[b]),
            "near_by_hash": bool(by_hash[number]),
            "near_by_features": bool(by_features[number]),
            "hash_distance": int(bits[number]),
            "feature_distance": None if cosines is None else round(float(cosines[number]), 4),
        }
        for number, (a, b) in enumerate(pairs)
    ]
    return pairs, facts, gap


def _gap(paths: NDArray[Any], distances: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Return the pairs (paths: [P, 2]) around the threshold, and how far rounding can move a distance."""
    found = duplicates.gap(distances, threshold)

    def pair(number: int) -> dict[str, Any]:
        a, b = map(str, paths[number])
        return {"a": a, "b": b, "feature_distance": round(float(distances[number]), 5)}

    return {
        "below": None if found.below is None else pair(found.below),
        "above": None if found.above is None else pair(found.above),
        "margin": round(found.margin, 5),
        "rounding": duplicates.ROUNDING,
        "undecided": [pair(number) for number in found.undecided],
    }


def _data_sheet(
    table: pd.DataFrame, pairs: list[dict[str, Any]], gap: dict[str, Any] | None, others: list[str], params: Params
) -> dict[str, Any]:
    return {
        "source": params.data.kind,
        "dataset": params.data.dataset if params.data.kind == "kaggle" else None,
        "n": len(table),
        "n_readable": int(table.readable.sum()),
        "classes": {label: _class_facts(table[table.label == label]) for label in LABELS},
        "unreadable": table[table.readable == 0][["path", "reason"]].to_dict("records"),
        "other_files": others,
        "duplicates": _duplicate_facts(table[table.readable == 1], pairs, gap, params),
    }


def _duplicate_facts(
    readable: pd.DataFrame, pairs: list[dict[str, Any]], gap: dict[str, Any] | None, params: Params
) -> dict[str, Any]:
    group_of = dict(zip(readable.path, readable.group, strict=True))
    groups: dict[str, dict[str, list[Any]]] = {}
    for path, group in group_of.items():
        groups.setdefault(group, {"images": [], "pairs": []})["images"].append(path)
    for pair in pairs:
        groups[group_of[pair["a"]]]["pairs"].append(pair)
    several = {name: group for name, group in sorted(groups.items()) if len(group["images"]) > 1}

    max_bits = params.audit.hash_distance
    max_cosine = None if params.weights.source == "random" else params.audit.feature_distance
    near = [pair for pair in pairs if not pair["same_pixels"]]
    return {
        "thresholds": {"hash_distance": max_bits, "feature_distance": max_cosine},
        "gap": gap,
        "pairs": {
            "same_pixels": len(pairs) - len(near),
            "near_by_hash": sum(pair["near_by_hash"] for pair in near),
            "near_by_features": sum(pair["near_by_features"] for pair in near),
            "near_by_both": sum(pair["near_by_hash"] and pair["near_by_features"] for pair in near),
        },
        "groups": len(several),
        "images_in_groups": sum(len(group["images"]) for group in several.values()),
        "largest_group": max(len(group["images"]) for group in groups.values()),
        "cross_class_pairs": [p for p in pairs if p["a"].partition("/")[0] != p["b"].partition("/")[0]],
        "by_group": several,
    }


def _class_facts(rows: pd.DataFrame) -> dict[str, Any]:
    good = rows[rows.readable == 1]
    sizes = Counter(f"{row.width}x{row.height}" for row in good.itertuples())
    return {
        "images": len(rows),
        "readable": len(good),
        "formats": _counts(Counter(good.format)),
        "modes": _counts(Counter(good["mode"])),
        "suffixes": _counts(Counter(Path(path).suffix for path in good.path)),
        "sizes": _counts(sizes),
        "bytes": {
            "smallest": int(good.bytes.min()),
            "median": float(good.bytes.median()),
            "largest": int(good.bytes.max()),
            "total": int(good.bytes.sum()),
        },
    }


def _counts(counter: Counter[str]) -> dict[str, int]:
    """Return the most frequent values, most frequent first, and what the others sum to."""
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[LISTED:])
    return dict(ordered[:LISTED]) | ({"others": rest} if rest else {})


if __name__ == "__main__":
    run(main)
