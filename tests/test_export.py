"""The ONNX file: the same answers as PyTorch, any number of images, and what it says of itself."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchvision.models import ResNet, resnet34

from faces import export
from faces.cli import InputError
from faces.files import file_sha256
from faces.params import load_params
from faces.training.transforms import center, normalise

REPOSITORY = Path(__file__).parents[1]
SIZE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    torch.save(resnet34(num_classes=2).state_dict(), folder / "model.pt")
    transforms = load_params(REPOSITORY / "params.yaml").transforms.model_dump() | {"resize": 50, "crop": SIZE}
    (folder / "run.json").write_text(json.dumps({"transforms": transforms}))
    return folder / "model.pt"


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    target = model.parent / "out" / "model.onnx"
    export.main(model, target)
    return target


def test_parity_with_evaluation_for_any_number_of_images(model: Path, exported: Path) -> None:
    params = load_params(REPOSITORY / "params.yaml").transforms.model_copy(update={"resize": SIZE, "crop": SIZE})
    session = onnxruntime.InferenceSession(exported.read_bytes(), providers=["CPUExecutionProvider"])
    network = export.load_model(model)
    for n in (1, 5):
        images = np.random.default_rng(n).integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8)
        (there,) = session.run(None, {"images": images})
        with torch.inference_mode():
            here = network(center(torch.from_numpy(images), params)).softmax(dim=1)[:, 1].numpy()
        assert there.shape == (n,)
        assert there.dtype == np.float32
        assert np.abs(there - here).max() <= export.TOLERANCE
    assert 0.001 < here.min() < here.max() < 0.999  # saturated answers would agree whatever came before them


def test_with_the_mirror_image_where_evaluation_takes_it(model: Path, tmp_path: Path) -> None:
    facts = json.loads((model.parent / "run.json").read_text())
    facts["transforms"] |= {"evaluation_flip": True, "evaluation_crop": 72}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "model.pt").symlink_to(model)
    export.main(tmp_path / "model.pt", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession((tmp_path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 72, 72), dtype=np.uint8)
    (there,) = session.run(None, {"images": images})
    network = export.load_model(model)
    with torch.inference_mode():
        pixels = [normalise(torch.from_numpy(view)) for view in (images, images[..., ::-1].copy())]
        one, other = (network(view).softmax(dim=1)[:, 1].numpy() for view in pixels)
    assert np.abs(there - (one + other) / 2).max() <= export.TOLERANCE
    assert np.abs(one - other).max() > 10 * export.TOLERANCE  # it matters


def test_what_the_file_says_of_itself(model: Path, exported: Path) -> None:
    props = {prop.key: prop.value for prop in onnx.load(exported).metadata_props}
    assert props["model_sha256"] == file_sha256(model)
    assert (props["resize"], props["crop"]) == ("50", str(SIZE))
    assert "not a diagnostic" in props["notice"]


def test_a_difference_is_refused_and_nothing_written(
    model: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = exported.read_bytes()

    def other(network: ResNet, size: int, views: tuple[bool, ...]) -> onnx.ModelProto:
        return onnx.load_model_from_string(content)

    def off(network: ResNet, content: bytes, images: np.ndarray, views: tuple[bool, ...]) -> float:
        with torch.no_grad():
            network.fc.bias[1] += 0.01
        return true_difference(network, content, images, views)

    true_difference = export.difference
    monkeypatch.setattr(export, "export", other)
    monkeypatch.setattr(export, "difference", off)
    with pytest.raises(InputError, match=r"differs by 0\.00"):
        export.main(model, model.parent / "never.onnx")
    assert not (model.parent / "never.onnx").exists()


def test_missing_record(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").symlink_to(model)
    with pytest.raises(InputError, match=r"run.json is needed beside the model"):
        export.main(tmp_path / "model.pt", tmp_path / "model.onnx")
