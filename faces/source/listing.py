"""Which files of a folder or an archive are images: the same rules for download, audit and predict.

A file is an image by its suffix; whether it can be read is for faces/images/decode.py to say. Links to files are
followed. Links to folders are not: DVC does not look behind them either, so a change there would go unseen. Every
file that is left out is listed with the reason, and `summary` counts them in one line.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from faces.cli import InputError, printable
from faces.naming import LABELS

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".png", ".tif", ".tiff", ".webp"),
)
SYSTEM_FOLDERS = {  # lower case; thumbnails, waste baskets and shadow files that are not hidden by their names
    *("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin"),
    *("lost+found", "system volume information"),
}
FOLDER_LINK, BROKEN_LINK, SPECIAL = "link to a folder", "broken link", "pipe, socket or device"
NO_SUFFIX, HIDDEN, UNREADABLE = "file without suffix", "hidden file", "folder that cannot be read"
OUTSIDE = "image outside the class folders"
PLURALS = {
    FOLDER_LINK: "links to a folder",
    BROKEN_LINK: "broken links",
    SPECIAL: "pipes, sockets or devices",
    NO_SUFFIX: "files without suffix",
    HIDDEN: "hidden files",
    UNREADABLE: "folders that cannot be read",
    OUTSIDE: "images outside the class folders",
}
PARTIAL = re.compile(r"\.[\w-]{22}\.tmp$")  # what DVC leaves of a file that it was copying when it was killed
SHOWN = 8  # reasons named in a line


@dataclass(frozen=True)
class LeftOut:
    """A file that is no image, or is not used: its path, what it is (a suffix, `hidden file` ...), and its folder."""

    path: str
    what: str
    folder: str


@dataclass(frozen=True)
class Listing:
    """The images, and the other files, by paths relative to the folder or archive, with "/", both sorted."""

    images: list[str]
    left_out: list[LeftOut]


def sort_out(paths: Iterable[str]) -> Listing:
    """Tell the images among regular files from the rest, by their relative paths alone."""
    listing = Listing([], [])
    for path in sorted(paths):
        if reason := _reason(path):
            listing.left_out.append(reason)
        else:
            listing.images.append(path)
    return listing


def list_folder(root: Path) -> Listing:
    """List what lies in a folder and its subfolders; `InputError` if one of them cannot be read."""
    regular: list[str] = []
    odd: list[LeftOut] = []
    for path, what in _walk(root, ""):
        if what:
            odd.append(LeftOut(path, what, path if what == FOLDER_LINK else _folder(path)))
        else:
            regular.append(path)
    listing = sort_out(regular)
    return Listing(listing.images, by_path([*listing.left_out, *odd]))


def list_classes(root: Path) -> Listing:
    """List the two class folders in `root`; `InputError` if one is missing or holds no image."""
    for label in LABELS:
        if not (root / label).is_dir():
            raise InputError(f"{root} has no folder {label!r}; it needs one folder for each class: {LABELS}")
    listing = list_folder(root)
    images = [path for path in listing.images if path.split("/")[0] in LABELS]
    for label in LABELS:
        if not any(path.startswith(f"{label}/") for path in images):
            raise InputError(f"{root / label} holds no images; their names end in {', '.join(SUFFIXES)}")
    check_names(root, images)
    return Listing(images, by_path([*listing.left_out, *(outside(path) for path in set(listing.images) - set(images))]))


def outside(path: str) -> LeftOut:
    """Return an image as left out, for it has no class."""
    return LeftOut(path, OUTSIDE, _folder(path))


def by_path(left_out: Iterable[LeftOut]) -> list[LeftOut]:
    """Return what was left out sorted by path."""
    return sorted(left_out, key=lambda file: file.path)


def check_names(root: Path, paths: Iterable[str]) -> None:
    """Refuse file names that are not UTF-8, or that hold a control character: tables and DVC cannot name them."""
    for path in paths:
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError:
                raise InputError(f"{root}: the file name {path!a} is not valid UTF-8; rename the file") from None
        if any(character < " " for character in path):
            raise InputError(f"{root}: the file name {path!a} has a control character; rename the file")


def summary(left_out: Iterable[LeftOut]) -> str:
    """Count what was left out by kind and folder, in one line: `3: 2 .txt in healthy, 1 hidden file at the top`."""
    counts = Counter((file.what, file.folder) for file in left_out)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0][1], item[0][0]))
    parts = [
        f"{n} {PLURALS.get(what, what) if n > 1 else what} {_where(folder)}" for (what, folder), n in ordered[:SHOWN]
    ]
    if rest := ordered[SHOWN:]:
        parts.append(f"{sum(n for _, n in rest)} more of {len(rest)} kinds")
    return printable(f"{counts.total()}: {', '.join(parts)}")


def _where(folder: str) -> str:
    return f"in {folder}" if folder else "at the top"


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _reason(path: str) -> LeftOut | None:
    """Return why a regular file is left out by its name or that of a folder, None if it is an image."""
    *folders, name = path.split("/")
    suffix = PurePosixPath(name).suffix.lower()
    kind = suffix or NO_SUFFIX
    for depth, folder in enumerate(folders, start=1):
        if folder.startswith(".") or folder.casefold() in SYSTEM_FOLDERS:
            return LeftOut(path, kind, "/".join(folders[:depth]))
    if name.startswith("."):
        return LeftOut(path, HIDDEN, _folder(path))
    return None if suffix in SUFFIXES else LeftOut(path, kind, _folder(path))


def _walk(root: Path, inside: str) -> Iterator[tuple[str, str]]:
    """Yield the relative path of each file, with "" for a regular one and else with what it is; no order."""
    waiting = [inside]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if PARTIAL.search(entry.name):
                        continue
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    elif what := _odd(entry):
                        yield path, what
                    else:
                        yield path, ""
        except OSError as error:
            if not _reason(f"{folder}/x.jpg"):  # nobody misses what is hidden
                where = printable(str(root / folder))
                raise InputError(f"{where}: cannot be read: {error.strerror}") from None
            yield folder, UNREADABLE


def _odd(entry: os.DirEntry[str]) -> str:
    """Return what an entry is that is neither a folder nor a regular file, nor a link to a file; else ""."""
    try:
        if entry.is_file():
            return ""
        link = entry.is_symlink()
        if link and entry.is_dir():
            return FOLDER_LINK
        return BROKEN_LINK if link and not Path(entry).exists() else SPECIAL
    except OSError:  # links in a circle, or into what may not be read
        return BROKEN_LINK
