"""YuNet, OpenCV's network that finds faces and their landmarks.

What it returns of a photograph is biometric data of the person on it.
Wu, W., Peng, H., Yu, S. (2023). YuNet: a tiny millisecond-level face detector. Machine Intelligence Research 20.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faces.images.align import Points

ZOO = "https://github.com/opencv/opencv_zoo/raw/966be4cb6eefc2a4f586ed0581bf4bbaa2533070/models"
OVERLAP = 0.3  # of two boxes, intersection over union, above which YuNet keeps the surer one (the zoo's own value)
BOX = ("x", "y", "width", "height")
DIGITS = 2  # of a place in pixels


@dataclass(frozen=True)
class Network:
    """A file of OpenCV's model zoo, the name it gets here, and its SHA-256."""

    url: str
    name: str
    sha256: str

    @property
    def file(self) -> str:
        """The name it has in the zoo."""
        return self.url.rsplit("/", 1)[1]


YUNET = Network(
    f"{ZOO}/face_detection_yunet/face_detection_yunet_2023mar_int8bq.onnx",
    "yunet.onnx",
    "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
)


class Detector:
    """YuNet, loaded; not for several threads at once."""

    def __init__(self, file: Path, score: float, longest_side: int) -> None:
        """Load the network from its file.

        score: a face is what YuNet is at least this sure of; longest_side: larger pictures are shrunk to it first,
        in pixels, for YuNet was made for faces of 10 to 300.
        """
        self.longest_side = longest_side
        self.network = cv2.FaceDetectorYN.create(str(file), "", (32, 32), score, OVERLAP)

    def shrunk(self, image: Image.Image) -> tuple[NDArray[np.uint8], float]:
        """Return the picture as the networks see it, in their order of colours, and by how much it was shrunk."""
        scale = min(1.0, self.longest_side / max(image.size))
        if scale < 1:
            size = round(scale * image.width) or 1, round(scale * image.height) or 1
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3)
        return np.ascontiguousarray(np.asarray(image)[:, :, ::-1]), scale  # blue, green, red

    def largest(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32] | None, int]:
        """Return YuNet's row of the largest face on such a picture (None if there is none), and how many there are.

        A row is the box, the landmarks and the score; all but the score are in pixels, to the digits that are kept.
        """
        self.network.setInputSize(pixels.shape[1::-1])
        _, found = self.network.detect(pixels)
        if found is None:
            return None, 0
        row: NDArray[np.float32] = max(found, key=lambda row: (row[2] * row[3], row[14]))
        row[:14] = row[:14].round(DIGITS)
        return row, len(found)

    def landmarks(self, image: Image.Image) -> Points | None:
        """Return the landmarks [5, 2] of the largest face of an RGB picture, as the stage `embed` writes them."""
        pixels, scale = self.shrunk(image)
        row, _ = self.largest(pixels)
        return None if row is None else np.array(on_the_picture(row, scale)[4:]).reshape(-1, 2)


def on_the_picture(row: NDArray[np.float32], scale: float) -> list[float]:
    """Return box and landmarks of a row of YuNet's in pixels of the picture before it was shrunk."""
    return [round(float(value) / scale, DIGITS) for value in row[:14]]
