"""Which files of a source are the images of which class, and the pin of their content.

The pin, `data.sha256` in params.yaml, is the SHA-256 of one line for each image, sorted by path:
`<sha256 of the file>  <class>/<file name>` and a line feed. It does not depend on the archive that
brought the files, on its stray files, or on time stamps.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from faces.cli import InputError
from faces.naming import LABELS, SUFFIXES, like_image

FOLDERS = {  # letters of a folder's name, lower case; the second and fourth are Kaggle's spelling
    "downsyndrome": "down_syndrome",
    "downsyndorme": "down_syndrome",
    "healthy": "healthy",
    "healty": "healthy",
}


def same_file(name: str) -> str:
    """Return what two names have in common if some file system takes them for one file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def place(path: str) -> str | None:
    """Return `<class>/<file name>` for an image's relative path, None for any other file.

    The innermost folder named like a class decides. Hidden files, and the shadow files that macOS puts into
    archives, are no images.
    """
    *folders, name = PurePosixPath(path).parts
    if "__MACOSX" in folders or not like_image(name):
        return None
    for folder in reversed(folders):
        if label := FOLDERS.get(re.sub(r"[^a-z]", "", folder.casefold())):
            return f"{label}/{name}"
    return None


def arrange(paths: Iterable[str], origin: str) -> tuple[dict[str, str], list[str]]:
    """Return {path: `<class>/<file name>`} of the images, and the other paths, both sorted.

    `InputError` if two images would become one file, or a class has none; `origin` names the source there.
    """
    images: dict[str, str] = {}
    strays: list[str] = []
    taken: dict[str, str] = {}
    for path in sorted(paths):
        target = place(path)
        if target is None:
            strays.append(path)
        elif other := taken.get(same_file(target)):
            raise InputError(f"{origin}: {other!r} and {path!r} would both become {target}; rename one of them")
        else:
            images[path] = target
            taken[same_file(target)] = path
    for label in sorted(LABELS):
        if not any(target.startswith(f"{label}/") for target in images.values()):
            raise InputError(
                f"{origin}: no images of the class {label}; they belong in a folder named {label}, "
                f"with one of the suffixes {' '.join(SUFFIXES)}"
            )
    return images, strays


def content_sha256(root: Path) -> str:
    """Return the pin of the images in `root`/<class>/: 64 hex digits, from the files' bytes as they are now."""
    content = hashlib.sha256()
    for path in sorted(f"{label}/{file.name}" for label in LABELS for file in (root / label).iterdir()):
        with (root / path).open("rb") as file:
            content.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path}\n".encode())
    return content.hexdigest()
