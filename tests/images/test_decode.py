"""Hostile and odd image files: each gives the right RGB pixels, or a reason in a few words."""

import base64
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from faces.cli import InputError
from faces.images import decode as images
from faces.images.decode import UnreadableError, decode, load
from faces.naming import LABELS
from faces.params import load_params
from faces.source import sample

LIMIT = 50_000_000  # pixels
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
HEIC = zlib.decompress(  # 48x32 pixels, the left half blue, the right half red
    base64.b85decode(
        "c-muNV30{GsVvAy%}izhg51nBLl8SRGck>UfpK4MYDppk1Sn>t<P<^K3<a6VB@Af5Br_);Y>0~k0}}%yh{gB_LIc5epcoJ^&4i1n0I@}8W?mYY2a*"
        "*9a#F#{fNC<zk_{P<1Q|g}Tq`oc%J~X1OL7^YDjEJ}78Df#>ART)$@xIK45-(ckr^a30jx;w1H+%cKYlPU@G~a>bx1fc@-Y7Y4^qGkQo#&Da=Vxu5`"
        "mIhPK=CbG7A(MS*N{vvTWxLjtm0@pb#^NU{Fi~Dra+HJXn076KIKWa(+%xUUE(aP?VQ}tpO+`l384k3iYl76l)~sB!XOK0Cl_qi2nco{|8VY0O<$N"
        "zz`_NtjGjuWai-D08$c}1-Y=eU}RuqZDe9*Z2_{SGK*5vpyGVVDaFa)zz3Q9I5#B`6ib^m7}v8|Jbu3S?e=do>Yvmrx&Qz5w4wc=QvQ+0|NpDK*#"
        "7&*iN%$(b7r~6uqUoK+Uak7MnmY?nag?#CqExn<3Cvys@)z~IB~IF|L4+j)0l@!7b>iJR`@82YO}2RZ+5IsYQkl+)X!GujgNWyY`;*&`==!JaB="
        "&g`qL6z8eb#*nR^(GOucj3EiUJBpNqPxDfTLosjE)ut3`NF+_U#*SMC09c42SBGnVBnfn5$ew}#h0yL&4S=xjDfWc&IuXaRW~42+CIp!fiVImEX"
        "Bk;Al3"
    )
)
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


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_another_broken_tag_does_not_hinder_the_turn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    broken = struct.pack("<HHII", 0x011A, 7, 1, 5)  # the resolution, of type "undefined"
    if suffix == "jpg":
        whole = jpeg(SMOOTH)
        tags = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + broken
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
        path.write_bytes(whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:])
    else:
        Image.fromarray(SMOOTH).save(path, tiffinfo={0x0112: 6, 0x011A: 72.0})
        content = path.read_bytes()
        at = content.index(struct.pack("<HH", 0x011A, 5))
        path.write_bytes(content[:at] + broken + content[at + 12 :])
    assert np.abs(pixels(path).astype(int) - np.rot90(SMOOTH, -1)).mean() < 3


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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize(("bits", "values"), [(16, (0, 257, 128 * 257, 65535)), (12, (0, 16, 2056, 4095))])
def test_grey_tiff_of_many_bits(
    tmp_path: Path, order: str, white_is_zero: bool, bits: int, values: tuple[int, ...]
) -> None:
    packed = struct.pack(f"{order}4H", *values)
    if bits == 12:
        packed = int("".join(f"{value:012b}" for value in values), 2).to_bytes(6, "big")
    (tmp_path / "a.tif").write_bytes(grey_tiff(order, bits, 0 if white_is_zero else 1, packed))
    grey = [0, 1, 128, 255] if not white_is_zero else [255, 254, 127, 0]
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == grey


def grey_tiff(order: str, bits: int, photometric: int, rows: bytes) -> bytes:
    """Return a TIFF file of 4x1 pixels written by hand."""
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 200, 277: 1, 278: 1, 279: len(rows)}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", value) for tag, value in tags.items()
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + rows


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


def test_avif_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SMOOTH).save(tmp_path / "a.avif", quality=100, exif=exif)
    assert np.abs(pixels(tmp_path / "a.avif").astype(int) - np.rot90(SMOOTH, -1)).mean() < 3


def test_heic_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC)
    found = pixels(tmp_path / "a.heic").astype(int)
    assert found.shape == (32, 48, 3)
    assert np.abs(found[4:-4, 4:20] - (40, 40, 200)).max() < 12
    assert np.abs(found[4:-4, 28:-4] - (200, 40, 40)).max() < 12


def test_a_png_with_much_beside_its_pixels_is_read(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + os.urandom(3_000_000)
    Image.fromarray(NOISE).save(tmp_path / "profile.png", icc_profile=profile)
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b" " * 3_000_000)
    packed = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 3_000_000))
    for name, extra in (("xmp.png", xmp), ("packed.png", packed)):
        (tmp_path / name).write_bytes(png(1, 1, 8, 2, zlib.compress(b"\0\1\2\3"), extra=extra))
        assert pixels(tmp_path / name).tolist() == [[[1, 2, 3]]]
    assert (pixels(tmp_path / "profile.png") == NOISE).all()


def test_a_large_photograph_is_read(tmp_path: Path) -> None:
    Image.new("L", (8192, 6144), 7).save(tmp_path / "a.png")
    limit = load_params().audit.max_pixels
    assert decode(tmp_path / "a.png", limit).size == (8192, 6144)


def test_pixels_are_pillows_own(tmp_path: Path) -> None:
    """Neither the check for damage nor the turn upright touches an ordinary photograph's pixels."""
    sample.draw(tmp_path, 8)
    for path in (tmp_path / "healthy").glob("healty_[1-8].jpg"):
        with Image.open(path) as image:
            assert (pixels(path) == np.asarray(image.convert("RGB"))).all()


# Reasons


def jpeg(picture: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


LARGE = np.random.default_rng(1).integers(0, 256, (25, 25, 3), np.uint8).repeat(12, 0).repeat(12, 1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}, {"mode": "L"}, {"restart": 4}])
@pytest.mark.parametrize("damage", ["cut", "zeros", "hole"])
def test_a_damaged_jpeg_is_refused(tmp_path: Path, options: dict[str, Any], damage: str) -> None:
    restart = {"restart_marker_blocks": options["restart"]} if "restart" in options else {}
    whole = jpeg(LARGE, **{key: value for key, value in options.items() if key != "restart"}, **restart)
    half = len(whole) // 2
    content = {
        "cut": whole[:half] + b"\xff\xd9",
        "zeros": whole[:half] + bytes(512) + whole[half + 512 :],
        "hole": whole[:half] + whole[half + 200 :],
    }[damage]
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert pixels(tmp_path / "whole.jpg").shape == LARGE.shape
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason(tmp_path / "a.jpg").startswith(("damaged: ", "truncated", "broken: "))


def test_what_follows_a_jpegs_end_or_stands_before_its_data_is_no_damage(tmp_path: Path) -> None:
    whole = jpeg(LARGE)
    tables = whole.index(b"\xff\xdb")
    for content in (whole + b"a camera's own data", whole[:tables] + b"stray" + whole[tables:]):
        (tmp_path / "a.jpg").write_bytes(content)
        assert pixels(tmp_path / "a.jpg").shape == LARGE.shape


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
    [
        (b"", "empty file"),
        (b"not an image\n" * 9, "not an image"),
        (bytes(2000), "not an image: zero bytes"),
        (b"<svg/>", "not an image: SVG, a drawing without pixels"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>", "not an image: an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image: a Git LFS pointer; run git lfs pull"),
        (b"/annex/objects/SHA256E-s5--00.jpg\n", "not an image: a git-annex pointer; run git annex get"),
        (b"%PDF-1.7\n", "not an image: a PDF document"),
        (b"PK\3\4...", "not an image: a ZIP archive"),
        (b"\0\5\x16\7" + bytes(20) + b"Mac OS X", "not an image: a shadow file of macOS"),
        (b"\0\0\0 ftypisom", "not an image: a film"),
        (b"\0\0\0 ftypheic\0\0\0\0mif1heic", "broken: HEIC or AVIF that cannot be decoded"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a camera's raw file, which is not read"),
        (b"\xff\xd8\xff\xff\xff", "broken: a JPEG whose header makes no sense"),
        (b"II*\0" + bytes(20), "broken, or a TIFF of a kind that is not read; save it as JPEG or PNG"),
        (b"8BPS\0\1", "a Photoshop document, which is not read; save it as JPEG or PNG"),
        (b"\xff\x0a" + b"x" * 50, "JPEG XL, which is not read; save it as JPEG or PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000, which is not read; save it as JPEG or PNG"),
        (bytes(128) + b"DICM" + b"x" * 50, "DICOM, which is not read; save it as JPEG or PNG"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason(tmp_path / "a.jpg") == expected


def test_too_many_pixels_are_refused_from_the_header_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 2, b""))  # decoding would say "truncated"
    assert reason(tmp_path / "a.png") == "too large: 20000x20000 is more than 50000000 pixels (audit.max_pixels)"


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
    assert reason(tmp_path / "a.png") == "broken: its text or colour profile unpacks to more than 64 MB"


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "a.tif")
    assert "range of its values is not known" in reason(tmp_path / "a.tif")


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    assert reason(tmp_path / "missing.jpg") == os.strerror(2).lower()


def test_a_pipe_is_not_waited_for_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(reason, tmp_path / "pipe.jpg")
        (tmp_path / "pipe.jpg").write_bytes(b"")
        assert found.result(timeout=10) == "not a file"


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


# Loading


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for y_true, label in enumerate(LABELS):
        (tmp_path / label).mkdir()
        for number in range(5):
            image = Image.fromarray(np.roll(NOISE, 7 * number + 3 * y_true, axis=1))
            image.save(tmp_path / label / f"{number}.png")
    return tmp_path


def images_of(data: Path) -> list[str]:
    return sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))


def test_load_resizes_in_order_whatever_the_number_of_workers(data: Path, tmp_path: Path) -> None:
    paths = images_of(data)[::-1]
    one = load(data, paths, size=20, workers=1)
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=(10, 3, 20, 20))
    assert load(data, paths, size=20, out=mapped, workers=7) is mapped
    assert (mapped == one).all()
    for array, path in zip(one, paths, strict=True):
        with Image.open(data / path) as image:
            expected = np.asarray(image.resize((20, 20), Image.Resampling.BILINEAR))
        assert (array == expected.transpose(2, 0, 1)).all()


def test_load_hands_over_a_block_at_a_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = images_of(data)
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
        load(data, images_of(data), size=20, out=np.empty((10, 3, 20, 21), np.uint8))


def test_load_names_an_image_that_cannot_be_read(data: Path) -> None:
    (data / "healthy" / "3.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"healthy/3\.png: empty file; run the audit again"):
        load(data, images_of(data), size=20)
