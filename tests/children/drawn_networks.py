"""Two small networks with the interfaces of YuNet and SFace: a face is a red square, its embedding a thumbnail."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

from faces.children.networks import SFACE, WIDTH, YUNET

CELL = 32  # pixels: the coarsest of YuNet's grids, the only one that finds anything here
BOXES = {0: 32, 96: 64}  # blue of a red square -> pixels of the face's box


def write(folder: Path) -> None:
    """Write both networks under the names that the pipeline gives them."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_detector(), folder / YUNET.name)
    onnx.save(_recogniser(), folder / SFACE.name)


def picture(*faces: tuple[int, int, int], size: tuple[int, int] = (192, 160), scale: int = 1) -> Image.Image:
    """Return a grey picture with red squares: their cell's column and row, and their blue (BOXES)."""
    image = Image.new("RGB", size, (120, 120, 120))
    draw = ImageDraw.Draw(image)
    for column, row, blue in faces:
        x, y = column * CELL, row * CELL
        draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=(255, 0, blue))
    return image.resize((size[0] * scale, size[1] * scale), Image.Resampling.NEAREST)


def _detector() -> onnx.ModelProto:
    nodes, constants, outputs = [], [], []
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [f"pool{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        for name, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            weight, bias = np.zeros((channels, 3, 1, 1), np.float32), np.zeros(channels, np.float32)
            if name in ("cls", "obj"):  # blue, green, red: red without green
                weight[0, :, 0, 0] = (0, -1 / 16, 1 / 16)
                bias[0] = -8 if stride == CELL else -100
            elif name == "bbox":  # the middle of the cell; the logarithm of the width and the height
                bias[:2] = 0.5
                weight[2:, 0, 0, 0] = np.log(2) / 96
            else:  # eyes, nose, mouth: in cells from the cell's corner
                bias[:] = (0.25, 0.3, 0.75, 0.3, 0.5, 0.5, 0.3, 0.75, 0.7, 0.75)
            key = f"{name}_{stride}"
            shape = np.array([1, -1, channels], np.int64)
            constants += [
                numpy_helper.from_array(weight, f"{key}_w"),
                numpy_helper.from_array(bias, f"{key}_b"),
                numpy_helper.from_array(shape, f"{key}_s"),
            ]
            nodes.append(helper.make_node("Conv", [f"pool{stride}", f"{key}_w", f"{key}_b"], [f"{key}_c"]))
            last = f"{key}_c"
            if name in ("cls", "obj"):
                nodes.append(helper.make_node("Sigmoid", [last], [f"{key}_g"]))
                last = f"{key}_g"
            nodes.append(helper.make_node("Transpose", [last], [f"{key}_t"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"{key}_t", f"{key}_s"], [key]))
            outputs.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, [1, None, channels]))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])]
    return _model(nodes, inputs, outputs, constants)


def _recogniser() -> onnx.ModelProto:
    projection = np.random.default_rng(0).normal(size=(3 * 8 * 8, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["pool"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["fc1"]),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, WIDTH])],
        [numpy_helper.from_array(projection, "projection")],
    )


def _model(nodes, inputs, outputs, constants) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(nodes, "drawn", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
