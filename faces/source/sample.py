"""Drawn faces: a stand-in for the photographs that needs no account, no network and no real child.

Two classes of plain cartoons that differ only in how they are drawn (wallpaper warm and light or cool and dark,
shirt with dots or stripes), never in the face. These attributes overlap, and a tenth of the drawings wear the
other class's style, so that a classifier can learn the difference but not master it. The real set's oddities
are planted: file names, formats, colour modes, duplicates, a stray file, an unreadable image.
"""

import colorsys
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

SIZE = 300  # pixels, as the real images
SWAPPED = 0.1  # share of the drawings in the other class's style
FOLDERS = (
    ("healthy", "healty"),
    ("down_syndrome", "down"),
)  # folder and file stem (the real set's spelling), by y_true
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


def draw(root: Path, images_per_class: int, seed: int = 0) -> None:
    """Draw `images_per_class` readable images of each class under `root`, and the oddities beside them.

    The same arguments give the same bytes. Planted within the counts: in `down_syndrome` the palette PNG
    `down_2.png` and the RGBA PNG `down_3.png` (beside the .jpg of the same stem), `down_4.jpeg`, and as the
    last number an exact duplicate of `down_1.jpg`; in `healthy`, as the last number, a near duplicate of
    `healty_1.jpg`. Planted on top: the stray file `down_syndrome/Thumbs.db` and, as the number after the
    last in `healthy`, a truncated JPEG.
    """
    if images_per_class < 8:
        raise ValueError("the planted oddities need at least 8 images per class")
    for y_true, (folder, stem) in enumerate(FOLDERS):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(_names(stem, images_per_class), start=1):
            image = draw_face(y_true, np.random.default_rng([seed, y_true, number]))
            (root / folder / name).write_bytes(_encode(image, name))
    healthy, down = (root / folder for folder, _ in FOLDERS)
    last = images_per_class
    (down / f"down_{last}.jpg").write_bytes((down / "down_1.jpg").read_bytes())
    with Image.open(healthy / "healty_1.jpg") as image:
        brighter = ImageEnhance.Brightness(image).enhance(1.04)
    (healthy / f"healty_{last}.jpg").write_bytes(_jpeg(brighter, quality=80))
    whole = (healthy / "healty_2.jpg").read_bytes()
    (healthy / f"healty_{last + 1}.jpg").write_bytes(whole[: len(whole) // 2])
    (down / "Thumbs.db").write_bytes(b"not an image")


def _names(stem: str, count: int) -> list[str]:
    """Return `count` file names; in the Down syndrome class two numbers are taken twice, by .jpg and .png."""
    names = [f"{stem}_{number}.jpg" for number in range(1, count + 1)]
    if stem == "down":
        names[3] = "down_4.jpeg"
        names[-3:-1] = ["down_2.png", "down_3.png"]
    return names


def draw_face(y_true: int, rng: np.random.Generator) -> Image.Image:
    """Return one cartoon face, RGB, SIZE x SIZE pixels."""
    style = y_true if rng.random() >= SWAPPED else 1 - y_true
    image = Image.new("RGB", (SIZE, SIZE))
    canvas = ImageDraw.Draw(image)
    _wallpaper(canvas, style, rng)
    head = rng.uniform(95, 205), rng.uniform(110, 170), rng.uniform(50, 85), rng.uniform(60, 90)
    _shirt(canvas, head, style if rng.random() < 0.85 else 1 - style, rng)
    _face(canvas, head, rng)
    grain = rng.normal(0, rng.uniform(2, 10), (SIZE, SIZE, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _wallpaper(canvas: ImageDraw.ImageDraw, style: int, rng: np.random.Generator) -> None:
    """Paint large shapes of random place and colour, by style warm and light or cool and dark, with overlap."""
    middle = rng.normal(0.1 if style else 0.55, 0.1)
    hue, value = (middle - 0.08, middle + 0.08), (0.5, 1.0) if style else (0.05, 0.6)
    canvas.rectangle((0, 0, SIZE, SIZE), fill=_colour(rng, hue, value=value))
    for _ in range(rng.integers(6, 12)):
        shape = canvas.rectangle if rng.random() < 0.5 else canvas.ellipse
        left, top = rng.uniform(-60, SIZE - 20, 2)
        box = (left, top, left + rng.uniform(40, 200), top + rng.uniform(40, 200))
        shape(box, fill=_colour(rng, hue, value=value))


def _shirt(canvas: ImageDraw.ImageDraw, head: Box, style: int, rng: np.random.Generator) -> None:
    """Draw shoulders in a shirt with dots (style 1) or upright stripes (style 0)."""
    x, y, width, height = head
    half, top = width * rng.uniform(1.2, 1.7), y + 0.85 * height
    cloth, print_ = _colour(rng, value=(0.1, 0.5)), _colour(rng, saturation=(0.0, 0.3), value=(0.8, 1.0))
    canvas.rounded_rectangle((x - half, top, x + half, SIZE + 50), radius=45, fill=cloth)
    step = int(rng.integers(20, 30))
    for column in np.arange(x - half + step, x + half - 0.5 * step, step):
        if style == 0:
            canvas.line((column, top + 20, column, SIZE), fill=print_, width=step // 3)
        for row in np.arange(top + step, SIZE, step) if style == 1 else ():
            canvas.ellipse(_around(column, row, step / 4, step / 4), fill=print_)


def _face(canvas: ImageDraw.ImageDraw, head: Box, rng: np.random.Generator) -> None:
    """Draw hair, head, eyes, nose and mouth; nothing here depends on the class."""
    x, y, width, height = head
    volume, length = rng.uniform(1.05, 1.35), rng.uniform(0.0, 0.9)
    canvas.ellipse(
        (x - volume * width, y - volume * height, x + volume * width, y + length * height), fill=_colour(rng)
    )
    skin = _colour(rng, hue=(0.03, 0.12), saturation=(0.2, 0.7), value=(0.35, 1.0))
    canvas.ellipse(_around(x, y, width, height), fill=skin, outline="black", width=3)
    apart, radius, iris = width * rng.uniform(0.35, 0.5), rng.uniform(5, 10), _colour(rng)
    for eye in (x - apart, x + apart):
        canvas.ellipse(_around(eye, y, 2 * radius, 2 * radius), fill="white")
        canvas.ellipse(_around(eye, y, radius, radius), fill=iris, outline="black", width=2)
    canvas.line((x, y + 0.1 * height, x, y + 0.3 * height), fill="black", width=3)
    half, curve = width * rng.uniform(0.3, 0.5), rng.uniform(0, 25)
    points = [(x + t * half, y + 0.58 * height - curve * t * t) for t in np.linspace(-1, 1, 9)]
    canvas.line(points, fill=(120, 20, 30), width=5, joint="curve")


def _around(x: float, y: float, width: float, height: float) -> Box:
    """Return the box with its middle at x, y and the given half axes."""
    return x - width, y - height, x + width, y + height


def _colour(
    rng: np.random.Generator,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.2, 0.9),
    value: tuple[float, float] = (0.1, 0.9),
) -> Colour:
    """Return a random RGB colour; hue, saturation and value within their ranges of the unit interval."""
    h, s, v = (rng.uniform(*bounds) for bounds in (hue, saturation, value))
    red, green, blue = colorsys.hsv_to_rgb(h % 1.0, s, v)
    return round(255 * red), round(255 * green), round(255 * blue)


def _encode(image: Image.Image, name: str) -> bytes:
    """Return the image's file: JPEG, or for the two PNGs a palette picture and one with an alpha channel."""
    if name == "down_2.png":
        return _png(image.quantize(64))
    if name == "down_3.png":
        alpha = Image.linear_gradient("L").resize(image.size).point(lambda level: max(level, 128))
        image.putalpha(alpha)
        return _png(image)
    return _jpeg(image, quality=90)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
