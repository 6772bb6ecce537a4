"""ZIP archives, hostile until proven otherwise, and plain folders: both list their images and give their bytes.

Every member is checked before the first byte is unpacked, by the directory's word for it; while unpacking,
bytes are counted and CRCs compared, since the directory can lie. Nothing here writes a file, makes a link or
follows a member's path: whoever does the writing chooses the names.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from faces.cli import InputError
from faces.source.listing import Listing, check_names, list_folder, sort_out
from faces.source.manifest import same_file

CHUNK = 1 << 20  # bytes
LOCAL_HEADER = 30  # bytes before a member's name and data, at least (APPNOTE 4.3.7)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others can need gigabytes of memory, or a newer Python
OTHERS = {b"Rar!": "RAR", b"7z\xbc\xaf": "7z", b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
TAR = 257  # where a tar archive has its mark
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strongly, with a masked directory (APPNOTE 4.4.4)


class ArchiveError(InputError):
    """The archive is refused, whole: it could do harm, or is more than the limits allow."""


class DamagedArchiveError(ArchiveError):
    """The archive is not whole: not a ZIP, cut short, a part of several, or bytes that fail their CRC."""


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to: members, bytes in all, and times a member's packed size."""

    files: int
    bytes: int
    ratio: float


class Source(Protocol):
    """Something with images: what else it holds, the images' sizes in bytes by path, and their bytes."""

    listing: Listing
    sizes: dict[str, int]

    def read(self, path: str) -> Iterator[bytes]:
        """Yield the file's bytes in chunks."""
        ...


class Archive:
    """An open ZIP archive that passed every check; `sizes` is {path: bytes once unpacked} of all its files."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        _check_end(path, limits)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            raise DamagedArchiveError(f"{path}: its directory cannot be read ({_line(error)}){HINT}") from None
        try:
            members = self._zip.infolist()
            _check_size(path, members, limits)
            for member in members:
                _check_member(path, member, limits)
            _check_names(path, members)
            _check_overlap(path, members, self._zip.start_dir)
        except BaseException:
            self._zip.close()
            raise
        self._members = {member.filename: member for member in members if not member.is_dir()}
        self.sizes = {name: member.file_size for name, member in self._members.items()}
        self.listing = sort_out(self.sizes)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def read(self, path: str) -> Iterator[bytes]:
        """Yield a member's bytes in chunks; `DamagedArchiveError` where they differ from the CRC or the size."""
        member = self._members[path]
        left = member.file_size
        try:
            with self._zip.open(member) as file:
                while chunk := file.read(CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise zipfile.BadZipFile("more bytes than its directory says")
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error, RuntimeError) as error:
            raise DamagedArchiveError(f"{self.path}: {path!r} is damaged ({_line(error)}){HINT}") from None
        if left:
            raise DamagedArchiveError(f"{self.path}: {path!r} is {left} bytes short{HINT}")


class Folder:
    """A folder of the user's own; `sizes` is {path: bytes} of its images. The limits on files and bytes hold."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root
        self.listing = list_folder(root)
        check_names(root, self.listing.images)
        _check_totals(root, len(self.listing.images) + len(self.listing.left_out), 0, limits)
        self.sizes = {path: (root / path).stat().st_size for path in self.listing.images}
        _check_totals(root, len(self.sizes), sum(self.sizes.values()), limits)

    def read(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes in chunks."""
        with (self.root / path).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk


HINT = "; get the archive again"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_end(path: Path, limits: Limits) -> None:
    """Check the end record (APPNOTE 4.3.16), before `zipfile` reads a directory of any length into memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(TAR + 5)
        file.seek(max(0, size - 22 - 65535))
        tail = file.read()
    if start.startswith(b"PK\x07\x08"):
        raise DamagedArchiveError(f"{path} is one part of an archive in several; join them with `zip -s 0` first")
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        if start.startswith(b"PK\x03\x04"):
            raise DamagedArchiveError(f"{path} is cut short: its end is missing ({size} bytes){HINT}")
        other = next((name for beginning, name in OTHERS.items() if start.startswith(beginning)), None)
        if other or start[TAR:] == b"ustar":
            raise DamagedArchiveError(f"{path} is not a ZIP archive but {other or 'tar'}; pack the images as ZIP")
        raise DamagedArchiveError(f"{path} is not a ZIP archive ({size} bytes){HINT}")
    disk, first_disk, on_disk, entries = struct.unpack("<4H", tail[at + 4 : at + 12])
    if (disk, first_disk) not in ((0, 0), (0xFFFF, 0xFFFF)) or on_disk != entries:
        raise DamagedArchiveError(f"{path} is one part of an archive in several; join them with `zip -s 0` first")
    if entries != 0xFFFF:
        _check_totals(path, entries, 0, limits)


def _check_totals(path: Path, files: int, size: int, limits: Limits) -> None:
    if files > limits.files:
        raise ArchiveError(f"{path}: {files} files; data.max_files in params.yaml allows {limits.files}")
    if size > limits.bytes:
        raise ArchiveError(f"{path}: {size} bytes unpacked; data.max_bytes in params.yaml allows {limits.bytes}")


def _check_size(path: Path, members: list[zipfile.ZipInfo], limits: Limits) -> None:
    _check_totals(path, len(members), sum(member.file_size for member in members), limits)


def _check_member(path: Path, member: zipfile.ZipInfo, limits: Limits) -> None:
    """Refuse a member with a dangerous name or kind, one that cannot be read, and a bomb."""
    name = member.orig_filename  # as written; `filename` ends at a NUL and has this system's separators
    where = f"{path}: member {name!r:.120}"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise ArchiveError(f"{where} has an absolute path; the archive is refused")
    if "\\" in name or any(ord(character) < 32 for character in name):
        raise ArchiveError(f"{where} has a backslash or a control character in its name; the archive is refused")
    if not all(part not in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        raise ArchiveError(f"{where} has a path that leads elsewhere; the archive is refused")
    if any(len(os.fsencode(part)) > 255 for part in name.split("/")):
        raise ArchiveError(f"{where} has a name longer than 255 bytes; the archive is refused")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if kind == stat.S_IFLNK else "a device, pipe or socket"
        raise ArchiveError(f"{where} is {what}; the archive is refused")
    if member.flag_bits & ENCRYPTED:
        raise ArchiveError(f"{where} is encrypted; give an archive without a password")
    if member.volume:
        raise DamagedArchiveError(f"{where} lies in another part of the archive; join the parts first")
    if member.compress_type not in METHODS:
        raise ArchiveError(f"{where} is packed by method {member.compress_type}; repack it with deflate")
    if member.file_size > limits.ratio * member.compress_size:
        raise ArchiveError(
            f"{where} unpacks from {member.compress_size} to {member.file_size} bytes; "
            f"data.max_ratio in params.yaml allows {limits.ratio:g} times"
        )


def _check_names(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse two members that are one file, or a file and a folder, on some file system."""
    seen: dict[str, str] = {}
    files = {same_file(member.filename) for member in members if not member.is_dir()}
    for member in members:
        key = same_file(member.filename.removesuffix("/"))
        if other := seen.get(key):
            raise ArchiveError(f"{path}: members {other!r} and {member.filename!r} have the same name; it is refused")
        seen[key] = member.filename
        folders = key.split("/")[:-1]
        if any("/".join(folders[: i + 1]) in files for i in range(len(folders))):
            raise ArchiveError(f"{path}: member {member.filename!r} lies in a file, not a folder; it is refused")


def _check_overlap(path: Path, members: list[zipfile.ZipInfo], directory: int) -> None:
    """Refuse members that share bytes: how the densest bombs are made (Fifield 2019, A better zip bomb)."""
    end = directory
    for member in sorted(members, key=lambda member: member.header_offset, reverse=True):
        if member.header_offset < 0 or member.header_offset + LOCAL_HEADER + member.compress_size > end:
            raise ArchiveError(f"{path}: member {member.filename!r} overlaps what follows it; the archive is refused")
        end = member.header_offset
