"""The audit: duplicates against slow oracles, and the stage on small folders of images made here."""

import json
import multiprocessing
import os
import platform
import shutil
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import resnet34

from faces.cli import InputError
from faces.images import duplicates
from faces.images.decode import load
from faces.pages.report import render
from faces.source import sample
from faces.source.listing import list_classes
from faces.training import machine
from faces.training.embedding import embedder
from stages import audit, split

ROOT = Path(__file__).parents[2]
OUTPUTS = ("images.csv", "data.json")


# Duplicates


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def linked(n: int, pairs: Any) -> list[int]:
    """Return each item's smallest partner, direct or not, by walking; the slow oracle of `components`."""
    smallest = list(range(n))
    for _ in range(n):
        for a, b in pairs:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    return smallest


@settings(max_examples=60, deadline=None)
@given(
    base=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    changes=st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 63), max_size=18)), max_size=25),
    distance=st.integers(0, 16),
)
def test_hash_pairs_are_exact(base: list[int], changes: list[tuple[int, set[int]]], distance: int) -> None:
    values = base + [base[i % len(base)] ^ sum(1 << bit for bit in bits) for i, bits in changes]
    hashes = np.array(values, np.uint64)
    near = [(a, b) for a, b in combinations(range(len(values)), 2) if (values[a] ^ values[b]).bit_count() <= distance]
    found = duplicates.hash_pairs(hashes, distance)
    assert {tuple(pair) for pair in found.tolist()} <= set(near)
    assert duplicates.components(len(values), found).tolist() == linked(len(values), near)


def test_equal_hashes_make_a_chain_not_all_pairs() -> None:
    assert len(duplicates.hash_pairs(np.full(500, 7, np.uint64), 4)) == 499


def test_feature_pairs_are_exact_for_small_sets() -> None:
    rng = np.random.default_rng(0)
    features = unit(np.repeat(rng.normal(size=(60, 32)), 4, axis=0) + 0.25 * rng.normal(size=(240, 32)))
    distances = 1 - features.astype(float) @ features.T.astype(float)
    expected = [(a, b) for a, b in combinations(range(240), 2) if distances[a, b] <= 0.05]
    assert 30 < len(expected) < 360
    pairs, found = duplicates.feature_pairs(features, 0.05)
    assert pairs.tolist() == [list(pair) for pair in expected]
    assert found == pytest.approx([distances[pair] for pair in expected], abs=1e-6)


def test_feature_pairs_of_a_large_set_miss_next_to_none() -> None:
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(11_000, 16))
    features = unit(np.concatenate([originals, originals[:500] + 0.05 * rng.normal(size=(500, 16))]))
    found = {tuple(pair) for pair in duplicates.feature_pairs(features, 0.01)[0].tolist()}
    assert sum((number, 11_000 + number) in found for number in range(500)) >= 495


def test_feature_pairs_do_not_depend_on_the_number_of_threads() -> None:
    import faiss

    features = unit(np.random.default_rng(0).normal(size=(11_000, 8)))
    threads = faiss.omp_get_max_threads()
    answers = []
    for number in (1, 4):
        faiss.omp_set_num_threads(number)
        answers.append(duplicates.feature_pairs(features, 0.02)[0].tolist())
    faiss.omp_set_num_threads(threads)
    assert answers[0] == answers[1]
    assert answers[0]


def test_a_useless_threshold_is_refused() -> None:
    features = unit(np.random.default_rng(0).normal(size=(300, 4)) + 5)
    with pytest.raises(
        InputError, match=r"audit\.feature_distance finds more than \d+ pairs among \d+ images; lower it"
    ):
        duplicates.feature_pairs(features, 1)


@given(st.lists(st.floats(0, 0.1), max_size=30), st.floats(0, 0.1))
def test_gap_names_the_nearest_pair_on_either_side(values: list[float], threshold: float) -> None:
    found = duplicates.gap(np.array(values), threshold)
    below = [value for value in values if value <= threshold]
    above = [value for value in values if value > threshold]
    assert (None if found.below is None else values[found.below]) == max(below, default=None)
    assert (None if found.above is None else values[found.above]) == min(above, default=None)
    assert found.margin == min([duplicates.REACH, *(abs(value - threshold) for value in values)])
    assert [values[i] for i in found.undecided] == [v for v in values if abs(v - threshold) < duplicates.ROUNDING]


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_are_named_after_their_smallest_member(case: tuple[int, list[tuple[int, int]]]) -> None:
    n, pairs = case
    array = np.array(pairs, np.int64).reshape(-1, 2)
    assert duplicates.components(n, array).tolist() == linked(n, pairs)


# The stage


def drawing(seed: int, size: int = 64) -> Image.Image:
    """Return soft blobs: like a photograph, few of the 64 bits of the hash hang on the noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for y_true, label in enumerate(("healthy", "down_syndrome")):
        (root / label).mkdir(parents=True)
        for number in range(6):
            drawing(100 * y_true + number).save(root / label / f"{number}.png")
    return root


def run_audit(folder: Path, data: Path, **audit_params: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the stage in `folder` with random weights, unless `weights` says otherwise."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["source"] = audit_params.pop("source", "sample")
    params["weights"]["source"] = audit_params.pop("weights", "random")
    params["audit"].update(audit_params)
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        audit.main(data, folder / "weights.pth", *(folder / "out" / name for name in OUTPUTS))
    table = pd.read_csv(folder / "out" / "images.csv", keep_default_na=False)
    return table, json.loads((folder / "out/data.json").read_text())


def test_the_table_has_one_sorted_row_for_each_image(tmp_path: Path, data: Path) -> None:
    table, sheet = run_audit(tmp_path, data)
    assert list(table.columns) == [
        *("path", "label", "y_true", "format", "mode", "width", "height", "bytes"),
        *("readable", "reason", "pixels_sha256", "hash", "group"),
    ]
    assert list(table.path) == sorted(table.path)
    assert (table.y_true == (table.label == "down_syndrome")).all()
    assert (table.bytes == [(data / path).stat().st_size for path in table.path]).all()
    assert (table.group == table.path).all()
    assert sheet["classes"]["healthy"]["sizes"] == {"64x64": 6}
    assert sheet["duplicates"]["groups"] == 0


def test_duplicates_are_found_by_pixels_and_by_hash(tmp_path: Path, data: Path) -> None:
    with Image.open(data / "healthy/1.png") as image:
        image.save(data / "healthy/same.bmp")  # other bytes, same pixels
        image.resize((80, 80)).save(data / "healthy/near.jpg", quality=60)
    table, sheet = run_audit(tmp_path, data)
    group = table[table.group == "healthy/1.png"]
    assert set(group.path) == {"healthy/1.png", "healthy/same.bmp", "healthy/near.jpg"}
    assert sheet["duplicates"]["pairs"] == {
        **{"same_pixels": 1, "near_by_hash": 1},
        **{"near_by_features": 0, "near_by_both": 0},
    }
    assert list(sheet["duplicates"]["by_group"]) == ["healthy/1.png"]
    assert sheet["duplicates"]["thresholds"]["feature_distance"] is None


def test_pixels_are_compared_with_their_shape(tmp_path: Path, data: Path) -> None:
    for name, size in (("wide", (20, 5)), ("tall", (5, 20))):
        Image.new("RGB", size, "red").save(data / f"healthy/{name}.png")
    table, _ = run_audit(tmp_path, data)
    assert table.set_index("path").pixels_sha256[["healthy/wide.png", "healthy/tall.png"]].nunique() == 2


def test_pairs_across_the_classes_are_flagged(tmp_path: Path, data: Path) -> None:
    shutil.copy(data / "healthy/0.png", data / "down_syndrome/9.png")
    table, sheet = run_audit(tmp_path, data)
    [pair] = sheet["duplicates"]["cross_class_pairs"]
    assert (pair["a"], pair["b"], pair["same_pixels"]) == ("down_syndrome/9.png", "healthy/0.png", True)
    assert table.set_index("path").group["healthy/0.png"] == "down_syndrome/9.png"


def fake_network(monkeypatch: pytest.MonkeyPatch, distances: dict[int, float]) -> list[int]:
    """Let the features of the twelve images differ, but of these, which lie at a distance from the one before.

    Returns the list that the sizes of the chunks will be appended to.
    """
    seen: list[int] = []

    def embed(images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (3, 224, 224)
        features = np.eye(16, 512, dtype=np.float64)
        for number, distance in distances.items():
            cosine = 1 - distance
            features[number] = cosine * features[number - 1] + np.sqrt(1 - cosine**2) * features[number]
        seen.append(len(images))
        return unit(features[sum(seen[:-1]) : sum(seen)])

    monkeypatch.setitem(sys.modules, "faces.training.embedding", SimpleNamespace(embedder=lambda weights: embed))
    return seen


def test_features_find_what_the_hash_does_not(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_network(monkeypatch, {11: 0.0194, 9: 0.0231})
    monkeypatch.setattr(audit, "CHUNK", 5)
    table, sheet = run_audit(tmp_path, data, weights="imagenet", feature_distance=0.02)
    assert seen == [5, 5, 2]
    assert list(table.group[-2:]) == ["healthy/4.png", "healthy/4.png"]
    [pair] = sheet["duplicates"]["by_group"]["healthy/4.png"]["pairs"]
    assert (pair["feature_distance"], pair["near_by_features"], pair["near_by_hash"]) == (0.0194, True, False)
    assert sheet["duplicates"]["pairs"]["near_by_features"] == 1
    assert sheet["duplicates"]["gap"] == {
        "below": {"a": "healthy/4.png", "b": "healthy/5.png", "feature_distance": 0.0194},
        "above": {"a": "healthy/2.png", "b": "healthy/3.png", "feature_distance": 0.0231},
        "margin": 0.0006,
        "rounding": duplicates.ROUNDING,
        "undecided": [],
    }


def test_a_pair_that_rounding_could_decide_is_named(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_network(monkeypatch, {5: 0.02 - 5e-6, 9: 0.02 + 5e-6, 11: 0.0202})
    table, sheet = run_audit(tmp_path, data, weights="imagenet", feature_distance=0.02)
    assert (table.group != table.path).sum() == 1
    assert [pair["b"] for pair in sheet["duplicates"]["gap"]["undecided"]] == ["down_syndrome/5.png", "healthy/3.png"]
    said = capsys.readouterr().err
    assert "warning: whether down_syndrome/4.png and down_syndrome/5.png are linked hangs on rounding" in said
    assert "healthy/5.png" not in said


def test_unreadable_images_are_listed_up_to_a_limit(tmp_path: Path, data: Path) -> None:
    (data / "healthy/bad.jpg").write_bytes(b"")
    (data / "healthy/big.png").write_bytes((data / "healthy/0.png").read_bytes())
    Image.new("RGB", (100, 100)).save(data / "healthy/big.png")
    with pytest.raises(InputError, match=r"2 unreadable images, .*allows 1: healthy/bad\.jpg \(empty file\), .*big"):
        run_audit(tmp_path, data, max_unreadable=1, max_pixels=5000)
    assert not (tmp_path / "out").exists()
    table, sheet = run_audit(tmp_path, data, max_unreadable=2, max_pixels=5000)
    bad = table[table.readable == 0].set_index("path")
    assert list(bad.group) == list(bad.index) == ["healthy/bad.jpg", "healthy/big.png"]
    assert bad.width["healthy/big.png"] == 100
    assert sheet["unreadable"][0] == {"path": "healthy/bad.jpg", "reason": "empty file"}


def test_a_class_without_a_readable_image_is_one_line(tmp_path: Path, data: Path) -> None:
    for path in (data / "healthy").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="class healthy: none of its 6 images can be read"):
        run_audit(tmp_path, data, max_unreadable=6)


def test_flat_tiny_and_single_images_pass(tmp_path: Path) -> None:
    for label, colour in (("healthy", "red"), ("down_syndrome", "blue")):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (1, 1), colour).save(tmp_path / "data" / label / "a.png")
    table, _ = run_audit(tmp_path, tmp_path / "data")
    assert table.readable.all()


def test_two_runs_write_the_same_bytes_whatever_the_chunks(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_audit(tmp_path / "one", data)
    monkeypatch.setattr(audit, "CHUNK", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    run_audit(tmp_path / "two", data)
    for name in OUTPUTS:
        assert (tmp_path / "one/out" / name).read_bytes() == (tmp_path / "two/out" / name).read_bytes(), name


@pytest.mark.parametrize(("source", "dataset"), [("sample", False), ("kaggle", True)])
def test_the_sheet_says_whose_images_these_are(tmp_path: Path, data: Path, source: str, dataset: bool) -> None:
    _, sheet = run_audit(tmp_path, data, source=source)
    assert sheet["source"] == source
    assert (sheet["dataset"] is not None) is dataset


def test_the_page_has_the_sheets_numbers(tmp_path: Path, data: Path) -> None:
    with Image.open(data / "healthy/1.png") as image:
        image.save(data / "healthy/same.bmp")
    (data / "healthy/bad.jpg").write_bytes(b"")
    _, sheet = run_audit(tmp_path, data, max_unreadable=1)
    page = " ".join(render("data.md", sheet["source"], data=sheet).split())
    assert "14 images, 13 of them readable." in page
    assert "`healthy/1.png`, `healthy/same.bmp` | same pixels" in page
    assert "`healthy/bad.jpg`: empty file" in page
    assert "Features were not compared" in page


# The same split on another processor

PROCESSORS = {  # the instruction sets that oneDNN and torch may use at most, and threads
    "AVX512_CORE_BF16": ({}, 1),
    "AVX512_CORE": ({}, 1),
    "AVX2": ({"ATEN_CPU_CAPABILITY": "avx2"}, 2),
    "SSE41": ({"ATEN_CPU_CAPABILITY": "default"}, 1),
}


def audit_and_split(root: Path, name: str, limits: dict[str, str], threads: int) -> None:
    """Run both stages in `root` with a processor's limits, which torch and oneDNN read when they first compute."""
    os.chdir(root)
    os.environ |= {"ONEDNN_MAX_CPU_ISA": name, **limits}
    torch.set_num_threads(threads)
    out = root / name
    audit.main(root / "data", root / "weights.pth", out / "images.csv", out / "data.json")
    groups = pd.read_csv(out / "images.csv")[["path", "group"]].rename(columns={"group": "duplicates"})
    groups.to_csv(out / "groups.csv", index=False)
    split.main("seed1", out / "images.csv", out / "split.csv", out / "groups.csv", out / "split.json")
    some = load(root / "data", list_classes(root / "data").images[:10], 64)
    np.save(out / "features.npy", embedder(root / "weights.pth")(some))
    (out / "isa.json").write_text(json.dumps(machine.isa()))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these instruction sets are x86's")
def test_the_split_is_the_same_whatever_the_processor(tmp_path: Path) -> None:
    """Drawn faces, any weights: images table, groups and split have the same bytes, though the features have not."""
    sample.draw(tmp_path / "data", images_per_class=12)
    torch.manual_seed(0)
    torch.save(resnet34(weights=None).state_dict(), tmp_path / "weights.pth")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["source"] = "sample"
    params["audit"] |= {"feature_size": 64, "max_unreadable": 1, "feature_distance": threshold_in_a_gap(tmp_path)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    here = machine.isa()["onednn"]
    runs = {here: ({}, 2)} | {name: run for name, run in PROCESSORS.items() if name != here}
    context = multiprocessing.get_context("forkserver")  # starts with the imports done, and nothing computed yet
    context.set_forkserver_preload(["stages.audit", "stages.split", "faces.training.embedding"])
    for name, (limits, threads) in runs.items():
        process = context.Process(target=audit_and_split, args=(tmp_path, name, limits, threads))
        process.start()
        process.join(timeout=300)
        assert process.exitcode == 0, name
        isa = json.loads((tmp_path / name / "isa.json").read_text())
        assert isa["torch"] == limits.get("ATEN_CPU_CAPABILITY", machine.isa()["torch"]).upper()

    first = tmp_path / here
    sheet = json.loads((first / "data.json").read_text())["duplicates"]
    assert sheet["pairs"]["near_by_features"] >= 3
    assert sheet["gap"]["margin"] > 2 * duplicates.ROUNDING
    for name in runs:
        for file in ("images.csv", "split.csv", "split.json"):
            assert (tmp_path / name / file).read_bytes() == (first / file).read_bytes(), (name, file)
    features = [np.load(tmp_path / name / "features.npy").astype(float) for name in runs]
    assert any(not np.array_equal(features[0], other) for other in features[1:])  # else nothing has been shown
    for other in features[1:]:
        assert np.abs(features[0] @ features[0].T - other @ other.T).max() < duplicates.ROUNDING / 10


def threshold_in_a_gap(root: Path) -> float:
    """Return the middle of the widest gap between the nearest pairs of the drawn faces."""
    paths = [path for path in list_classes(root / "data").images if path != "healthy/healty_13.jpg"]  # the broken one
    features = embedder(root / "weights.pth")(load(root / "data", paths, 64))
    pairs = np.array(list(combinations(range(len(paths)), 2)))
    distances = np.sort(duplicates.cosine_distances(features, pairs))[3:12]
    widest = np.diff(distances).argmax()
    return float(distances[widest : widest + 2].mean())
