"""Groups of faces: what an index and connected sets find is what all pairs give; planted children are found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from ci.demo import overlay
from faces.children import groups, nearest
from faces.children.groups import LINKAGES, Forest
from faces.children.sessions import Sessions, chance, file_numbers
from faces.cli import InputError
from faces.images import duplicates
from stages import group as stage

COMMITTED = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))


def unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def children(seed: int, n: int = 12, width: int = 8, spread: float = 0.35) -> tuple[Any, Any]:
    """Return embeddings of n children with 1 to 6 pictures each, and whose they are."""
    rng = np.random.default_rng(seed)
    child = np.repeat(np.arange(n), rng.integers(1, 7, n))
    centres = unit(rng.normal(size=(n, width)))
    return unit(centres[child] + rng.normal(size=(len(child), width)) * spread), child


def same(first: Any, second: Any) -> bool:
    """Say whether two groupings [n] put the same images together."""
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(LINKAGES), st.floats(0.3, 0.9), st.floats(0, 0.3))
def test_the_groups_are_those_of_all_pairs(seed: int, method: groups.Linkage, floor: float, above: float) -> None:
    embeddings, _ = children(seed)
    pairs, similarity = groups.similar_pairs(embeddings, floor)
    forest = Forest.grow(embeddings, pairs, method)
    exact = embeddings.astype(np.float64)
    distances = np.clip(1 - exact @ exact.T, 0, 2)
    np.fill_diagonal(distances, 0)
    everything = linkage(squareform(distances, checks=False), method)
    threshold = min(floor + above, 0.99)
    assert same(forest.cut(threshold), fcluster(everything, 1 - threshold, "distance"))
    assert (similarity >= floor).all()
    assert len(pairs) == ((1 - distances)[np.triu_indices(len(embeddings), 1)] >= floor).sum()


def test_a_groups_name_is_its_first_image_and_order_does_not_matter() -> None:
    embeddings, child = children(3, spread=0.05)
    order = np.random.default_rng(0).permutation(len(child))
    cuts = []
    for rows in (np.arange(len(child)), order):
        pairs, _ = groups.similar_pairs(embeddings[rows], 0.5)
        cut = Forest.grow(embeddings[rows], pairs, "average").cut(0.9)
        assert (cut <= np.arange(len(rows))).all()
        assert (cut[cut] == cut).all()
        assert same(cut, child[rows])
        cuts.append(cut)
    assert same(cuts[0][order], cuts[1])


def test_the_margin_is_the_distance_of_the_nearest_merge() -> None:
    embeddings = unit(np.array([[1, 0], [1, 0.2], [1, 0.9]]))
    pairs, similarity = groups.similar_pairs(embeddings, 0.5)
    forest = Forest.grow(embeddings, pairs, "single")
    merges = sorted([similarity[0], similarity[2]])  # 0-1 and 1-2: single links
    assert forest.margin(0.9) == pytest.approx(min(abs(merge - 0.9) for merge in merges), abs=1e-9)
    assert Forest.grow(embeddings, np.empty((0, 2), np.int64), "single").margin(0.9) is None


def test_too_many_pairs_or_too_long_a_chain_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"group\.floor finds more than \d+ pairs among 300 images; raise it"):
        groups.similar_pairs(unit(np.random.default_rng(0).normal(1, 0.01, (300, 8))), 0.5)
    monkeypatch.setattr(groups, "MOST", 5)
    embeddings, _ = children(0)
    with pytest.raises(InputError, match=r"group\.floor connects \d+ faces with each other, more than 5; raise it"):
        Forest.grow(embeddings, groups.similar_pairs(embeddings, 0.1)[0], "average")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_all_pairs_within_groups(names: list[int]) -> None:
    found = groups.pairs_within(np.array(names))
    wanted = {(i, j) for i in range(len(names)) for j in range(i + 1, len(names)) if names[i] == names[j]}
    assert {tuple(sorted(pair)) for pair in found.tolist()} == wanted
    assert len(found) == len(wanted)


def test_groupings_and_pairs_are_joined_through_each_other() -> None:
    found = groups.joined([np.array([0, 0, 2, 3, 4, 5]), np.array([0, 1, 1, 3, 4, 5])], np.array([[3, 5]]))
    assert found.tolist() == [0, 0, 0, 3, 4, 3]


# File numbers


def test_the_last_number_of_a_file_name_counts() -> None:
    found = file_numbers(["a/down_12.jpg", "a/2 of 7.png", "b/8/face.jpg", "0007.jpeg"])
    assert found[[0, 1, 3]].tolist() == [12, 7, 7]
    assert np.isnan(found[2])


@given(st.lists(st.one_of(st.integers(0, 60), st.none()), max_size=25), st.integers(1, 10))
def test_chance_is_the_share_of_all_pairs(numbers: list[int | None], window: int) -> None:
    known = [number for number in numbers if number is not None]
    pairs = [abs(a - b) <= window for i, a in enumerate(known) for b in known[i + 1 :]]
    found = chance(np.array([np.nan if number is None else float(number) for number in numbers]), window)
    assert found == pytest.approx(np.mean(pairs) if pairs else 0)


def test_the_share_of_one_child_is_found_again() -> None:
    """Half of the planted pairs are of one child; a fifth of a child's pictures follow each other."""
    rng = np.random.default_rng(1)
    n = 6000
    numbers = rng.permutation(n).astype(float)
    sessions = Sessions.of(numbers, np.arange(n), window=10, resamples=300, seed=1)

    def pairs(count: int, of_one_child: float) -> np.ndarray[Any, Any]:
        place = np.argsort(numbers)
        first = rng.integers(0, n - 11, count)
        follow = rng.random(count) < 0.2 * of_one_child
        second = np.where(follow, first + rng.integers(1, 11, count), rng.integers(0, n, count))
        found = np.stack([place[first], place[second]], axis=1)
        return found[found[:, 0] != found[:, 1]]

    reference = sessions.count(pairs(4000, of_one_child=1))
    for share in (0.0, 0.5, 1.0):
        estimate = sessions.of_one_child(sessions.count(pairs(8000, of_one_child=share)), reference)
        assert estimate is not None
        assert estimate[0] == pytest.approx(share, abs=0.1)
        low, high = np.quantile(estimate[1:], [0.005, 0.995])
        assert low <= share <= high
    assert sessions.of_one_child(reference, sessions.count(np.array([[0, 1]]))) is None  # too few to tell


def test_a_group_drawn_twice_brings_its_pairs_twice() -> None:
    sessions = Sessions(np.arange(4.0), np.array([0, 0, 1, 1]), np.array([[1.0, 2.0], [1.0, 3.0]]), window=1)
    counted = sessions.count(np.array([[0, 1], [2, 3], [1, 2], [0, 3]]))
    assert counted.pairs.tolist() == [4, 2 + 3 + 6 + 6]
    assert counted.neighbours.tolist() == [3, 2 + 3 + 6]


# The nearest faces


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_the_nearest_trained_face_is_of_the_images_own_class(seed: int) -> None:
    embeddings, _ = children(seed, n=10)
    rng = np.random.default_rng(seed)
    label = rng.choice(["down_syndrome", "healthy"], len(embeddings))
    trained, has_face = rng.random(len(embeddings)) < 0.6, rng.random(len(embeddings)) < 0.9
    found = nearest.nearest_trained(embeddings, label, trained, has_face)
    similarity = embeddings.astype(float) @ embeddings.T.astype(float)
    for image in range(len(embeddings)):
        among = trained & has_face & (label == label[image])
        if trained[image] or not has_face[image] or not among.any():
            assert np.isnan(found[image])
        else:
            assert found[image] == pytest.approx(similarity[image, among].max(), abs=6e-4)


# The stage

INPUTS = [Path(name) for name in ("images.csv", "embeddings.npy", "landmarks.csv")]


def run(root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the stage on 60 planted children of each class, whose pictures follow each other; one face is missing."""
    monkeypatch.chdir(root)
    small = {"group": {"reference": {"down_syndrome": 0.9, "healthy": 0.9}}, "evaluate": {"resamples": 100}}
    params = overlay(overlay(COMMITTED, small), changes)
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    rows, vectors, faces = [], [], []
    for number, label in enumerate(("down_syndrome", "healthy")):
        embeddings, child = children(number, n=60, width=64, spread=0.04)
        order = np.argsort([f"{label}/{i:03}.jpg" for i in range(len(child))])
        for i in order:
            path = f"{label}/{i:03}.jpg"
            rows.append({"path": path, "readable": 1, "group": path, "child": f"{label} {child[i]}"})
        vectors.append(embeddings[order])
        faces += [1] * len(child)
    table = pd.DataFrame(rows)
    alone = table.index[table.child.duplicated()][0]
    table.loc[alone, "group"] = table.path[alone - 1]  # a duplicate
    faces[alone] = 0
    stacked = np.concatenate(vectors)
    stacked[alone] = 0
    table.to_csv("images.csv", index=False)
    pd.DataFrame({"path": table.path, "faces": faces}).to_csv("landmarks.csv", index=False)
    np.save("embeddings.npy", stacked)
    stage.main(*INPUTS, Path("groups.csv"), Path("groups.json"))
    return table.merge(pd.read_csv("groups.csv"), on="path"), json.loads(Path("groups.json").read_text("utf-8"))


def test_planted_children_are_found_and_the_numbers_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, facts = run(tmp_path, monkeypatch)
    for setting in ("children", "strict"):
        assert same(table[setting], table.child)  # the image without a face stays with its duplicate
        assert (table[setting] <= table.path).all()
    assert same(table.duplicates, table.group)
    assert (facts["n"], facts["with_a_face"]) == (len(table), len(table) - 1)
    assert facts["groups"]["children"]["of_both_classes"] == 0
    found = facts["classes"]["healthy"]["settings"]["children"]
    assert found["largest"] == table[table.path.str.startswith("healthy")].child.value_counts().max()
    assert found["joined"]["of_one_child"]["value"] > 0.9
    assert found["found"]["value"] > 0.9
    linkages = {(row["linkage"], row["threshold"]) for row in facts["classes"]["healthy"]["linkages"]}
    assert ("average", 0.5) in linkages
    assert len(linkages) == 30


def test_another_processors_last_digits_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, monkeypatch)
    before = Path("groups.csv").read_bytes(), Path("groups.json").read_bytes()
    exact = np.load("embeddings.npy")
    noise = np.random.default_rng(0).uniform(-2e-8, 2e-8, exact.shape)
    np.save("embeddings.npy", (exact.astype(float) + noise).astype(np.float32))
    assert not np.array_equal(exact, np.load("embeddings.npy"))
    stage.main(*INPUTS, Path("groups.csv"), Path("groups.json"))
    assert (Path("groups.csv").read_bytes(), Path("groups.json").read_bytes()) == before


def test_how_results_are_evaluated_changes_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it trains no run again: the splits depend on the groups (ci/costs.py says so of the costs)."""
    run(tmp_path, monkeypatch)
    before = Path("groups.csv").read_bytes(), Path("groups.json").read_bytes()
    run(tmp_path, monkeypatch, evaluate={"confidence": 0.9, "resamples": 200, "seed": 2, "recall": 0.9})
    assert Path("groups.csv").read_bytes() == before[0]
    assert Path("groups.json").read_bytes() != before[1]


def test_file_names_without_numbers_leave_the_estimates_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "file_numbers", lambda paths: np.full(len(paths), np.nan))
    _, facts = run(tmp_path, monkeypatch)
    found = facts["classes"]["healthy"]
    assert found["with_a_number"] == 0
    assert found["reference"]["neighbours"] is None
    assert found["settings"]["children"]["joined"]["of_one_child"] is None
    assert found["settings"]["children"]["found"] is None


def test_without_any_face_all_groups_are_those_of_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = run(tmp_path, monkeypatch)
    np.save("embeddings.npy", np.zeros((len(table), 64), np.float32))
    pd.DataFrame({"path": table.path, "faces": 0}).to_csv("landmarks.csv", index=False)
    stage.main(*INPUTS, Path("groups.csv"), Path("groups.json"))
    found = pd.read_csv("groups.csv")
    assert (found.children == found.duplicates).all()
    assert (found.strict == found.duplicates).all()
    assert json.loads(Path("groups.json").read_text("utf-8"))["with_a_face"] == 0


def test_embeddings_of_other_images_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = run(tmp_path, monkeypatch)
    pd.DataFrame({"path": table.path[::-1], "faces": 1}).to_csv("landmarks.csv", index=False)
    with pytest.raises(InputError, match=r"landmarks\.csv or embeddings\.npy is of other images than images\.csv"):
        stage.main(*INPUTS, Path("groups.csv"), Path("groups.json"))


def test_one_index_serves_duplicates_and_faces() -> None:
    embeddings, _ = children(5)
    similarity, row = duplicates.cosine_index(embeddings, 1).search(embeddings, 1)
    assert row[:, 0].tolist() == list(range(len(embeddings)))
    assert similarity[:, 0] == pytest.approx(1, abs=1e-5)
