"""Faces turned upright and to one size, by their landmarks; the landmarks are biometric data and stay in DVC's cache.

The five points of YuNet (the eyes, the nose, the corners of the mouth) are laid over those of the template that face
recognition uses, by the similarity that fits best in squares: a turn, a size and a shift (Umeyama 1991; the template
is that of Deng et al. 2019, ArcFace).
"""

import io
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

Points = NDArray[np.float64]  # [5, 2]: x, y in pixels of the upright picture, in the order of POINTS

POINTS = ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth")  # right and left as the person's own
COLUMNS = tuple(f"{point}_{axis}" for point in POINTS for axis in "xy")
TEMPLATE = np.array(  # of a square of 112 pixels
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIDE = 112


def read_landmarks(path: Path) -> dict[str, Points]:
    """Return the landmarks of each image in which a face was found, by the image's path."""
    table = pd.read_csv(path, keep_default_na=False, na_values={column: [""] for column in COLUMNS})
    found = table.dropna(subset=list(COLUMNS))
    points = found[list(COLUMNS)].to_numpy(dtype=np.float64).reshape(-1, len(POINTS), 2)
    return dict(zip(found["path"].astype(str), points, strict=True))


def similarity(points: Points, size: int, share: float) -> NDArray[np.float64]:
    """Return the matrix [2, 3] that takes the landmarks, as nearly as can be, to the template's place.

    share: the side of the template's square as a share of the picture's, `size` pixels; it lies in the middle.
    """
    target = (TEMPLATE / TEMPLATE_SIDE - 0.5) * (share * size) + size / 2
    x, y = (places[:, 0] + 1j * places[:, 1] for places in (points, target))
    turn = np.vdot(x - x.mean(), y - y.mean()) / np.vdot(x - x.mean(), x - x.mean()).real
    shift = y.mean() - turn * x.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def to_array(image: Image.Image, size: int, points: Points, share: float) -> NDArray[np.uint8]:
    """Return an RGB picture with its face turned upright and put in the middle: uint8 [3, size, size].

    A picture that must shrink is shrunk first, with antialiasing. What lies outside it repeats its edge.
    """
    matrix = similarity(points, size, share)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 1:
        shrunk = max(1, round(scale * image.width)), max(1, round(scale * image.height))
        matrix[:, :2] *= np.array([image.width / shrunk[0], image.height / shrunk[1]])
        image = image.resize(shrunk, Image.Resampling.BILINEAR)
    pixels = cv2.warpAffine(
        np.asarray(image), matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(pixels, dtype=np.uint8).transpose(2, 0, 1)


def content(landmarks: Mapping[str, Points], paths: list[str]) -> bytes:
    """Return the landmarks of these images as bytes, for a hash; an image without a face counts, too."""
    out = io.BytesIO()
    for path in paths:
        out.write(landmarks[path].tobytes() if path in landmarks else b"none")
    return out.getvalue()
