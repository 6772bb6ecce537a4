"""Hostile and odd image files: each gives the right RGB pixels, or a reason in a few words."""

import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faces.cli import InputError
from faces.images import decode as images
from faces.images.decode import UnreadableError, decode, list_files, list_images, load
from faces.naming import LABELS

LIMIT = 50_000_000  # pixels
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
SMOOTH = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)  # survives JPEG


def pixels(path: Path, limit: int = LIMIT) -> np.ndarray:
    image = decode(path, limit)
    assert image.mode == "RGB"
    return np.asarray(image)


def reason(path: Path, limit: int = LIMIT) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(path, limit)
    assert len(caught.value.reason) < 100
    return caught.value.reason


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG file written by hand: what Pillow itself would refuse to write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# Right pixels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_keep_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).save(path, lossless=True)
    assert (pixels(path) == NOISE).all()


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, "PNG")
    assert (pixels(path) == NOISE).all()


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    undo = {  # what a camera held that way stored, from the upright picture
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    for orientation, stored in undo.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored(NOISE))).save(tmp_path / "a.png", exif=exif)
        assert (pixels(tmp_path / "a.png") == NOISE).all(), orientation


def test_corrupt_exif_neither_warns_nor_loses_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff"
    Image.fromarray(SMOOTH).save(path, exif=exif)
    with pytest.warns(UserWarning, match="Tag data|EXIF"), Image.open(path) as image:
        image.getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(path).shape == SMOOTH.shape


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (2, 2), (200, 0, 0, 128))
    half.save(tmp_path / "rgba.png")
    Image.new("LA", (2, 2), (0, 0)).save(tmp_path / "la.png")
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L")
    palette = palette.convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "index.png", transparency=0)
    palette.save(tmp_path / "bytes.png", transparency=b"\x80\xff")
    assert np.abs(pixels(tmp_path / "rgba.png")[0, 0].astype(int) - (227, 127, 127)).max() <= 1
    assert (pixels(tmp_path / "la.png") == 255).all()
    assert pixels(tmp_path / "index.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert pixels(tmp_path / "bytes.png")[0, 1].tolist() == [200, 100, 50]
    assert np.abs(pixels(tmp_path / "bytes.png")[0, 0].astype(int) - (132, 137, 142)).max() <= 1


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert pixels(tmp_path / f"a.{suffix}")[0].tolist() == [[v, v, v] for v in (0, 1, 128, 255)]


def test_16_bit_colour_is_scaled_not_clipped(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", 0, 128 * 257, 65535, 257, 2 * 257, 3 * 257)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, zlib.compress(row)))
    assert pixels(tmp_path / "a.png").tolist() == [[[0, 128, 255], [1, 2, 3]]]


def test_one_pixel_and_one_bit(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("1", (3, 2), 1).save(tmp_path / "b.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[1, 2, 3]]]
    assert (pixels(tmp_path / "b.png") == 255).all()


def test_a_still_gif_and_a_jpeg_with_previews_are_one_picture(tmp_path: Path) -> None:
    first, second = Image.fromarray(SMOOTH), Image.new("RGB", (30, 40), "red")
    Image.fromarray(SMOOTH[..., 0]).save(tmp_path / "a.gif")
    first.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    assert (pixels(tmp_path / "a.gif")[..., 1] == SMOOTH[..., 0]).all()
    assert np.abs(pixels(tmp_path / "b.jpg").astype(int) - SMOOTH).mean() < 3


# Reasons


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_several_frames_or_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert reason(tmp_path / f"a.{suffix}") == "animated or several pages"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).resize((200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) == "truncated"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "empty file"), (b"not an image\n" * 9, "not an image"), (b"<svg/>", "not an image")],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason(tmp_path / "a.jpg") == expected


def test_too_many_pixels_are_refused_from_the_header_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 2, b""))  # decoding would say "truncated"
    assert reason(tmp_path / "a.png") == "too large: 20000x20000 is more than 50000000 pixels"


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 100_000
    assert reason(tmp_path / "a.png").startswith("too large")


def test_the_pixel_limit_is_a_parameter(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png", limit=100).shape == (10, 10, 3)
    assert reason(tmp_path / "a.png", limit=99).startswith("too large")


def test_a_bomb_in_the_text_of_a_png_is_refused(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 200_000_000, 9))
    (tmp_path / "a.png").write_bytes(png(1, 1, 8, 0, zlib.compress(b"\0\0"), extra=text))
    assert reason(tmp_path / "a.png").startswith(("broken", "not an image"))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "a.tif")
    assert "range of its values is not known" in reason(tmp_path / "a.tif")


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    assert reason(tmp_path / "missing.jpg") == os.strerror(2).lower()


def test_the_header_of_a_refused_file_is_kept(tmp_path: Path) -> None:
    Image.new("RGB", (10, 20)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableError) as caught:
        decode(tmp_path / "a.png", 1)
    assert vars(caught.value.header) == {"format": "PNG", "mode": "RGB", "width": 10, "height": 20}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"]),
    position=st.floats(0, 1, exclude_max=True),
    garbage=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_damage_anywhere_gives_pixels_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, kind: str, position: float, garbage: bytes, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a"
    Image.fromarray(NOISE).save(path, kind)
    content = bytearray(path.read_bytes())
    start = int(position * len(content))
    content[start : start + len(garbage)] = garbage
    path.write_bytes(content[: start + len(garbage)] if cut else content)
    with suppress(UnreadableError):
        assert decode(path, 10**6).mode == "RGB"


# Listing and loading


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for y_true, label in enumerate(LABELS):
        (tmp_path / label).mkdir()
        for number in range(5):
            image = Image.fromarray(np.roll(NOISE, 7 * number + 3 * y_true, axis=1))
            image.save(tmp_path / label / f"{number}.png")
    return tmp_path


def test_images_are_told_from_other_files_by_suffix(data: Path) -> None:
    (data / "healthy" / "Thumbs.db").write_bytes(b"x")
    (data / "healthy" / "._0.png").write_bytes(b"macOS leaves these")
    (data / "healthy" / "gone.png").symlink_to(data / "nowhere")
    (data / "healthy" / "UPPER.JPG").write_bytes(b"x")
    (data / "healthy" / "more").mkdir()
    (data / "healthy" / "more" / "a.png").write_bytes(b"x")
    os.mkfifo(data / "healthy" / "pipe.png")
    found, others = list_files(data)
    assert found == list_images(data) == sorted(found)
    assert {"healthy/UPPER.JPG", "healthy/more/a.png"} < set(found)
    assert len(found) == 12
    assert others == ["healthy/._0.png", "healthy/Thumbs.db", "healthy/gone.png", "healthy/pipe.png"]


def test_a_missing_or_empty_class_is_one_line(data: Path, tmp_path: Path) -> None:
    for path in (data / "healthy").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"healthy holds no images; their names end in \.bmp"):
        list_images(data)
    (data / "healthy").rmdir()
    with pytest.raises(InputError, match="has no folder 'healthy'"):
        list_images(data)
    with pytest.raises(InputError, match="has no folder"):
        list_images(tmp_path / "nothing")


def test_a_file_name_that_is_not_utf8_is_named(data: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(data / "healthy") + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system keeps file names in UTF-8")
    with pytest.raises(InputError, match=r"'healthy/\\udcff.png' is not valid UTF-8; rename"):
        list_images(data)


def test_load_resizes_in_order_whatever_the_number_of_workers(data: Path, tmp_path: Path) -> None:
    paths = list_images(data)[::-1]
    one = load(data, paths, size=20, workers=1)
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=(10, 3, 20, 20))
    assert load(data, paths, size=20, out=mapped, workers=7) is mapped
    assert (mapped == one).all()
    for array, path in zip(one, paths, strict=True):
        with Image.open(data / path) as image:
            expected = np.asarray(image.resize((20, 20), Image.Resampling.BILINEAR))
        assert (array == expected.transpose(2, 0, 1)).all()


def test_load_hands_over_a_block_at_a_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = list_images(data)
    expected = load(data, paths, size=20)
    handed_over = []

    class Pool(ThreadPoolExecutor):
        def map(self, fn, rows, **kwargs):  # type: ignore[no-untyped-def, override]
            handed_over.append(list(rows))
            return super().map(fn, handed_over[-1], **kwargs)

    monkeypatch.setattr(images, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(images, "BLOCK", 4)
    assert (load(data, paths, size=20) == expected).all()
    assert handed_over == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_load_refuses_an_array_of_another_shape(data: Path) -> None:
    with pytest.raises(ValueError, match="not uint8"):
        load(data, list_images(data), size=20, out=np.empty((10, 3, 20, 21), np.uint8))


def test_load_names_an_image_that_cannot_be_read(data: Path) -> None:
    (data / "healthy" / "3.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"healthy/3\.png: empty file; run the audit again"):
        load(data, list_images(data), size=20)
