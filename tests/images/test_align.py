"""Faces turned upright by their landmarks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faces.images import align, decode

SIZE = 128


def moved(angle: float, scale: float, shift: tuple[float, float]) -> align.Points:
    """Return the template's points, turned, scaled and shifted."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found: align.Points = scale * align.TEMPLATE @ turn.T + np.array(shift)
    return found


def in_place(share: float, size: int = SIZE) -> align.Points:
    """Return where the template's points lie in an aligned picture."""
    found: align.Points = (align.TEMPLATE / align.TEMPLATE_SIDE - 0.5) * (share * size) + size / 2
    return found


@settings(max_examples=50, deadline=None)
@given(
    angle=st.floats(-3, 3),
    scale=st.floats(0.1, 10),
    shift=st.tuples(st.floats(-50, 500), st.floats(-50, 500)),
    share=st.floats(0.2, 1.0),
)
def test_a_moved_template_comes_back_to_its_place(
    angle: float, scale: float, shift: tuple[float, float], share: float
) -> None:
    points = moved(angle, scale, shift)
    matrix = align.similarity(points, SIZE, share)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], in_place(share), atol=1e-6)


def test_no_other_similarity_comes_nearer() -> None:
    rng = np.random.default_rng(0)
    points = moved(0.3, 2.0, (40, 30)) + rng.normal(0, 5, (5, 2))
    matrix = align.similarity(points, SIZE, 0.8)

    def distance(turn: complex, shift: complex) -> float:
        x, y = points @ np.array([1, 1j]), in_place(0.8) @ np.array([1, 1j])
        return float((abs(turn * x + shift - y) ** 2).sum())

    turn, shift = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
    best = distance(turn, shift)
    for step in (1e-3, 1e-3j, -1e-3, -1e-3j):
        assert distance(turn + step, shift) > best
        assert distance(turn, shift + step) > best


@pytest.mark.parametrize(("scale", "angle"), [(0.6, 0.2), (1.0, 0.0), (3.0, -0.5)])
def test_marks_on_a_picture_come_to_the_templates_place(scale: float, angle: float) -> None:
    points = moved(angle, scale, (80, 60))
    y, x = np.mgrid[0:500, 0:600]
    picture = np.zeros((500, 600, 3), np.uint8)
    for colour, (px, py) in enumerate(points[[0, 1, 3]]):  # both eyes, a corner of the mouth
        picture[..., colour] = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (4 * scale) ** 2))
    seen = align.to_array(Image.fromarray(picture), SIZE, points, 0.8).astype(float)
    assert seen.shape == (3, SIZE, SIZE)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    for colour, (px, py) in enumerate(in_place(0.8)[[0, 1, 3]]):
        weight = seen[colour] / seen[colour].sum()
        assert ((weight * columns).sum(), (weight * rows).sum()) == pytest.approx((px, py), abs=1.0)


def test_what_lies_outside_the_picture_repeats_its_edge() -> None:
    points = moved(0, 1, (-30, 0))  # the face is partly left of the picture
    seen = align.to_array(Image.new("RGB", (80, 112), (10, 200, 30)), SIZE, points, 1.0)
    assert np.unique(seen.reshape(3, -1), axis=1).T.tolist() == [[10, 200, 30]]


def test_images_with_landmarks_are_aligned_and_the_others_are_resized_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(noise).save(tmp_path / name)
    landmarks = {"a.png": moved(0.1, 0.4, (5, 5))}
    first, second = decode.load(tmp_path, ["a.png", "b.png"], 32, landmarks=landmarks, share=0.8)
    image = Image.fromarray(noise)
    assert np.array_equal(first, align.to_array(image, 32, landmarks["a.png"], 0.8))
    assert np.array_equal(second, decode.to_array(image, 32))
    assert not np.array_equal(first, second)


def test_landmarks_are_read_where_a_face_was_found(tmp_path: Path) -> None:
    row = ",".join(f"{i}.5" for i in range(10))
    text = f"path,faces,score,{','.join(align.COLUMNS)}\nhealthy/NA,1,0.9,{row}\nhealthy/none.jpg,0,{',' * 10}\n"
    (tmp_path / "landmarks.csv").write_text(text, encoding="utf-8")
    found = align.read_landmarks(tmp_path / "landmarks.csv")
    assert list(found) == ["healthy/NA"]
    assert found["healthy/NA"].tolist() == [[i + 0.5, i + 1.5] for i in range(0, 10, 2)]
    assert align.content(found, ["healthy/NA", "x"]) != align.content(found, ["x", "healthy/NA"])
