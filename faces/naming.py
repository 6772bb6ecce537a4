"""What the classes are called, and which file names are an image's."""

LABELS = ("healthy", "down_syndrome")  # index = y_true
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def like_image(name: str) -> bool:
    """Say whether a file of this name is taken for an image: by its suffix, unless it is hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
