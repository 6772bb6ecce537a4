"""OpenCV's two face networks: YuNet finds faces, SFace turns an aligned face into 128 numbers.

What they return of a photograph, landmarks and embeddings, is biometric data of the person on it.
Wu, W., Peng, H., Yu, S. (2023). YuNet: a tiny millisecond-level face detector. Machine Intelligence Research 20.
Zhong, Y. et al. (2021). SFace: sigmoid-constrained hypersphere loss for robust face recognition. IEEE TIP 30.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

ZOO = "https://github.com/opencv/opencv_zoo/raw/966be4cb6eefc2a4f586ed0581bf4bbaa2533070/models"
WIDTH = 128  # numbers in an embedding
OVERLAP = 0.3  # of two boxes, intersection over union, above which YuNet keeps the surer one (the zoo's own value)
BOX = ("x", "y", "width", "height")
LANDMARKS = tuple(
    f"{point}_{axis}" for point in ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth") for axis in "xy"
)  # right and left as the person's own; the order of YuNet's answer


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
SFACE = Network(
    f"{ZOO}/face_recognition_sface/face_recognition_sface_2021dec_int8bq.onnx",
    "sface.onnx",
    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
)


@dataclass(frozen=True)
class Face:
    """One face: YuNet's score, box and landmarks in pixels of the picture, the embedding [128] of length one."""

    score: float
    box: tuple[float, ...]  # in the order of BOX
    landmarks: tuple[float, ...]  # in the order of LANDMARKS
    embedding: NDArray[np.float32]


class Faces:
    """Both networks, loaded; not for several threads at once."""

    def __init__(self, folder: Path, score: float, longest_side: int) -> None:
        """Load the networks from a folder.

        score: a face is what YuNet is at least this sure of; longest_side: larger pictures are shrunk to it first,
        in pixels, for YuNet was made for faces of 10 to 300.
        """
        self.longest_side = longest_side
        self.detector = cv2.FaceDetectorYN.create(str(folder / YUNET.name), "", (32, 32), score, OVERLAP)
        self.recogniser = cv2.FaceRecognizerSF.create(str(folder / SFACE.name), "")

    def largest(self, image: Image.Image) -> tuple[Face | None, int]:
        """Return the largest face of an RGB picture (None if there is none), and how many there are."""
        scale = min(1.0, self.longest_side / max(image.size))
        if scale < 1:
            size = round(scale * image.width) or 1, round(scale * image.height) or 1
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3)
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # OpenCV's order is blue, green, red
        self.detector.setInputSize(image.size)
        _, found = self.detector.detect(pixels)
        if found is None:
            return None, 0
        row = max(found, key=lambda row: (row[2] * row[3], row[14]))
        row[:14] = row[:14].round(2)  # the digits that are kept
        embedding = self.recogniser.feature(self.recogniser.alignCrop(pixels, row))[0]
        embedding = embedding / np.linalg.norm(embedding)
        places = [round(float(value) / scale, 2) for value in row[:14]]
        return Face(round(float(row[14]), 4), tuple(places[:4]), tuple(places[4:]), embedding), len(found)
