"""Export a trained model to ONNX, once it is shown to say the same.

    python -m faces.export OUT.onnx [--model FOLDER] [-q]

Input `images`: uint8 [N, 3, crop, crop], RGB; the photograph turned upright and resized (bilinear, antialiased) to a
square of `resize` pixels, then to one of `crop` pixels. Output `probability`: float32 [N], of Down syndrome. Inside are
normalisation, calibration, softmax and, where the run's evaluation takes it, the mean with the mirror image. The file's
metadata hold the two sizes, the threshold, the source of the training images, the precision of the training, the
model's SHA-256, and that it is no diagnostic.

Where the metadata give `align`, the square of `resize` pixels is not the whole photograph but its face, turned upright
by five landmarks as faces/images/align.py does it. The file holds neither that nor the network that finds the
landmarks, which is detector.onnx of the model's folder; an image without a face is taken whole.

The file computes in float32. It is written only if its probabilities differ from PyTorch's, in float32 too, by at most
TOLERANCE. `faces.predict` computes in the precision of the training: where that is bf16, the two may differ by more.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from faces.cli import InFolder, InputError, OutFileOrDevice, run
from faces.files import check_output, write_through
from faces.predict import MODEL, NOTICE

if TYPE_CHECKING:
    from faces.training.inference import Classifier

TOLERANCE = 1e-4  # largest difference of a probability between ONNX Runtime and PyTorch that is accepted
OPSET = 18


def export(classifier: "Classifier") -> Any:
    """Return the ONNX model (onnx.ModelProto) of a classifier, for any number of images at once."""
    import torch

    example = torch.zeros(2, 3, classifier.size, classifier.size, dtype=torch.uint8)
    program = torch.onnx.export(
        classifier,
        (example,),
        input_names=["images"],
        output_names=["probability"],
        opset_version=OPSET,
        dynamic_shapes={"images": {0: torch.export.Dim("n")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def difference(classifier: "Classifier", content: bytes, images: NDArray[np.uint8]) -> float:
    """Return the largest difference of a probability between ONNX Runtime and PyTorch on images [N, 3, size, size]."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (there,) = session.run(["probability"], {"images": images})
    with torch.inference_mode():
        here = classifier(torch.from_numpy(images)).numpy()
    return float(np.abs(there - here).max())


def made_here(path: Path) -> bool:
    """Say whether a file is one that this command has written: it may write it again."""
    import onnx

    try:
        return any(prop.value == NOTICE for prop in onnx.load(path, load_external_data=False).metadata_props)
    except Exception:  # protobuf's own, which has no public name that mypy knows
        return False


def main(
    out: Annotated[OutFileOrDevice, typer.Argument(help="the ONNX file to write")],
    model: Annotated[
        InFolder,
        typer.Option(help="folder with model.pt, run.json, threshold.json", show_default="models/runs/improved"),
    ] = MODEL,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="nothing on stdout")] = False,
) -> None:
    """Write a trained model as ONNX, once it agrees with PyTorch.

    Example: python -m faces.export improved.onnx --model models/runs/improved
    """
    check_output(out, made_here)

    import onnx
    import torch

    from faces.training.inference import Classifier, load_run, read_threshold

    trained = load_run(model)
    threshold = read_threshold(model, trained.facts["model_sha256"])
    exact = trained.recipe.model_copy(update={"precision": "fp32"})
    classifier = Classifier(trained.network, exact, torch.float32)
    exported = export(classifier)
    about = {
        "model_sha256": trained.facts["model_sha256"],
        "source": trained.facts["source"],
        "resize": trained.recipe.transforms.resize,
        "crop": classifier.size,
        "threshold": threshold.value,
        "target_recall": threshold.target_recall,
        "trained_precision": trained.recipe.precision,
        "precision": exact.precision,
        "notice": NOTICE,
    }
    if trained.recipe.transforms.align is not None:
        about["align"] = trained.recipe.transforms.align
    onnx.helper.set_model_props(exported, {key: str(value) for key, value in about.items()})
    onnx.checker.check_model(exported, full_check=True)
    content: bytes = exported.SerializeToString()
    images = np.random.default_rng(0).integers(0, 256, (8, 3, classifier.size, classifier.size), dtype=np.uint8)
    worst = difference(classifier, content, images)
    if not worst <= TOLERANCE:
        raise InputError(f"{model}: the ONNX model's probability differs by {worst:.2g}, more than {TOLERANCE}")
    write_through(out, content)
    if quiet:
        return
    predicted = difference(trained.classifier(torch.device("cpu")), content, images)
    print(
        f"{out}: {len(content) / 1e6:.1f} MB; largest difference on {len(images)} random images: "
        f"{worst:.1e} from PyTorch in float32, {predicted:.1e} from faces.predict ({trained.recipe.precision})"
    )


if __name__ == "__main__":
    run(main)
