"""Label noise: planted wrong labels are named by each rule, and the ceiling holds the planted share."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from ci.demo import overlay
from faces.cli import InputError
from faces.evidence import labels
from faces.evidence.documents import read_document
from faces.params import Evaluate
from stages import labels as stage

EVALUATE = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.98)
COMMITTED = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))


def scored(wrong: int, n: int = 600, runs: int = 4) -> dict[str, pd.DataFrame]:
    """Return predictions of models that err rarely; the first `wrong` images carry the other class's label."""
    truth = np.arange(n) % 2
    label = np.where(np.arange(n) < wrong, 1 - truth, truth)
    found = {}
    for number in range(runs):
        rng = np.random.default_rng(number)
        mistaken = rng.random(n) < 0.02
        score = np.abs(np.where(mistaken, 1 - truth, truth) - rng.uniform(0.01, 0.08, n))
        rows = pd.DataFrame({"path": [f"{i:04}.jpg" for i in range(n)], "y_true": label, "y_score": score})
        rows["subset"] = np.where(np.arange(n) % 3 == 0, "test", "validation")
        found[f"run{number}"] = rows[rng.random(n) < 0.8]
    return found


def summary(predictions: dict[str, pd.DataFrame], of_other: Any = 0, both: Any = False) -> labels.LabelNoise:
    images = labels.held_out(predictions)
    images = images.assign(group=images.index, both_labels=both, faces_of_other_class=of_other)
    return labels.summarise(images, "kaggle", tuple(predictions), 5, EVALUATE)


def test_held_out_scores_are_counted_by_image() -> None:
    predictions = scored(3)
    found = labels.held_out(predictions)
    rows = pd.concat(predictions.values())
    mine = rows[rows.path == "0004.jpg"]
    assert found.times["0004.jpg"] == len(mine)
    assert found.y_score["0004.jpg"] == pytest.approx(mine.y_score.mean())
    assert found.wrong["0004.jpg"] == ((mine.y_score >= 0.5) != (mine.y_true == 1)).sum()


def test_planted_wrong_labels_are_named_by_every_rule() -> None:
    found = summary(scored(wrong=18))
    planted = {f"{i:04}.jpg" for i in range(18)}
    for rule in labels.RULES:
        named = {suspect.path for suspect in found.suspects if rule in suspect.rules}
        assert len(named & planted) >= 14, rule
        assert len(named - planted) <= 4, rule
        assert found.named[rule].value == pytest.approx(len(named) / found.named[rule].n, abs=1e-6)
    assert found.named_by_all == sum(len(suspect.rules) == 3 for suspect in found.suspects)
    assert found.noise.low <= 0.03 <= found.noise.high  # 18 of 600
    assert found.ceiling["noise"].low <= 0.97 <= found.ceiling["noise"].high
    ceiling, named = found.ceiling["always_wrong"], found.named["always_wrong"]
    assert (ceiling.value, ceiling.low, ceiling.high) == pytest.approx((1 - named.value, 1 - named.high, 1 - named.low))
    counts = [len(suspect.rules) for suspect in found.suspects]
    assert counts == sorted(counts, reverse=True)


def test_right_labels_leave_the_ceiling_near_one() -> None:
    found = summary(scored(wrong=0))
    assert found.noise.value < 0.01
    assert found.ceiling["noise"].high == pytest.approx(1, abs=0.005)


def test_faces_of_the_other_class_are_set_beside_those_of_the_other_images() -> None:
    predictions = scored(wrong=18)
    images = labels.held_out(predictions).index
    of_other = np.where(images < "0012.jpg", 5.0, 1.0)
    of_other[-1] = np.nan
    found = summary(predictions, of_other, both=images == "0000.jpg")
    assert found.most_similar.suspects.value > 0.4
    assert found.most_similar.others.value < 0.02
    assert found.most_similar.suspects.n + found.most_similar.others.n == found.n - 1
    by_path = {suspect.path: suspect for suspect in found.suspects}
    assert by_path["0001.jpg"].faces_of_other_class == 5
    assert [path for path, suspect in by_path.items() if suspect.both_labels] == ["0000.jpg"]


def test_without_faces_nothing_is_said_of_them() -> None:
    found = summary(scored(wrong=18), of_other=np.nan)
    assert (found.most_similar.suspects.n, found.most_similar.others.n) == (0, 0)
    assert {suspect.faces_of_other_class for suspect in found.suspects} == {None}


# The stage


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with 100 faces in two clusters, by class; image 0 lies in the other cluster, with a copy."""
    monkeypatch.chdir(tmp_path)
    runs = {"a": {"recipe": "improved", "split": "seed1", "seed": 1}}
    small = {"evaluate": {"resamples": 100}, "runs": runs, "model": "a"}
    Path("params.yaml").write_text(yaml.safe_dump(overlay(COMMITTED, small)), encoding="utf-8")
    rng = np.random.default_rng(0)
    label = np.array(["down_syndrome"] * 50 + ["healthy"] * 50)
    cluster = (label == "healthy").astype(int)
    cluster[[0, 1]] = 1
    vectors = np.eye(2)[cluster] @ rng.normal(size=(2, 8)) * 3 + rng.normal(size=(100, 8))
    vectors[1] = vectors[0]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    paths = np.array([f"{name}/{i:03}.jpg" for i, name in enumerate(label)])
    copies = paths.copy()
    copies[1] = paths[0]
    children = copies.copy()
    children[[2, 60]] = paths[2]
    pd.DataFrame({"path": paths, "duplicates": copies, "children": children}).to_csv("groups.csv", index=False)
    pd.DataFrame({"path": paths, "faces": 1}).to_csv("landmarks.csv", index=False)
    np.save("embeddings.npy", vectors)
    y_true = (label == "down_syndrome").astype(int)
    score = np.where(y_true == 1, 0.9, 0.1)
    score[[0, 2, 60]] = 1 - score[[0, 2, 60]]
    rows = pd.DataFrame({"path": paths, "y_true": y_true, "y_score": score})
    rows["subset"] = np.where(np.arange(100) % 2, "test", "validation")
    Path("runs").mkdir()
    rows.to_csv("runs/a.csv", index=False)
    return tmp_path


def run_stage() -> labels.LabelNoise:
    inputs = [Path(name) for name in ("groups.csv", "embeddings.npy", "landmarks.csv")]
    stage.main(*inputs, Path("runs"), Path("out.json"))
    return read_document(labels.LabelNoise, Path("out.json"))


def test_a_suspects_faces_and_group_are_looked_up_without_its_copies(project: Path) -> None:
    found = {suspect.path: suspect for suspect in run_stage().suspects}
    assert found["down_syndrome/000.jpg"].faces_of_other_class == 5  # its copy, of its own class, is not asked
    assert not found["down_syndrome/000.jpg"].both_labels
    assert found["down_syndrome/002.jpg"].both_labels
    assert found["healthy/060.jpg"].both_labels


def test_images_that_are_not_known_are_one_line(project: Path) -> None:
    rows = pd.read_csv("runs/a.csv")
    rows.loc[0, "path"] = "healthy/other.jpg"
    rows.to_csv("runs/a.csv", index=False)
    with pytest.raises(InputError, match=r"runs has images that groups\.csv has not; run `dvc repro`"):
        run_stage()
