"""Recall by similarity and by kind of split: planted effects are found, clusters widen intervals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import norm

from ci.demo import overlay
from faces.cli import InputError
from faces.evidence import children
from faces.evidence.documents import read_document
from faces.evidence.statistics import wilson
from faces.pages import children as pages
from faces.params import Evaluate, Run, Split
from stages import children as stage

EVALUATE = Evaluate(confidence=0.95, resamples=300, seed=1, recall=0.98)
COMMITTED = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
RUNS = {
    "duplicates": {"1": "a1", "2": "a2", "3": "a3"},
    "children": {"1": "b1", "2": "b2", "3": "b3"},
}


@given(st.integers(0, 200), st.integers(1, 200))
def test_where_each_group_is_one_image_the_interval_is_wilsons(right: int, wrong: int) -> None:
    n = right + wrong
    found = children.clustered(np.array([1.0] * right + [0.0] * wrong), np.ones(n), n, 0.95)
    share, size = right / n, n - 1 if right else n  # n - 1: the variance between the groups is estimated
    z = norm.ppf(0.975)
    middle = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * (share * (1 - share) / size + z**2 / (4 * size**2)) ** 0.5
    assert found.value == pytest.approx(share, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=2e-6)


def test_groups_that_stand_or_fall_together_count_as_one() -> None:
    right = np.array([8.0, 0.0] * 20)
    together = children.clustered(right, np.full(40, 8.0), 320, 0.95)
    low, high = wilson(20, 40, 0.95)
    assert (together.value, together.n) == (0.5, 320)
    assert together.low == pytest.approx(low, abs=0.01)
    assert together.high == pytest.approx(high, abs=0.01)
    perfect = children.clustered(np.full(40, 8.0), np.full(40, 8.0), 320, 0.95)
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low == pytest.approx(wilson(40, 40, 0.95)[0], abs=1e-6)
    nothing = children.clustered(np.empty(0), np.empty(0), 0, 0.95)
    assert (nothing.low, nothing.high, nothing.n) == (0, 1, 0)


def planted(seen_gain: float, n: int = 400) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return predictions by run, and the images in groups of two; a face like a training face is found more often."""
    paths = np.array([f"{'healthy' if i % 2 else 'down_syndrome'}/{i:04}.jpg" for i in range(n)])
    groups = pd.DataFrame({"group": [paths[i - i % 4 + i % 2] for i in range(n)]}, index=paths)
    found = {}
    for kind, by_seed in RUNS.items():
        for seed, name in by_seed.items():
            rng = np.random.default_rng([int(seed), kind == "children"])
            out = np.sort(rng.permutation(n)[: n // 2])
            seen = rng.random(len(out)) < (0.5 if kind == "duplicates" else 0)
            right = rng.random(len(out)) < np.where(seen, 0.75 + seen_gain, 0.75)
            y_true = 1 - out % 2
            found[name] = pd.DataFrame(
                {
                    "path": paths[out],
                    "subset": np.where(np.arange(len(out)) % 3 == 0, "test", "validation"),
                    "y_true": y_true,
                    "y_score": np.where(right, y_true, 1 - y_true) * 0.8 + 0.1,
                    "nearest": np.where(seen, 0.8, 0.55),
                    "seen_children": seen,
                    "seen_strict": seen,
                }
            )
    return found, groups


def summary(predictions: dict[str, pd.DataFrame], groups: pd.DataFrame) -> children.Recipe:
    return children.summarise(RUNS, predictions, groups, ("children", "strict"), EVALUATE)


def test_what_a_child_seen_in_training_adds_is_found() -> None:
    recipe = summary(*planted(seen_gain=0.2))
    change = recipe.changes["children"]
    for name in ("accuracy", "recall", "specificity"):
        found = change.same_images[name]
        assert found.low < -0.1 < found.high  # half of the images were seen before
        assert found.high < 0
    assert change.by_split["accuracy"].mean < 0
    ordinary = recipe.kinds["duplicates"]
    _, low, high, best = ordinary.by_similarity["down_syndrome"][:4]
    assert (low.low, low.high, high.times) == (0.5, 0.6, 0)
    assert best.right.low > low.right.high
    assert ordinary.seen["children"]["healthy"].right.value > ordinary.unseen["children"]["healthy"].right.value
    assert recipe.kinds["children"].seen["strict"]["healthy"].times == 0


def test_where_nothing_is_gained_the_interval_holds_nothing() -> None:
    found = summary(*planted(seen_gain=0.0)).changes["children"].same_images["accuracy"]
    assert found.low < 0 < found.high


def test_every_score_is_in_one_band_and_one_step() -> None:
    predictions, groups = planted(0.1)
    rows = predictions["a1"]
    rows.loc[rows.index[:5], "nearest"] = np.nan
    rows.loc[rows.index[5:8], "nearest"] = [-0.2, 1.0, 0.5]
    recipe = summary(predictions, groups)
    for kind, by_seed in RUNS.items():
        scores = sum(len(predictions[name]) for name in by_seed.values())
        without = 5 if kind == "duplicates" else 0
        found = recipe.kinds[kind]
        assert sum(band.times for bands in found.by_similarity.values() for band in bands) == scores
        assert sum(sum(counts) for counts in found.distribution.values()) == scores - without
        for which in ("children", "strict"):
            halves = (found.seen[which], found.unseen[which])
            assert sum(band.times for half in halves for band in half.values()) == scores
    faceless = [bands[-1] for bands in recipe.kinds["duplicates"].by_similarity.values() if bands[-1].low is None]
    assert sum(band.times for band in faceless) == 5


def test_the_change_of_the_same_images_is_the_mean_over_images() -> None:
    predictions, groups = planted(0.2)
    found = summary(predictions, groups).changes["children"].same_images
    shares: dict[str, dict[str, list[bool]]] = {}
    for kind, by_seed in RUNS.items():
        for name in by_seed.values():
            for row in predictions[name].itertuples():
                shares.setdefault(str(row.path), {}).setdefault(kind, []).append(
                    (row.y_score >= 0.5) == (row.y_true == 1)
                )
    both = {path: kinds for path, kinds in shares.items() if len(kinds) == 2}
    for name, label in (("recall", "down_syndrome"), ("specificity", "healthy")):
        gains = [np.mean(k["children"]) - np.mean(k["duplicates"]) for p, k in both.items() if p.startswith(label)]
        assert found[name].value == pytest.approx(np.mean(gains), abs=1e-6)
        assert found[name].n == len(gains)
    assert found["accuracy"].value == pytest.approx((found["recall"].value + found["specificity"].value) / 2, abs=1e-6)


def run_on(recipe: str, split: str, seed: int = 1, **more: Any) -> Run:
    return Run.model_validate({"recipe": recipe, "split": split, "seed": seed, **more})


def test_runs_on_comparable_splits_are_found() -> None:
    splits = {
        f"{groups}{seed}": Split(scheme="stratified", seed=seed, groups=groups)
        for groups in ("duplicates", "children")
        for seed in (1, 2)
    } | {"paper": Split(scheme="paper", seed=3, groups="duplicates")}
    runs = {
        "a": run_on("improved", "duplicates1"),
        "a-again": run_on("improved", "duplicates1", seed=2),
        "a-changed": run_on("improved", "duplicates2", change={"batch_size": 8}),
        "a-paper": run_on("improved", "paper"),
        "b": run_on("improved", "children1"),
        "c": run_on("improved", "children2"),
        "alone": run_on("trial1", "duplicates1"),
    }
    assert children.runs_by_kind(runs, splits) == {
        "improved": {"duplicates": {"1": "a"}, "children": {"1": "b", "2": "c"}}
    }


# The stage, the figure and the tables


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with 200 images of 50 children, two splits by one seed and a run on either."""
    monkeypatch.chdir(tmp_path)
    small = {
        "evaluate": {"resamples": 100},
        "splits": {
            "seed1": {"scheme": "stratified", "seed": 1, "groups": "duplicates"},
            "children1": {"scheme": "stratified", "seed": 1, "groups": "children"},
        },
        "runs": {
            name: {"recipe": "improved", "split": split, "seed": 1}
            for name, split in (("improved", "seed1"), ("improved-children1", "children1"))
        },
    }
    Path("params.yaml").write_text(yaml.safe_dump(overlay(COMMITTED, small)), encoding="utf-8")
    rng = np.random.default_rng(0)
    child = np.arange(200) // 4
    centres = rng.normal(size=(50, 16))
    vectors = centres[child] + rng.normal(size=(200, 16)) * 0.1
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    label = np.where(child < 25, "down_syndrome", "healthy")
    paths = np.array([f"{name}/{i:03}.jpg" for i, name in enumerate(label)])
    first = paths[child * 4]
    pd.DataFrame({"path": paths, "duplicates": paths, "children": first, "strict": first}).to_csv(
        "groups.csv", index=False
    )
    faces = np.ones(200, int)
    faces[7] = 0
    pd.DataFrame({"path": paths, "faces": faces}).to_csv("landmarks.csv", index=False)
    np.save("embeddings.npy", vectors)
    by_child = child * 7 % 50 / 50  # children of both classes in each subset
    for split, key, run in (("seed1", rng.random(200), "improved"), ("children1", by_child, "improved-children1")):
        subset = np.where(key < 0.7, "train", np.where(key < 0.9, "validation", "test"))
        Path("split").mkdir(exist_ok=True)
        Path("runs").mkdir(exist_ok=True)
        pd.DataFrame({"path": paths, "subset": subset}).to_csv(f"split/{split}.csv", index=False)
        rows = pd.DataFrame({"path": paths, "subset": subset, "y_true": (label == "down_syndrome").astype(int)})
        rows = rows[rows.subset != "train"].assign(y_score=lambda rows: 0.2 + 0.6 * rows.y_true)
        rows.to_csv(f"runs/{run}.csv", index=False)
    return tmp_path


def run_stage() -> children.Children:
    inputs = [Path(name) for name in ("groups.csv", "embeddings.npy", "landmarks.csv")]
    stage.main(*inputs, Path("split"), Path("runs"), Path("out.json"))
    return read_document(children.Children, Path("out.json"))


def test_the_stage_asks_the_training_faces_of_each_split(project: Path) -> None:
    found = run_stage()
    assert (found.n, found.without_a_face) == (200, 1)
    recipe = found.recipes["improved"]
    ordinary, apart = recipe.kinds["duplicates"], recipe.kinds["children"]
    assert sum(sum(counts[18:]) for counts in ordinary.distribution.values()) > 50  # a picture of the same child
    assert sum(sum(counts[18:]) for counts in apart.distribution.values()) == 0
    assert sum(band.times for band in apart.seen["children"].values()) == 0
    assert sum(band.times for band in ordinary.seen["children"].values()) > 50
    assert recipe.changes["children"].by_split["accuracy"].mean == 0
    assert "embedding" not in json.dumps(found.model_dump())


def test_images_that_are_not_known_are_one_line(project: Path) -> None:
    rows = pd.read_csv("runs/improved.csv")
    rows.loc[0, "path"] = "healthy/other.jpg"
    rows.to_csv("runs/improved.csv", index=False)
    with pytest.raises(InputError, match=r"improved\.csv has healthy/other\.jpg, groups\.csv has not"):
        run_stage()
    pd.read_csv("landmarks.csv").iloc[::-1].to_csv("landmarks.csv", index=False)
    with pytest.raises(InputError, match=r"landmarks\.csv is of other images than groups\.csv"):
        run_stage()


def test_the_figure_shows_both_kinds_with_intervals(project: Path) -> None:
    predictions, groups = planted(0.2)
    recipe = summary(predictions, groups)
    figure = pages.recall_by_similarity(recipe, "down_syndrome", children.STEP, "Recall")
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    scores = [sum(recipe.kinds[kind].distribution["down_syndrome"]) for kind in RUNS]
    assert texts == [f"ordinary splits, {scores[0]} scores", f"splits by children, {scores[1]} scores"]
    upper = figure.axes[0]
    drawn = {round(float(line.get_ydata()[0]), 6) for line in upper.lines if len(line.get_ydata())}  # type: ignore[arg-type,index]
    bands = [band for found in recipe.kinds.values() for band in found.by_similarity["down_syndrome"] if band.times]
    assert {band.right.value for band in bands} <= drawn
