"""Grad-CAM against its own equations, the masks against planted evidence, and the stage on drawn pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from trained import model_folder, recipe

from faces.cli import InputError
from faces.evidence import explain
from faces.images.decode import load
from faces.pages import figures
from faces.training.inference import Classifier
from faces.training.recipe import Recipe
from faces.training.transforms import IMAGENET_MEAN, normalise, resize
from stages import explain as stage

REPOSITORY = Path(__file__).parents[2]
MEAN = torch.tensor([round(255 * mean) for mean in IMAGENET_MEAN], dtype=torch.uint8).view(3, 1, 1)


ACTIVE = recipe(transforms={"resize": 48, "crop": 64})
OTHER = recipe(transforms={"resize": 40, "crop": 48, "evaluation_flip": True})


def small_resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 2], num_classes=2).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_grad_cam_follows_the_paper(images: Tensor) -> None:
    model, classes = small_resnet(), np.array([0, 1, 1, 0, 1])
    maps = explain.grad_cam(model, images, classes)
    for i in range(len(images)):
        x = model.maxpool(model.relu(model.bn1(model.conv1(normalise(images[i : i + 1])))))
        features = model.layer4(model.layer3(model.layer2(model.layer1(x)))).detach().requires_grad_()  # A
        score = model.fc(model.avgpool(features).flatten(1))[0, int(classes[i])]  # y^c
        (gradient,) = torch.autograd.grad(score, features)
        alpha = gradient.mean(dim=(2, 3), keepdim=True)  # equation 1
        heat = (alpha * features.detach()).sum(1, keepdim=True).relu()  # equation 2
        heat = nn.functional.interpolate(heat, (64, 64), mode="bilinear")[0, 0].numpy()
        assert np.allclose(maps[i], heat / heat.sum() if heat.sum() else heat, atol=1e-6)
    assert not np.allclose(maps, explain.grad_cam(model, images, 1 - classes), atol=1e-6)


def test_maps_sum_to_one_or_are_empty(images: Tensor) -> None:
    maps = explain.grad_cam(small_resnet(), images, np.zeros(5, np.int64))
    sums = maps.sum((1, 2))
    assert maps.min() >= 0
    assert np.all(np.isclose(sums, 1, atol=1e-5) | (sums == 0))


def test_an_image_with_nothing_for_its_class_has_an_empty_map(images: Tensor) -> None:
    model = small_resnet()
    nn.init.zeros_(model.fc.weight)
    assert not explain.grad_cam(model, images, np.zeros(5, np.int64)).any()


def test_batches_do_not_change_the_result(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.array([0, 1, 1, 0, 1])
    at_once = explain.grad_cam(small_resnet(), images, classes)
    monkeypatch.setattr(explain, "BATCH", 2)
    assert np.allclose(at_once, explain.grad_cam(small_resnet(), images, classes), atol=1e-6)


@pytest.mark.parametrize("size", [64, 224, 250])
def test_both_masks_hide_the_same_number_of_pixels(size: int) -> None:
    mask = explain.middle_mask(size)
    assert abs(mask.mean() - 0.5) < 0.02
    assert (mask == mask[::-1, ::-1]).all()
    assert (mask == mask.T).all()
    assert mask[size // 2, size // 2]
    assert not mask[0, 0]


def test_hiding_paints_the_mean_colour_and_nothing_else(images: Tensor) -> None:
    mask = torch.from_numpy(explain.middle_mask(64))
    middle, surroundings = explain.hide(images, "middle"), explain.hide(images, "surroundings")
    assert torch.equal(middle, torch.where(mask, MEAN, images))
    assert torch.equal(surroundings, torch.where(mask, images, MEAN))
    assert torch.equal(explain.hide(images, "nothing"), images)
    assert normalise(MEAN.expand(1, 3, 32, 32)).abs().max() < 0.01  # what the network takes for nothing


def test_occlusion_finds_planted_evidence(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that answers 1 where the centre is brighter than the mean colour."""
    classifier = Classifier(small_resnet(), recipe(transforms={"resize": 64, "crop": 64}))
    monkeypatch.setattr(classifier, "forward", lambda seen: (seen[:, 0, 32, 32] > int(MEAN[0])).double())
    truth = np.array([1, 0, 0, 1, 0])
    images[:, 0, 32, 32] = torch.from_numpy(255 * truth).to(torch.uint8)
    surroundings = classifier.predict_proba(images, lambda seen: explain.hide(seen, "surroundings"))
    middle = classifier.predict_proba(images, lambda seen: explain.hide(seen, "middle"))
    assert (surroundings == truth).all()
    assert not middle.any()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve drawn test pictures (bright or dark), two with the same stem, and a small network."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        label = ("healthy", "down_syndrome")[i % 2]
        path = f"{label}/p {i // 4}.{'png' if i < 2 else 'jpg'}" if i < 4 else f"{label}/q_{i}.jpg"
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8) + np.uint8(100 * (i % 2))
        Image.fromarray(pixels).save(tmp_path / "data" / path)
        subset = "test" if i < 10 else "train"
        rows.append({"path": path, "label": label, "y_true": i % 2, "group": path, "subset": subset})
    (tmp_path / "split").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "split/seed1.csv", index=False)
    model_folder(tmp_path / "model", ACTIVE, source="sample", run="active")
    model_folder(tmp_path / "other", OTHER, source="sample", run="other")
    monkeypatch.setattr("faces.training.inference.load_model", lambda _: small_resnet())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(run: Path, out: str = "out") -> dict[str, bytes]:
    folder = run / out
    stage.main(
        run / "data",
        run / "split/seed1.csv",
        landmarks=run / "landmarks.csv",
        model=run / "model",
        beside=run / "other",
        metrics=folder / "explain.json",
        plots=folder / "plots",
        gallery=folder / "gallery",
    )
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def scores(run: Path, recipe: Recipe, part: explain.Hidden) -> np.ndarray:
    """Return y_score of the test subset, in the order of the paths."""
    paths = sorted(pd.read_csv(run / "split/seed1.csv").query("subset == 'test'")["path"])
    photos = torch.from_numpy(load(run / "data", paths, recipe.transforms.resize))
    return Classifier(small_resnet(), recipe).predict_proba(photos, lambda seen: explain.hide(seen, part))


def test_stage_writes_averages_counts_and_gallery(run: Path) -> None:
    files = call(run)
    metrics = json.loads(files["explain.json"])
    assert metrics["source"] == "sample"
    assert {row["n"] for row in metrics["accuracy"].values()} == {10}
    for row in metrics["accuracy"].values():
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert {label: row["n"] for label, row in metrics["heat_in_middle"].items()} == {"healthy": 5, "down_syndrome": 5}
    (beside,) = metrics["beside"]
    assert beside["run"] == "other"
    assert beside["accuracy"].keys() == metrics["accuracy"].keys()
    test = pd.read_csv(run / "split/seed1.csv").query("subset == 'test'").sort_values("path")
    for found, chosen in ((metrics, ACTIVE), (beside, OTHER)):
        right = (scores(run, chosen, "middle") >= 0.5) == test["y_true"].to_numpy()
        assert found["accuracy"]["middle_hidden"]["value"] == pytest.approx(right.mean())
    drawn = {name for name in files if name.startswith("plots/")}
    assert drawn == {"plots/healthy.png", "plots/down_syndrome.png", "plots/occlusion.png"}

    page = files["gallery/index.html"].decode()
    for path in test["path"]:
        assert f"gallery/{path}.photo.jpg" in files
        assert f"gallery/{path}.map.jpg" in files
        assert page.count(f"<figcaption>{path}:") == 1
    right = round(10 * metrics["accuracy"]["whole_picture"]["value"])
    assert f"({right})" in page.split("Right, the least sure first")[1][:20]
    assert "down_syndrome/p%200.png.map.jpg" in page


def test_a_run_on_another_split_does_not_stand_beside(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may have been trained on these test images."""
    facts = json.loads((run / "other/run.json").read_text())
    (run / "other/run.json").write_text(json.dumps(facts | {"split": "seed2"}))
    assert json.loads(call(run)["explain.json"])["beside"] == []
    assert "other is left out" in capsys.readouterr().err


def test_stage_gives_the_same_bytes_again(run: Path) -> None:
    assert call(run) == call(run, "again")


def test_the_averages_in_git_do_not_show_the_pictures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, "heat_map", lambda heat, *_: drawn.append(heat) or figures.Figure())
    call(run)
    test = pd.read_csv(run / "split/seed1.csv").query("subset == 'test'").sort_values("path")
    photos = torch.from_numpy(load(run / "data", test["path"].tolist(), 48))
    predicted = (scores(run, ACTIVE, "nothing") >= 0.5).astype(np.int64)
    maps = explain.grad_cam(small_resnet(), resize(photos, 64), predicted)
    for index in (0, 1):
        assert np.allclose(drawn[index], maps[test["y_true"].to_numpy() == index].mean(axis=0))


def test_a_test_subset_without_a_class_is_one_clear_line(run: Path) -> None:
    splits = pd.read_csv(run / "split/seed1.csv")
    splits[splits["label"] == "healthy"].to_csv(run / "split/seed1.csv", index=False)
    with pytest.raises(InputError, match="lacks a class"):
        call(run)
