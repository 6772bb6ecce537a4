"""The drawn faces: the same bytes each time, the real set's oddities where they are said to be, and no others."""

import hashlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from faces.params import load_params
from faces.source.sample import draw

N = 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    draw(root, N)
    return root


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_same_arguments_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    draw(tmp_path / "again", N)
    draw(tmp_path / "other", N, seed=1)
    assert digests(tmp_path / "again") == digests(root)
    other = digests(tmp_path / "other")
    assert other.keys() == digests(root).keys()
    assert other["healthy/healty_1.jpg"] != digests(root)["healthy/healty_1.jpg"]


def test_more_images_leave_the_others_as_they_were(root: Path, tmp_path: Path) -> None:
    draw(tmp_path, N + 4)
    more, fewer = digests(tmp_path), digests(root)
    assert all(more[f"healthy/healty_{i}.jpg"] == fewer[f"healthy/healty_{i}.jpg"] for i in range(1, N))


def test_counts_sizes_and_names(root: Path) -> None:
    names = list(digests(root))
    down = [name for name in names if name.startswith("down_syndrome/down_")]
    healthy = [name for name in names if name.startswith("healthy/healty_")]
    assert len(down) == N
    assert len(healthy) == N + 1  # one of them unreadable
    assert set(names) - set(down) - set(healthy) == {"down_syndrome/Thumbs.db"}
    readable = [root / name for name in [*down, *healthy] if name != f"healthy/healty_{N + 1}.jpg"]
    assert {opened(path).size for path in readable} == {(300, 300)}
    assert {path.suffix for path in readable} == {".jpg", ".jpeg", ".png"}


def test_planted_oddities(root: Path) -> None:
    down, healthy = root / "down_syndrome", root / "healthy"
    assert opened(down / "down_2.png").mode == "P"
    transparent = opened(down / "down_3.png")
    assert transparent.mode == "RGBA"
    assert np.asarray(transparent.getchannel("A")).min() < 255
    assert opened(down / "down_4.jpeg").format == "JPEG"
    for stem in ("down_2", "down_3"):  # one stem, two extensions, two pictures
        first, second = (np.asarray(opened(down / f"{stem}{suffix}").convert("RGB")) for suffix in (".jpg", ".png"))
        assert not np.array_equal(first, second)
    with pytest.raises(UnidentifiedImageError):
        Image.open(down / "Thumbs.db")
    with pytest.raises(OSError, match="truncated"):
        opened(healthy / f"healty_{N + 1}.jpg")


def test_no_duplicates_but_the_planted_ones(root: Path) -> None:
    paths = [path for path in sorted(root.rglob("*_*.*")) if path.name != f"healty_{N + 1}.jpg"]
    bits = np.array([imagehash.phash(opened(path).convert("RGB")).hash.ravel() for path in paths])
    distance = (bits[:, None] != bits[None]).sum(axis=-1)
    close = np.argwhere(np.triu(distance <= load_params().audit.hash_distance, 1))
    pairs = {(paths[i].name, paths[j].name) for i, j in close}
    assert pairs == {("down_1.jpg", f"down_{N}.jpg"), ("healty_1.jpg", f"healty_{N}.jpg")}
    down, healthy = root / "down_syndrome", root / "healthy"
    assert (down / "down_1.jpg").read_bytes() == (down / f"down_{N}.jpg").read_bytes()
    near = [np.asarray(opened(healthy / f"healty_{i}.jpg")).astype(int) for i in (1, N)]
    assert 0 < np.abs(near[0] - near[1]).mean() < 16


def test_classes_can_be_learnt_but_not_mastered(root: Path) -> None:
    """Nearest class mean on three numbers, the mean colour, odd images learnt from and even ones judged."""
    colours = {
        label: np.array([np.asarray(opened(p).convert("RGB")).mean(axis=(0, 1)) for p in readable(root / label)])
        for label in ("healthy", "down_syndrome")
    }
    means = {label: values[::2].mean(axis=0) for label, values in colours.items()}
    right = [
        np.linalg.norm(colour - means[label]) < np.linalg.norm(colour - means[other])
        for label, other in (("healthy", "down_syndrome"), ("down_syndrome", "healthy"))
        for colour in colours[label][1::2]
    ]
    assert 0.6 < np.mean(right) < 1


def readable(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*_*.*")) if path.name != f"healty_{N + 1}.jpg"]


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 8"):
        draw(tmp_path, 7)
