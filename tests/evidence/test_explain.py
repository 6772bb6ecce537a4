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

from faces.cli import InputError
from faces.evidence import explain
from faces.images.decode import load
from faces.pages import figures
from faces.params import Transforms
from faces.training.transforms import center
from stages import explain as stage

REPOSITORY = Path(__file__).parents[2]


def small_resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 2], num_classes=2).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_grad_cam_follows_the_paper(images: Tensor) -> None:
    model = small_resnet()
    logits, maps = explain.grad_cam(model, images)
    assert np.allclose(logits, model(images).detach().numpy(), atol=1e-5)
    assert len(set(logits.argmax(1))) >= 1
    for i in range(len(images)):
        features = model.layer4(explain.trunk(model, images[i : i + 1])).detach().requires_grad_()  # A
        score = model.fc(model.avgpool(features).flatten(1))[0, int(logits[i].argmax())]  # y^c
        (gradient,) = torch.autograd.grad(score, features)
        alpha = gradient.mean(dim=(2, 3), keepdim=True)  # equation 1
        heat = (alpha * features.detach()).sum(1, keepdim=True).relu()  # equation 2
        heat = nn.functional.interpolate(heat, (64, 64), mode="bilinear")[0, 0].numpy()
        assert np.allclose(maps[i], heat / heat.sum() if heat.sum() else heat, atol=1e-6)


def test_maps_sum_to_one_or_are_empty(images: Tensor) -> None:
    _, maps = explain.grad_cam(small_resnet(), images)
    sums = maps.sum((1, 2))
    assert maps.min() >= 0
    assert np.all(np.isclose(sums, 1, atol=1e-5) | (sums == 0))


def test_an_image_with_nothing_for_its_class_has_an_empty_map(images: Tensor) -> None:
    model = small_resnet()
    nn.init.zeros_(model.fc.weight)
    _, maps = explain.grad_cam(model, images)
    assert not maps.any()


def test_batches_do_not_change_the_result(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explain.grad_cam(small_resnet(), images)
    monkeypatch.setattr(explain, "BATCH", 2)
    for one, other in zip(whole, explain.grad_cam(small_resnet(), images), strict=True):
        assert np.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("size", [64, 224, 250])
def test_both_masks_hide_the_same_number_of_pixels(size: int) -> None:
    mask = explain.middle_mask(size)
    assert abs(mask.mean() - 0.5) < 0.02
    assert (mask == mask[::-1, ::-1]).all()
    assert (mask == mask.T).all()
    assert mask[size // 2, size // 2]
    assert not mask[0, 0]


def test_hiding_paints_the_mean_colour_and_nothing_else(images: Tensor) -> None:
    mask = torch.from_numpy(explain.middle_mask(64)).expand_as(images)
    middle, surroundings = explain.hide(images, "middle"), explain.hide(images, "surroundings")
    assert not middle[mask].any()
    assert not surroundings[~mask].any()
    assert torch.equal(middle + surroundings, images)


class CentreReader(nn.Module):
    """Answers 1 where the centre pixel is positive."""

    def forward(self, images: Tensor) -> Tensor:
        centre = images[:, 0, 32, 32]
        return torch.stack([torch.zeros_like(centre), centre], dim=1)


def test_occlusion_finds_planted_evidence(images: Tensor) -> None:
    truth = (images[:, 0, 32, 32] > 0).numpy()
    model = CentreReader()
    assert (explain.predict(model, explain.hide(images, "surroundings")) == truth).all()
    assert not explain.predict(model, explain.hide(images, "middle")).any()


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
    pd.DataFrame(rows).to_csv(tmp_path / "splits.csv", index=False)
    (tmp_path / "model").mkdir()
    transforms = {"resize": 48, "crop": 64, "scale": [0.5, 1.0], "ratio": [0.75, 1.3], "flip": 0.5}
    facts = {"run": "train", "source": "sample", "transforms": transforms}
    (tmp_path / "model" / "run.json").write_text(json.dumps(facts))
    other = {**facts, "run": "trials.other", "transforms": {**transforms, "resize": 40, "crop": 48}}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text(json.dumps(other))
    monkeypatch.setattr("faces.training.model.load_model", lambda _: small_resnet())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(run: Path, out: str = "out") -> dict[str, bytes]:
    folder = run / out
    outputs = folder / "explain.json", folder / "plots", folder / "gallery"
    stage.main(run / "data", run / "splits.csv", run / "model", *outputs, beside=[run / "other"])
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_stage_writes_averages_counts_and_gallery(run: Path) -> None:
    files = call(run)
    metrics = json.loads(files["explain.json"])
    assert metrics["source"] == "sample"
    assert {row["n"] for row in metrics["accuracy"].values()} == {10}
    for row in metrics["accuracy"].values():
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert {label: row["n"] for label, row in metrics["heat_in_middle"].items()} == {"healthy": 5, "down_syndrome": 5}
    (beside,) = metrics["beside"]
    assert beside["run"] == "trials.other"
    assert beside["accuracy"].keys() == metrics["accuracy"].keys()
    photos = load(run / "data", sorted(f"{row}" for row in pd.read_csv(run / "splits.csv")["path"][:10]), 40)
    small = Transforms(resize=40, crop=48, scale=(0.5, 1.0), ratio=(0.75, 1.3), flip=0.5)
    answers = explain.predict(small_resnet(), explain.hide(center(torch.from_numpy(photos), small), "middle"))
    labels = np.array([path.startswith("down") for path in sorted(pd.read_csv(run / "splits.csv")["path"][:10])])
    assert beside["accuracy"]["middle_hidden"]["value"] == pytest.approx((answers == labels).mean())
    drawn = {name for name in files if name.startswith("plots/")}
    assert drawn == {"plots/healthy.png", "plots/down_syndrome.png", "plots/occlusion.png"}

    page = files["gallery/index.html"].decode()
    test = pd.read_csv(run / "splits.csv").query("subset == 'test'")
    for path in test["path"]:
        assert f"gallery/{path}.photo.jpg" in files
        assert f"gallery/{path}.map.jpg" in files
        assert page.count(f"<figcaption>{path}:") == 1
    right = round(10 * metrics["accuracy"]["whole_picture"]["value"])
    assert f"({right})" in page.split("Right, the least sure first")[1][:20]
    assert "down_syndrome/p%200.png.map.jpg" in page


def test_stage_gives_the_same_bytes_again(run: Path) -> None:
    assert call(run) == call(run, "again")


def test_the_averages_in_git_do_not_show_the_pictures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, "heat_map", lambda heat, *_: drawn.append(heat) or figures.Figure())
    call(run)
    test = pd.read_csv(run / "splits.csv").query("subset == 'test'").sort_values("path")
    photos = load(run / "data", test["path"].tolist(), 48)
    transforms = Transforms.model_validate(json.loads((run / "model" / "run.json").read_text())["transforms"])
    _, maps = explain.grad_cam(small_resnet(), center(torch.from_numpy(photos), transforms))
    for index in (0, 1):
        assert np.allclose(drawn[index], maps[test["y_true"].to_numpy() == index].mean(axis=0))


def test_a_test_subset_without_a_class_is_one_clear_line(run: Path) -> None:
    splits = pd.read_csv(run / "splits.csv")
    splits[splits["label"] == "healthy"].to_csv(run / "splits.csv", index=False)
    with pytest.raises(InputError, match="lacks a class"):
        call(run)
