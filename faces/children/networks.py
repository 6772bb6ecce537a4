"""SFace, OpenCV's network that turns a face which YuNet has found into 128 numbers.

They are biometric data of the person on the photograph.
Zhong, Y. et al. (2021). SFace: sigmoid-constrained hypersphere loss for robust face recognition. IEEE TIP 30.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faces.images.yunet import YUNET, ZOO, Detector, Network, on_the_picture

WIDTH = 128  # numbers in an embedding


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
        """Load the networks from a folder; see `Detector`."""
        self.detector = Detector(folder / YUNET.name, score, longest_side)
        self.recogniser = cv2.FaceRecognizerSF.create(str(folder / SFACE.name), "")

    def largest(self, image: Image.Image) -> tuple[Face | None, int]:
        """Return the largest face of an RGB picture (None if there is none), and how many there are."""
        pixels, scale = self.detector.shrunk(image)
        row, found = self.detector.largest(pixels)
        if row is None:
            return None, found
        embedding = self.recogniser.feature(self.recogniser.alignCrop(pixels, row))[0]
        embedding = embedding / np.linalg.norm(embedding)
        places = on_the_picture(row, scale)
        return Face(round(float(row[14]), 4), tuple(places[:4]), tuple(places[4:]), embedding), found
