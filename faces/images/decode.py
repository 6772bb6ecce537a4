"""Files to RGB pixels: how each kind is decoded, and why some are refused.

Every image becomes 8-bit RGB as a viewer on a white page would show it: turned upright as its EXIF tag
says, transparency over white, 16-bit grey scaled (not clipped). Colour profiles are not applied. Files
with several frames or pages are refused: which of them is the photograph is not known.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pi_heif
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from faces.cli import InputError
from faces.images import align

BLOCK = 1024  # images whose decoding waits at once: memory stays flat
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP")  # by content, whatever the suffix says
UPRIGHT = {  # what undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# libjpeg's warnings that pixels are missing or made up; its others, on headers, cost none
DAMAGE = re.compile("premature end|bad huffman|bad arithmetic|found marker|before marker 0xd[0-9]", re.IGNORECASE)
KINDS = (  # how files begin that are often given an image's name, and what they are
    (b"version https://git-lfs", "not an image: a Git LFS pointer; run git lfs pull"),
    (b"/annex/objects/", "not an image: a git-annex pointer; run git annex get"),
    (b"\xff\x0a", "JPEG XL, which is not read; save it as JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "JPEG XL, which is not read; save it as JPEG or PNG"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000, which is not read; save it as JPEG or PNG"),
    (b"\xff\x4f\xff\x51", "JPEG 2000, which is not read; save it as JPEG or PNG"),
    (b"8BPS", "a Photoshop document, which is not read; save it as JPEG or PNG"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file, which is not read; save it as JPEG or PNG"),
    (b"%PDF", "not an image: a PDF document"),
    (b"PK\x03\x04", "not an image: a ZIP archive"),
    (b"\x1f\x8b", "not an image: a gzip archive"),
    (b"\0\x05\x16\x07", "not an image: a shadow file of macOS"),
    (b"<svg", "not an image: SVG, a drawing without pixels"),
    (b"<!doctype html", "not an image: an HTML page"),
    (b"<html", "not an image: an HTML page"),
    (b"\xff\xd8", "broken: a JPEG whose header makes no sense"),
    (b"\x89PNG", "broken: a PNG whose header makes no sense"),
    (b"II*\0", "broken, or a TIFF of a kind that is not read; save it as JPEG or PNG"),
    (b"MM\0*", "broken, or a TIFF of a kind that is not read; save it as JPEG or PNG"),
)
CAMERA_RAW = (b"crx ",)  # brands of files built like a film (ISO/IEC 14496-12)
STILL = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
METADATA = 1 << 26  # bytes that a PNG's text and colour profile may unpack to

Image.init()  # loads the formats now: threads that opened their first files together would race for it
pi_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = None  # decode checks the header's size itself, against a parameter
for order, grey in ((b"II", "I;16"), (b"MM", "I;16B")):  # kinds of grey TIFF that Pillow's table lacks; see _to_8_bits
    TiffImagePlugin.OPEN_INFO[order, 0, (1,), 1, (16,), ()] = (grey, grey)
    for zero in (0, 1):
        TiffImagePlugin.OPEN_INFO[order, zero, (1,), 1, (12,), ()] = ("I;16", "I;12")
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = METADATA


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded; the size is in pixels, before turning."""

    format: str
    mode: str
    width: int
    height: int


class UnreadableError(Exception):
    """A file without right RGB pixels: the reason in a few words, and its header as far as there is one."""

    def __init__(self, reason: str, header: Header | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.header = header


def decode(path: Path, max_pixels: int) -> Image.Image:
    """Return an image file as upright RGB; `UnreadableError` says why it has none to give."""
    with quiet():
        return read(path, max_pixels)[1]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings on odd files; filters are process-wide, so enter before starting threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(path: Path, max_pixels: int) -> tuple[Header, Image.Image]:
    """Return an image file's header and its pixels, as `decode` does, for threads inside `quiet`."""
    header = None
    try:
        with Image.open(path, formats=FORMATS) as image:
            header = Header(image.format or "", image.mode, *image.size)
            _check(image, max_pixels)
            image.load()
            if image.format in ("JPEG", "MPO"):
                _check_jpeg(path, image.mode)
            return header, _to_rgb(_upright(image))
    except UnreadableError as error:
        raise UnreadableError(error.reason, header) from None
    except Exception as error:  # on broken files, Pillow's decoders raise nearly every type there is
        raise UnreadableError(_reason(error, path), header) from error


def _check(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableError(f"too large: {width}x{height} is more than {max_pixels} pixels (audit.max_pixels)")
    if getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIF"):  # they name their first picture
        raise UnreadableError("animated or several pages")
    if image.mode in ("I", "F"):
        raise UnreadableError(f"mode {image.mode}: the range of its values is not known")


def _check_jpeg(path: Path, mode: str) -> None:
    """Refuse a JPEG whose data ends early or makes no sense; Pillow says nothing, and fills the rest with grey.

    To decode at an eighth of the size reads all the data, and is quick.
    """
    colours = "CMYK" if mode == "CMYK" else "GRAY"
    try:
        simplejpeg.decode_jpeg(
            path.read_bytes(), colours, fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=8
        )
    except ValueError as error:
        if DAMAGE.search(str(error)):
            raise UnreadableError(f"damaged: {str(error).rpartition(': ')[2]:.80}") from None


def _upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image as its EXIF orientation says; of the other tags none is needed, so none is read."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as many types as decoding
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits; Pillow's own conversion would clip at 255, and take TIFF's white for black."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    largest = (1 << bits) - 1
    values = np.asarray(image).astype(np.uint32)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        values = largest - values
    return Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8))


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        return _what(path)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    text = " ".join(str(error).split()) or type(error).__name__
    if "MAX_TEXT" in text:
        return f"broken: its text or colour profile unpacks to more than {METADATA >> 20} MB"
    return "truncated" if "truncated" in text.lower() else f"broken: {text:.80}"


def _what(path: Path) -> str:
    """Say what a file is that no decoder takes, as far as its first bytes tell."""
    if not path.is_file():  # a pipe would be waited for once more
        return "not a file"
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "empty file"
    if not start.strip(b"\0"):
        return "not an image: zero bytes"
    if start[128:132] == b"DICM":
        return "DICOM, which is not read; save it as JPEG or PNG"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        if brand in STILL:
            return "broken: HEIC or AVIF that cannot be decoded"
        return "not an image: a film" if brand not in CAMERA_RAW else "a camera's raw file, which is not read"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for beginning, what in KINDS:
        if start.startswith(beginning) or text[: len(beginning)].lower() == beginning:
            return what
    return "not an image"


def to_array(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return RGB pixels resized to a square as torchvision's Resize does: uint8 [3, size, size]."""
    resized = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def load(
    root: Path,
    paths: Sequence[str],
    size: int,
    out: NDArray[Any] | None = None,
    workers: int | None = None,
    landmarks: Mapping[str, align.Points] = MappingProxyType({}),
    share: float = 1.0,
) -> NDArray[np.uint8]:
    """Return images that the audit found readable as uint8 [N, 3, size, size], in the order of `paths`.

    A path with landmarks is aligned by them, its face taking `share` of the side; the others are resized whole.
    They are written into `out` if given, which may be a memory map. The number of threads (default: one a
    core) does not change the result. `InputError` names a file that cannot be read.
    """
    pixels = np.empty((len(paths), 3, size, size), np.uint8) if out is None else out
    if pixels.shape != (len(paths), 3, size, size) or pixels.dtype != np.uint8:
        raise ValueError(f"out is {pixels.dtype} {pixels.shape}, not uint8 {(len(paths), 3, size, size)}")

    def fill(index: int) -> None:
        try:
            _, image = read(root / paths[index], max_pixels=sys.maxsize)
        except UnreadableError as error:
            raise InputError(f"{root / paths[index]}: {error.reason}; run the audit again") from None
        points = landmarks.get(paths[index])
        pixels[index] = to_array(image, size) if points is None else align.to_array(image, size, points, share)

    with quiet(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(paths), BLOCK):
            for _ in pool.map(fill, range(start, min(start + BLOCK, len(paths)))):
                pass
    return pixels
