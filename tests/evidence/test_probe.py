"""The shortcut probes: they see what they should and nothing else, and duplicates do not help them."""

import csv
from pathlib import Path

import drawn_runs
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image, ImageFilter

from faces.cli import InputError
from faces.evidence import probes
from faces.evidence.documents import Probes, read_document
from faces.evidence.estimate import Estimate
from faces.evidence.statistics import wilson
from faces.files import write_json
from faces.images import align
from stages import probe

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "TREES", 15)


def picture(seed: int, size: int = 64) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.array(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))


def views(tmp_path: Path, *pictures: np.ndarray) -> dict[str, np.ndarray]:
    rows = []
    for number, array in enumerate(pictures):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
        size = (tmp_path / f"{number}.png").stat().st_size
        rows.append((f"{number}.png", "PNG", "RGB", array.shape[1], array.shape[0], size))
    columns = ["path", "format", "mode", "width", "height", "bytes"]
    return probes.describe(tmp_path, pd.DataFrame(rows, columns=columns))


# What the probes see


def test_colour_is_the_mean_of_each_channel(tmp_path: Path) -> None:
    flat = np.full((20, 30, 3), (10, 20, 30), np.uint8)
    flat[:10] += 4
    assert views(tmp_path, flat)["colour"].tolist() == [[12, 22, 32]]


def test_blur_falls_with_blurring(tmp_path: Path) -> None:
    sharp = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    blurred = [np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(r))) for r in (1, 3)]
    flat = np.zeros_like(sharp)
    values = views(tmp_path, sharp, *blurred, flat)["blur"][:, 0]
    assert (np.diff(values) < 0).all()
    assert values[-1] == 0


def test_border_and_corners_do_not_see_the_centre(tmp_path: Path) -> None:
    one, other = picture(0), picture(0)
    other[4:-4, 16:-16] = 255 - other[4:-4, 16:-16]  # all but the border and the corners
    other[16:-16, 4:-4] = 255
    seen = views(tmp_path, one, other)
    for view in ("border", "corners"):
        assert (seen[view][0] == seen[view][1]).all()
        assert seen[view].std() > 0
    assert (seen["colour"][0] != seen["colour"][1]).any()


def test_border_and_corners_see_their_part(tmp_path: Path) -> None:
    one, edge, corner = picture(0), picture(0), picture(0)
    edge[30:34, :2] = 0
    corner[10:14, -12:-8] = 0
    seen = views(tmp_path, one, edge, corner)
    assert [(seen["border"][0] != seen["border"][row]).any() for row in (1, 2)] == [True, False]
    assert [(seen["corners"][0] != seen["corners"][row]).any() for row in (1, 2)] == [False, True]


def test_file_sees_bytes_and_kind_and_the_last_view_sees_everything(tmp_path: Path) -> None:
    seen = views(tmp_path, picture(0), picture(1))
    sizes = [(tmp_path / f"{number}.png").stat().st_size for number in (0, 1)]
    assert np.exp(seen["file"][:, 0]) == pytest.approx(sizes)
    views_alone = ("file", "colour", "blur", "border", "corners")
    assert list(seen) == [*views_alone, probes.ALL]
    assert seen[probes.ALL].shape[1] == sum(seen[view].shape[1] for view in views_alone)


def test_an_aligned_face_hides_what_lies_around_it(tmp_path: Path) -> None:
    one, other = picture(0, size=300), picture(0, size=300)
    other[:60] = 0  # above the face
    for number, array in enumerate((one, other)):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    landmarks = {f"{number}.png": align.TEMPLATE + 94 for number in (0, 1)}  # in the middle, 112 pixels wide
    seen = probes.describe_aligned(tmp_path, list(landmarks), landmarks, share=0.8)
    assert list(seen) == [probes.ALIGNED + name for name in ("colour", "blur", "border", "corners", "all four")]
    assert all((view[0] == view[1]).all() for view in seen.values())
    whole = probes.describe_aligned(tmp_path, list(landmarks), {}, share=0.8)
    assert (whole["face aligned: border"][0] != whole["face aligned: border"][1]).any()


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["gone.png"]})
    with pytest.raises(InputError, match=r"gone\.png: no such file or directory; run the audit again"):
        probes.describe(tmp_path, table)


# Cross-validation


@pytest.mark.parametrize("model", probes.MODELS)
def test_a_planted_shortcut_is_found_and_noise_is_not(model: str) -> None:
    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1], 150)
    groups = [str(n) for n in range(300)]
    fold = probes.folds(y_true, groups, 5, seed=1)
    noise = rng.normal(size=(300, 4))
    planted = noise + np.outer(y_true, [3, 0, 0, 0])
    right = [(probes.out_of_fold(view, y_true, fold, model, 1) >= 0.5) == y_true for view in (planted, noise)]
    found, chance = probes.accuracies(np.stack(right, axis=1), groups, 0.95, 300, 1)
    assert found.low > 0.85
    assert chance.low - 0.05 < 0.5 < chance.high + 0.05


@pytest.mark.parametrize("model", probes.MODELS)
def test_duplicates_are_not_learnt_by_heart(model: str) -> None:
    rng = np.random.default_rng(0)
    view = np.repeat(rng.normal(size=(100, 30)), 4, axis=0)  # four copies each, labels at random
    y_true = np.repeat(rng.permutation(np.repeat([0, 1], 50)), 4)
    groups = [str(n // 4) for n in range(400)]
    fold = probes.folds(y_true, groups, 5, seed=1)
    assert all(len(set(fold[4 * n : 4 * n + 4])) == 1 for n in range(100))
    right = (probes.out_of_fold(view, y_true, fold, model, 1) >= 0.5) == y_true
    assert right.mean() < 0.65


def test_intervals_match_wilson_for_lone_images_and_widen_for_groups() -> None:
    right = np.arange(400) % 5 > 0
    [alone] = probes.accuracies(right[:, None], [str(n) for n in range(400)], 0.95, 2000, 1)
    low, high = wilson(320, 400, 0.95)
    assert (alone.value, alone.n) == (0.8, 400)
    assert alone.interval == pytest.approx((low, high), abs=0.01)
    [grouped] = probes.accuracies(np.sort(right)[:, None], [str(n // 4) for n in range(400)], 0.95, 2000, 1)
    assert grouped.high - grouped.low > 1.7 * (alone.high - alone.low)
    assert "2000 resamples" in grouped.method


def test_more_folds_than_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"probe\.folds is 5, but the smaller class has 2 images"):
        probes.folds(np.array([0, 0, 0, 0, 0, 1, 1]), list("abcdefg"), 5, 1)


# The stage


WRONG = ("down_syndrome/01.png", "healthy/00.png")  # of the run's answers; test images


def run_probe(folder: Path, run: bool = True, source: str = "sample") -> tuple[Probes, bytes, bytes]:
    """Run the stage on 40 pictures; those of class 1 have a dark border."""
    rows = []
    for number in range(40):
        y_true, label = number % 2, ("healthy", "down_syndrome")[number % 2]
        array = picture(number)
        if y_true:
            array[:4] //= 8
        path = folder / "data" / label / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
        row = {"path": f"{label}/{path.name}", "label": label, "y_true": y_true, "format": "PNG", "mode": "RGB"}
        size = {"width": 64, "height": 64, "bytes": path.stat().st_size, "readable": 1, "group": row["path"]}
        rows.append(row | size)
    table = pd.DataFrame(rows).sort_values("path")
    splits = table.assign(subset=["test" if n % 4 == 0 else "train" for n in range(40)])
    bad = rows[0] | {"path": "healthy/bad.png", "group": "healthy/bad.png", "readable": 0, "width": 0, "height": 0}
    pd.concat([table, pd.DataFrame([bad])]).to_csv(folder / "images.csv", index=False)
    splits[["path", "label", "y_true", "group", "subset"]].to_csv(folder / "split.csv", index=False)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["source"] = source
    params["evaluate"]["resamples"] = 200
    params["runs"] = {"trial2": {"recipe": "trial2", "split": "seed1", "seed": 1}}
    params["model"] = "trial2"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    header = f"path,faces,score,{','.join(align.COLUMNS)}"
    (folder / "landmarks.csv").write_text(f"{header}\n{rows[1]['path']},1,0.9,30,30,50,30,40,40,32,50,48,50\n")
    scored = splits.assign(
        y_score=[
            0.8 if (y_true == 1) != (path in WRONG) else 0.2
            for path, y_true in zip(splits["path"], splits["y_true"], strict=True)
        ]
    )
    scored["subset"] = scored["subset"].replace("train", "validation")
    (folder / "runs").mkdir(exist_ok=True)
    scored[["path", "subset", "y_true", "y_score"]].to_csv(folder / "runs" / "trial2.csv", index=False)
    if run:
        document = drawn_runs.finished_run("trial2", source, n=20)[1]
        accuracy = Estimate(0.9, 0.8, 0.95, 10, "x")
        document = document.model_copy(update={"metrics": {**document.metrics, "accuracy": accuracy}})
        document.training.recipe["transforms"]["align"] = 0.8
        write_json(folder / "runs" / "trial2.json", document.model_dump())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        inputs = [Path(name) for name in ("data", "images.csv", "split.csv")]
        outputs = {"out": Path("o/probes.json"), "scores": Path("o/probe.csv"), "landmarks": Path("landmarks.csv")}
        probe.main(*inputs, metrics=Path("runs"), predictions=Path("runs"), **outputs)
    out = folder / "o"
    written = (out / "probes.json").read_bytes(), (out / "probe.csv").read_bytes()
    return read_document(Probes, out / "probes.json"), *written


def test_the_stage_sets_probes_beside_the_runs(tmp_path: Path) -> None:
    found, _, predictions = run_probe(tmp_path)
    assert len(found.probes) == 22
    assert sum(row.sees.startswith("face aligned") for row in found.probes) == 10  # a compared run aligns faces
    assert (found.source, found.n, found.guessing) == ("sample", 40, 0.5)
    border = next(row for row in found.probes if row.sees == "border")
    assert border.accuracy.value > 0.9
    assert (border.accuracy.n, border.accuracy_on_test.n) == (40, 10)
    run = found.runs["trial2"]
    assert run.accuracy == Estimate(0.9, 0.8, 0.95, 10, "x")
    right = {
        row[0]: (float(row[2]) >= 0.5) == (row[1] == "1") for row in csv.reader(predictions.decode().splitlines()[1:])
    }
    splits = pd.read_csv(tmp_path / "split.csv")
    test = list(splits[splits["subset"] == "test"]["path"])
    for estimate, is_right in ((run.where_probe_is_right, True), (run.where_probe_is_wrong, False)):
        those = [path for path in test if right[path] == is_right]
        if not those:
            assert estimate is None
            continue
        share = sum(path not in WRONG for path in those) / len(those)
        assert estimate
        assert (estimate.value, estimate.n) == (pytest.approx(share, abs=1e-6), len(those))
        assert estimate.low <= share <= estimate.high
    lines = predictions.decode().splitlines()
    assert lines[0] == "path,y_true,y_score"
    assert lines[1:] == sorted(lines[1:])
    assert len(lines) == 41


def test_a_run_where_the_probe_is_right_and_where_it_is_wrong() -> None:
    document, predictions = drawn_runs.finished_run("trial2", n=20)[1:]
    test = predictions[predictions["subset"] == "test"]
    run_right = (test.y_score >= 0.5) == (test.y_true == 1)
    probe_right = pd.Series([number % 4 > 0 for number in range(20)], index=test.path)
    found = probes.beside(document, predictions, probe_right, 0.95)
    for estimate, is_right in ((found.where_probe_is_right, True), (found.where_probe_is_wrong, False)):
        there = run_right[(probe_right == is_right).to_numpy()]
        assert estimate == Estimate.proportion(int(there.sum()), len(there), 0.95)
    with pytest.raises(InputError, match="the predictions of trial2 hold images that the audit does not"):
        probes.beside(document, predictions, probe_right.iloc[1:], 0.95)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    assert run_probe(tmp_path)[1:] == run_probe(tmp_path)[1:]


def test_a_missing_run_is_one_line_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "describe", lambda *_: pytest.fail("worked"))
    with pytest.raises(InputError, match=r"runs/trial2\.json not found"):
        run_probe(tmp_path, run=False)
    assert not (tmp_path / "o").exists()
