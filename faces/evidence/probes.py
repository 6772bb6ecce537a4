"""Shortcut probes: how well simple models tell the classes apart from what is not the face.

What they get right, a network may get right the same way. Each probe sees some numbers of an image:
its file's size and format, its mean colour, how sharp it is, its border, or its corners. All but the first are also
seen of the picture that a run with aligned faces sees: what alignment takes away, no such run can use.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from faces.cli import InputError
from faces.evidence.documents import Beside, RunMetrics
from faces.evidence.estimate import Estimate
from faces.evidence.statistics import bootstrap
from faces.images import align
from faces.images import decode as images

Array = NDArray[np.float64]
THUMBNAIL = 16  # pixels a side; the outermost ring is the border, a quarter of each side makes a corner
ALL = "all five"  # the view that joins the others
ALIGNED, ALL_ALIGNED = "face aligned: ", "face aligned: all four"
ALIGNED_SIDE = 256  # pixels of the picture of an aligned face
MODELS = ("logistic regression", "random forest")
STRONGEST = (ALL, "random forest")  # the probe that the runs are set beside, image by image
TREES = 300


def describe(root: Path, table: pd.DataFrame) -> dict[str, Array]:
    """Return each probe's view of N images, float64 [N, numbers], and that of all of them joined.

    table: columns path, format, mode, width, height, bytes, as the audit writes them.
    """
    with images.quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = np.stack(list(pool.map(lambda path: _pixels(_read(root / path)), table.path)))
    kinds = pd.get_dummies(table["format"] + " " + table["mode"]).to_numpy(float)
    per_pixel = np.log(table.bytes / (table.width * table.height)).to_numpy(float)
    views = {"file": np.column_stack([np.log(table.bytes.to_numpy(float)), per_pixel, kinds]), **_views(seen)}
    return views | {ALL: np.concatenate(list(views.values()), axis=1)}


def describe_aligned(
    root: Path, paths: Sequence[str], landmarks: Mapping[str, align.Points], share: float
) -> dict[str, Array]:
    """Return the same views of the pictures that a run with aligned faces sees, but for the file's.

    share: of the side that the face takes, as in the run's recipe. An image without landmarks is seen whole, resized.
    """

    def seen_of(path: str) -> Array:
        image, points = _read(root / path), landmarks.get(path)
        pixels = (
            images.to_array(image, ALIGNED_SIDE)
            if points is None
            else align.to_array(image, ALIGNED_SIDE, points, share)
        )
        return _pixels(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))

    with images.quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = np.stack(list(pool.map(seen_of, paths)))
    views = {ALIGNED + name: view for name, view in _views(seen).items()}
    return views | {ALL_ALIGNED: np.concatenate(list(views.values()), axis=1)}


def _views(seen: Array) -> dict[str, Array]:
    ring, corners = _masks()
    thumbnails = seen[:, 4:].reshape(len(seen), THUMBNAIL, THUMBNAIL, 3)
    return {
        "colour": seen[:, :3],
        "blur": seen[:, 3:4],
        "border": thumbnails[:, ring].reshape(len(seen), -1),
        "corners": thumbnails[:, corners].reshape(len(seen), -1),
    }


def _read(path: Path) -> Image.Image:
    try:
        return images.read(path, max_pixels=2**62)[1]
    except images.UnreadableError as error:
        raise InputError(f"{path}: {error.reason}; run the audit again") from None


def _pixels(image: Image.Image) -> Array:
    """Return mean red, green, blue, the log of the Laplacian's variance, and a thumbnail's colours: [4 + 768]."""
    from scipy.ndimage import laplace

    colour = np.asarray(image, np.float64).mean(axis=(0, 1))
    sharpness = np.log1p(laplace(np.asarray(image.convert("L"), np.float64)).var())
    thumbnail = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.concatenate([colour, [sharpness], np.asarray(thumbnail, np.float64).ravel()])


def _masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pixels of a thumbnail are border, and which are corner."""
    ring = np.ones((THUMBNAIL, THUMBNAIL), bool)
    ring[1:-1, 1:-1] = False
    side = np.zeros(THUMBNAIL, bool)
    side[: THUMBNAIL // 4] = side[-(THUMBNAIL // 4) :] = True
    return ring, np.outer(side, side)


def folds(y_true: NDArray[np.int64], groups: Sequence[str], k: int, seed: int) -> NDArray[np.int64]:
    """Return each image's fold (0 ... k-1): stratified, groups of duplicates whole."""
    from sklearn.model_selection import StratifiedGroupKFold

    smallest = int(np.bincount(y_true, minlength=2).min())
    if smallest < k:
        raise InputError(f"probe.folds is {k}, but the smaller class has {smallest} images; lower it")
    fold = np.empty(len(y_true), np.int64)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(y_true, y_true, groups)):
        fold[held_out] = number
    return fold


def out_of_fold(view: Array, y_true: NDArray[np.int64], fold: NDArray[np.int64], model: str, seed: int) -> Array:
    """Return each image's probability of Down syndrome from a model that did not see its fold: [N]."""
    y_score = np.empty(len(y_true))
    for number in np.unique(fold):
        held_out = fold == number
        classifier = _classifier(model, seed).fit(view[~held_out], y_true[~held_out])
        y_score[held_out] = classifier.predict_proba(view[held_out])[:, 1]
    rounded: Array = y_score.round(6)
    return rounded


def _classifier(model: str, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if model == "logistic regression":
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return RandomForestClassifier(TREES, min_samples_leaf=3, random_state=seed)


def accuracies(
    right: NDArray[np.bool_], groups: Sequence[str], confidence: float, resamples: int, seed: int
) -> list[Estimate]:
    """Return the accuracy of M models whose answers to N images are right or not: [N, M].

    BCa bootstrap of whole groups, since duplicates are right or wrong together. The models stay as they were
    fitted: what another training set would have changed is not in the interval.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(group).astype(float)
    hits = np.stack([np.bincount(group, weights=column) for column in right.T], axis=1)  # [groups, M]

    def accuracy(weights: Array) -> Array:
        share: Array = (weights @ hits) / (weights @ sizes)[:, None]
        return share

    low, high = bootstrap(accuracy, np.zeros(len(sizes), np.int64), confidence, resamples, seed)
    method = f"BCa bootstrap of groups of duplicates, {resamples} resamples, models as fitted"
    return [
        Estimate.rounded(float(value), (float(a), float(b)), len(right), method)
        for value, a, b in zip(right.mean(axis=0), low, high, strict=True)
    ]


def beside(run: RunMetrics, predictions: pd.DataFrame, probe_right: "pd.Series[bool]", confidence: float) -> Beside:
    """Return a run's test accuracy, split by whether a probe is right on the image (`probe_right`, by path)."""
    test = predictions[predictions["subset"] == "test"].set_index("path")
    right = (test["y_score"] >= run.settings.threshold) == (test["y_true"] == 1)
    by_probe = probe_right.reindex(right.index)
    if by_probe.isna().any():
        raise InputError(f"the predictions of {run.run} hold images that the audit does not; run `dvc repro`")

    def where(is_right: bool) -> Estimate | None:
        there = right[by_probe == is_right]
        return Estimate.proportion(int(there.sum()), len(there), confidence) if len(there) else None

    return Beside(accuracy=run.metrics["accuracy"], where_probe_is_right=where(True), where_probe_is_wrong=where(False))
