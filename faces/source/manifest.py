"""Which images of a source belong to which class, and the pin of their content.

The pin, `data.sha256` in params.yaml, is the SHA-256 of one line for each image, sorted by path:
`<sha256 of the file>  <class>/<file name>` and a line feed. It does not depend on the archive that
brought the files, on its stray files, or on time stamps.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from faces.cli import InputError
from faces.naming import LABELS
from faces.source.listing import PARTIAL, SUFFIXES, LeftOut, Listing, by_path, outside, summary

CLASSES = {  # letters of a folder's name, lower case; the second and fourth are Kaggle's spelling
    "downsyndrome": "down_syndrome",
    "downsyndorme": "down_syndrome",
    "healthy": "healthy",
    "healty": "healthy",
}
SUBSETS = {  # of a source's own split, likewise
    **dict.fromkeys(("train", "training", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "validset", "validationset", "valset"), "validation"),
    **dict.fromkeys(("test", "testing", "testset", "testingset"), "test"),
}


@dataclass(frozen=True)
class Arrangement:
    """What becomes of a source's files.

    images: {path: `<class>/<file name>`}, or `<class>/<subset>/<file name>` where the source has a split of its
    own. left_out: all other files. subsets: the images of each subset of that split, empty where there is none.
    """

    images: dict[str, str]
    left_out: list[LeftOut]
    subsets: Counter[str]


def arrange(listing: Listing, origin: str) -> Arrangement:
    """Give each image its class by the innermost folder named like one, unless that holds class folders itself.

    Folders named train, validation and test (or nearly so) are kept if there are two of them or more. `InputError`
    if images would become one file, or a class has none; `origin` names the source there.
    """
    classes = _class_folders(listing.images)
    labels = {path: label for path in listing.images if (label := _label(path, classes))}
    subsets = {path: subset for path in labels if (subset := _subset(path))}
    if len(set(subsets.values())) < 2:  # one alone is just a name
        subsets = {}
    left_out = by_path([*listing.left_out, *(outside(path) for path in listing.images if path not in labels)])
    for label in sorted(LABELS):
        if label not in labels.values():
            raise InputError(_no_images(origin, label, labels, left_out))
    images = {
        path: "/".join([label, *filter(None, [subsets.get(path)]), path.rpartition("/")[2]])
        for path, label in labels.items()
    }
    _check_collisions(images, origin)
    return Arrangement(images, left_out, Counter(subsets.values()))


def _class_folders(paths: list[str]) -> dict[str, str]:
    """Return {folder: class} of the folders that name a class and hold no folder that does."""
    named: dict[str, str] = {}
    holders: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in paths}:
        parts = folder.split("/")
        found = [
            ("/".join(parts[: depth + 1]), label)
            for depth, part in enumerate(parts)
            if (label := CLASSES.get(_letters(part)))
        ]
        named.update(found)
        holders.update(outer for outer, _ in found[:-1])
    return {folder: label for folder, label in named.items() if folder not in holders}


def _label(path: str, classes: Mapping[str, str]) -> str | None:
    folder = path
    while folder := folder.rpartition("/")[0]:
        if label := classes.get(folder):
            return label
    return None


def _subset(path: str) -> str | None:
    found = [subset for part in path.split("/")[:-1] if (subset := SUBSETS.get(_letters(part)))]
    return found[-1] if found else None


def _letters(folder: str) -> str:
    return re.sub(r"[^a-z]", "", folder.casefold())


def _no_images(origin: str, label: str, labels: Mapping[str, str], left_out: list[LeftOut]) -> str:
    has = [f"{n} of the class {other}" for other, n in sorted(Counter(labels.values()).items())]
    if left_out:
        has.append(f"left out {summary(left_out)}")
    found = f" (found: {'; '.join(has)})" if has else ""
    return (
        f"{origin}: no images of the class {label}{found}; they belong in a folder named {label}, "
        f"with one of the suffixes {' '.join(SUFFIXES)}"
    )


def same_file(name: str) -> str:
    """Return what two names have in common if some file system takes them for one file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _check_collisions(images: Mapping[str, str], origin: str) -> None:
    """Refuse images that would become one file; the first pair is named, and all are counted."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(same_file(target), path), path) for path, target in images.items()]
    pairs = [(one, other) for one, other in pairs if one != other]
    if pairs:
        one, other = pairs[0]
        more = f" ({len(pairs)} such images)" if len(pairs) > 1 else ""
        raise InputError(f"{origin}: {one!r} and {other!r} would both become {images[other]}{more}; rename them")


def digests(root: Path) -> dict[str, str]:
    """Return {relative path: SHA-256 in hexadecimal} of every file under `root`, from their bytes as they are now.

    What a killed DVC has left of a copy is no file.
    """
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not PARTIAL.search(path.name)):
        with path.open("rb") as file:
            found[path.relative_to(root).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def lines(digests: Mapping[str, str]) -> str:
    """Return digests as text, in the form of `sha256sum`, sorted by path."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))


def parse(text: str) -> dict[str, str]:
    """Return the digests that `lines` wrote."""
    return {path: digest for digest, _, path in (line.partition("  ") for line in text.splitlines())}


def pin(digests: Mapping[str, str]) -> str:
    """Return the pin of images {`<class>/<file name>`: SHA-256}: 64 hexadecimal digits."""
    return hashlib.sha256(lines(digests).encode()).hexdigest()
