"""Files to RGB pixels: what counts as an image, how each kind is decoded, and why some are refused.

Every image becomes 8-bit RGB as a viewer on a white page would show it: turned upright as its EXIF tag
says, transparency over white, 16-bit grey scaled (not clipped). Colour profiles are not applied. Files
with several frames or pages are refused: which of them is the photograph is not known.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from faces.cli import InputError
from faces.naming import LABELS, SUFFIXES, like_image

BLOCK = 1024  # images whose decoding waits at once: memory stays flat
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # by content, whatever the suffix says

Image.init()  # loads the formats now: threads that opened their first files together would race for it
Image.MAX_IMAGE_PIXELS = None  # decode checks the header's size itself, against a parameter


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


def list_files(root: Path) -> tuple[list[str], list[str]]:
    """Return the sorted relative paths of the images, and those of all other files, in the class folders.

    Suffixes decide (hidden files and broken links aside); whether an image can be read is `decode`'s to say.
    Paths have "/" on every system. `InputError` if a class folder is missing or holds no image.
    """
    images: list[str] = []
    others: list[str] = []
    for label in LABELS:
        folder = root / label
        if not folder.is_dir():
            raise InputError(f"{root} has no folder {label!r}; it needs one folder for each class: {LABELS}")
        files = [path for path in folder.rglob("*") if not path.is_dir()]
        like_images = [path for path in files if path.is_file() and like_image(path.name)]
        if not like_images:
            raise InputError(f"{folder} holds no images; their names end in {', '.join(SUFFIXES)}")
        images += [_relative(path, root) for path in like_images]
        others += [_relative(path, root) for path in set(files).difference(like_images)]
    return sorted(images), sorted(others)


def list_images(root: Path) -> list[str]:
    """Return the sorted relative paths of the images in the two class folders; see `list_files`."""
    return list_files(root)[0]


def _relative(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{root}: the file name {name!a} is not valid UTF-8; rename the file") from None
    return name


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
            return header, _to_rgb(ImageOps.exif_transpose(image))
    except UnreadableError as error:
        raise UnreadableError(error.reason, header) from None
    except Exception as error:  # on broken files, Pillow's decoders raise nearly every type there is
        raise UnreadableError(_reason(error, path), header) from error


def _check(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableError(f"too large: {width}x{height} is more than {max_pixels} pixels")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a JPEG with previews
        raise UnreadableError("animated or several pages")
    if image.mode in ("I", "F"):
        raise UnreadableError(f"mode {image.mode}: the range of its values is not known")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image" if path.stat().st_size else "empty file"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    text = " ".join(str(error).split()) or type(error).__name__
    return "truncated" if "truncated" in text.lower() else f"broken: {text:.80}"


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
) -> NDArray[np.uint8]:
    """Return images that the audit found readable as uint8 [N, 3, size, size], in the order of `paths`.

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
        pixels[index] = to_array(image, size)

    with quiet(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(paths), BLOCK):
            for _ in pool.map(fill, range(start, min(start + BLOCK, len(paths)))):
                pass
    return pixels
