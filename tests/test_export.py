"""The ONNX file: the same answers as PyTorch, any number of images, and what it says of itself."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from trained import model_folder, recipe

from faces import export
from faces.cli import InputError
from faces.files import file_sha256
from faces.training.inference import Classifier, load_run

# with the mirror image, and a cut in the middle: all that evaluation may do
SMALL = recipe(
    freeze="layer2",
    precision="bf16",
    transforms={"resize": 50, "crop": 64, "evaluation_crop": 72, "evaluation_flip": True},
)
SIZE = 72


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"), SMALL)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("out") / "new" / "model.onnx"
    export.main(target, model)
    return target


def test_parity_with_evaluation_for_any_number_of_images(model: Path, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported.read_bytes(), providers=["CPUExecutionProvider"])
    trained = load_run(model)
    evaluated = Classifier(trained.network, SMALL.model_copy(update={"precision": "fp32"}))
    for n in (1, 5):
        images = np.random.default_rng(n).integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8)
        (there,) = session.run(None, {"images": images})
        with torch.inference_mode():
            here = evaluated(torch.from_numpy(images)).numpy()
        assert there.shape == (n,)
        assert there.dtype == np.float32
        assert np.abs(there - here).max() <= export.TOLERANCE
    assert 0.001 < here.min() < here.max() < 0.999  # saturated answers would agree whatever came before them
    transforms = SMALL.transforms.model_copy(update={"evaluation_flip": False})
    one_view = Classifier(trained.network, SMALL.model_copy(update={"precision": "fp32", "transforms": transforms}))
    with torch.inference_mode():
        assert np.abs(there - one_view(torch.from_numpy(images)).numpy()).max() > 10 * export.TOLERANCE  # it matters


def test_prediction_in_the_precision_of_the_training_is_near(model: Path, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported.read_bytes(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(5).integers(0, 256, (5, 3, SIZE, SIZE), dtype=np.uint8)
    (there,) = session.run(None, {"images": images})
    with torch.inference_mode():
        predicted = load_run(model).classifier(torch.device("cpu"))(torch.from_numpy(images)).numpy()
    assert np.abs(there - predicted).max() < 0.05


def test_what_the_file_says_of_itself(model: Path, exported: Path) -> None:
    props = {prop.key: prop.value for prop in onnx.load(exported).metadata_props}
    assert "not a diagnostic" in props.pop("notice")
    assert props == {
        "model_sha256": file_sha256(model / "model.pt"),
        "source": "kaggle",
        "resize": "50",
        "crop": str(SIZE),
        "threshold": "0.5",
        "target_recall": "0.98",
        "trained_precision": "bf16",
        "precision": "fp32",
    }


def test_a_difference_is_refused_and_nothing_written(
    model: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = exported.read_bytes()

    def off(classifier: Classifier, content: bytes, images: np.ndarray) -> float:
        with torch.no_grad():
            classifier.tail.fc.bias[1] += 0.1
        return true_difference(classifier, content, images)

    true_difference = export.difference
    monkeypatch.setattr(export, "export", lambda classifier: onnx.load_model_from_string(content))
    monkeypatch.setattr(export, "difference", off)
    with pytest.raises(InputError, match=r"differs by 0\.00"):
        export.main(exported.parent / "never.onnx", model)
    assert not (exported.parent / "never.onnx").exists()


def test_an_output_that_cannot_be_written_is_told_before_any_work(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    own = tmp_path / "own.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "of somebody else", [], [])), own)
    for out, says in {
        tmp_path: "is a folder",
        tmp_path / "notes.txt/model.onnx": "is not a folder",
        tmp_path / "notes.txt": "not an earlier output of this command",
        own: "not an earlier output of this command",
    }.items():
        with pytest.raises(InputError, match=says):
            export.main(out, tmp_path / "no model")  # which would be told later
    with pytest.raises(InputError, match="no model holds no trained model"):
        export.main(exported, tmp_path / "no model")  # its own output may be replaced
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_link_is_written_through(
    model: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = exported.read_bytes()
    monkeypatch.setattr(export, "export", lambda classifier: onnx.load_model_from_string(content))
    (tmp_path / "link.onnx").symlink_to(tmp_path / "there.onnx")
    export.main(tmp_path / "link.onnx", model)
    assert (tmp_path / "link.onnx").is_symlink()
    assert not (tmp_path / "there.onnx").is_symlink()
    export.main(Path("/dev/null"), model)
    assert Path("/dev/null").is_char_device()


def test_a_model_folder_without_a_record(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "model.pt", tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"run\.json is missing"):
        export.main(tmp_path / "model.onnx", tmp_path)
