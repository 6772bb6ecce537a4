"""Hostile archives, each made here, each refused in one line with nothing written."""

import io
import random
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from faces.cli import InputError
from faces.naming import LABELS
from faces.source import archive, manifest
from faces.source.archive import Archive, ArchiveError, DamagedArchiveError, Folder, Limits
from faces.source.listing import sort_out, summary
from stages import download, source

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(files=100, bytes=1_000_000, ratio=200)
GOOD = {"healthy/a.jpg": b"a" * 40, "down_syndrome/b.jpg": b"b" * 40}
Members = list[tuple[zipfile.ZipInfo, bytes]]


def member(
    name: str, data: bytes = b"data", mode: int = 0, method: int = zipfile.ZIP_STORED
) -> tuple[zipfile.ZipInfo, bytes]:
    """Return a member, its name exactly as given."""
    info = zipfile.ZipInfo()
    info.filename = info.orig_filename = name
    info.external_attr = mode << 16
    info.compress_type = method
    return info, data


def pack(*members: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """Return an archive of two good images and then the members given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in GOOD.items():
            packed.writestr(name, data)
        for info, data in members:
            packed.writestr(info, data)
    return buffer.getvalue()


def patch(packed: bytes, old: bytes, new: bytes) -> bytes:
    """Return the archive with some bytes replaced, which must be there."""
    assert old in packed
    assert len(old) == len(new)
    return packed.replace(old, new)


def field(packed: bytes, offset: int, form: str, value: int) -> bytes:
    """Return the archive with a field of its last directory entry changed (APPNOTE 4.3.12)."""
    at = packed.rfind(b"PK\x01\x02") + offset
    return packed[:at] + struct.pack(form, value) + packed[at + struct.calcsize(form) :]


def end(packed: bytes, offset: int, form: str, value: int) -> bytes:
    """Return the archive with a field of its end record changed (APPNOTE 4.3.16)."""
    at = packed.rfind(b"PK\x05\x06") + offset
    return packed[:at] + struct.pack(form, value) + packed[at + struct.calcsize(form) :]


def overlapping() -> bytes:
    """Return an archive whose last directory entry points at the bytes of the entry before."""
    packed = pack(member("healthy/c.jpg"), member("healthy/d.jpg"))
    return field(packed, 42, "<I", packed.index(b"PK\x03\x04", packed.index(b"b" * 40)))


def bomb() -> bytes:
    """Return 300 kB of zeros in 300 bytes."""
    return pack(member("healthy/zeros.jpg", bytes(300_000), method=zipfile.ZIP_DEFLATED))


def liar() -> bytes:
    """Return an archive with a member of 500 kB that says it is 40 bytes."""
    data = bytes(random.Random(0).choices(range(16), k=500_000))
    return field(pack(member("healthy/liar.jpg", data, method=zipfile.ZIP_DEFLATED)), 24, "<I", 40)


def bad_deflate() -> bytes:
    """Return an archive with a member whose packed bytes are noise."""
    packed = pack(member("healthy/c.jpg", b"c" * 99, method=zipfile.ZIP_DEFLATED))
    deflated = packed[packed.index(b"healthy/c.jpg") + 13 :][:4]
    return patch(packed, deflated, b"\xff" * 4)


PLAIN = pack()
LATIN = b"healthy/\xff.jpg"  # as many bytes as healthy/c.jpg
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute": (lambda: pack(member("/etc/c.jpg")), "absolute path"),
    "drive letter": (lambda: pack(member("C:/c.jpg")), "absolute path"),
    "parent": (lambda: pack(member("healthy/../../c.jpg")), "leads elsewhere"),
    "parent at the start": (lambda: pack(member("../c.jpg")), "leads elsewhere"),
    "current": (lambda: pack(member("healthy/./c.jpg")), "leads elsewhere"),
    "empty part": (lambda: pack(member("healthy//c.jpg")), "leads elsewhere"),
    "backslash": (lambda: pack(member("healthy\\..\\c.jpg")), "backslash"),
    "NUL": (lambda: patch(pack(member("healthy/c~.jpg")), b"c~.jpg", b"c\0.jpg"), "control character"),
    "terminal": (lambda: pack(member("healthy/\x1b[2J.jpg")), "control character"),
    "long name": (lambda: pack(member("healthy/" + "ä" * 130 + ".jpg")), "longer than 255 bytes"),
    "symbolic link": (lambda: pack(member("healthy/c.jpg", b"/etc/passwd", stat.S_IFLNK | 0o777)), "a symbolic link"),
    "device": (lambda: pack(member("healthy/c.jpg", b"", stat.S_IFCHR | 0o666)), "a device"),
    "pipe": (lambda: pack(member("healthy/c.jpg", b"", stat.S_IFIFO | 0o666)), "a device, pipe"),
    "letter case": (lambda: pack(member("healthy/A.JPG")), "have the same name"),
    "folder's case": (lambda: pack(member("Healthy/a.jpg")), "have the same name"),
    "sharp s": (lambda: pack(member("healthy/ß.jpg"), member("healthy/ss.jpg")), "have the same name"),
    "Unicode forms": (lambda: pack(member("healthy/\u00e9.jpg"), member("healthy/e\u0301.jpg")), "have the same name"),
    "file and folder": (lambda: pack(member("healthy/a.jpg/c.jpg")), "lies in a file"),
    "same class": (lambda: pack(member("healthy/x/a.jpg")), "would both become healthy/a.jpg"),
    "encrypted": (lambda: field(pack(member("healthy/c.jpg")), 8, "<H", 0x1), "encrypted"),
    "strongly encrypted": (lambda: field(pack(member("healthy/c.jpg")), 8, "<H", 0x40), "encrypted"),
    "bomb by ratio": (bomb, "data.max_ratio"),
    "bomb by size": (lambda: pack(member("x", bytes(1_000_000))), "1000080 bytes unpacked; data.max_bytes"),
    "bomb by count": (lambda: pack(*(member(f"x{i}", b"") for i in range(99))), "101 files; data.max_files"),
    "bomb by overlap": (overlapping, "overlaps"),
    "bytes from nothing": (lambda: field(pack(member("healthy/c.jpg")), 20, "<I", 0), "data.max_ratio"),
    "LZMA": (lambda: pack(member("healthy/c.jpg", method=zipfile.ZIP_LZMA)), "packed by method 14"),
    "unknown method": (lambda: field(pack(member("healthy/c.jpg")), 10, "<H", 99), "packed by method 99"),
    "lying size": (liar, "Bad CRC-32"),
    "CRC": (lambda: patch(PLAIN, b"b" * 40, b"b" * 39 + b"c"), "Bad CRC-32"),
    "bad deflate": (bad_deflate, "is damaged"),
    "other header": (lambda: PLAIN.replace(b"down_syndrome/b", b"down_syndrome/c", 1), "is damaged"),
    "name that is not UTF-8": (
        lambda: field(pack(member("healthy/c.jpg")), 8, "<H", 0x800).replace(b"healthy/c.jpg", LATIN),
        "cannot be read",
    ),
    "directory that is noise": (lambda: patch(PLAIN, b"PK\x01\x02", b"PK\xff\xff"), "cannot be read"),
    "one part of several": (lambda: end(PLAIN, 4, "<H", 2), "one part of an archive in several"),
    "first part of several": (lambda: b"PK\x07\x08" + PLAIN, "one part of an archive in several"),
    "member in another part": (lambda: field(PLAIN, 34, "<H", 1), "another part"),
    "cut short": (lambda: PLAIN[:-30], "cut short"),
    "cut in the end record": (lambda: PLAIN[:-1], "cut short"),
    "cut in front": (lambda: PLAIN[60:], "overlaps"),
    "HTML": (lambda: b"<html>sorry</html>", "not a ZIP archive"),
    "empty file": (lambda: b"", "not a ZIP archive"),
    "RAR": (lambda: b"Rar!\x1a\x07\x01\x00" + bytes(99), "not a ZIP archive but RAR; pack the images as ZIP"),
    "tar": (lambda: bytes(257) + b"ustar" + bytes(250), "not a ZIP archive but tar; pack the images as ZIP"),
    "tar.gz": (lambda: b"\x1f\x8b\x08" + bytes(99), "not a ZIP archive but gzip; pack the images as ZIP"),
    "nothing in it": (lambda: b"PK\x05\x06" + bytes(18), "no images of the class"),
}


def unpack(packed: bytes, folder: Path) -> None:
    """Run the stage on an archive of the user's own."""
    (folder / "own.zip").write_bytes(packed)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= {
        "source": "own.zip",
        "max_files": LIMITS.files,
        "max_bytes": LIMITS.bytes,
        "max_ratio": LIMITS.ratio,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    source.main(Path("out/source"))
    download.main(Path("out/source"), Path("out/images"), Path("data"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with room around it for what escapes."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archive_is_refused(case: str, project: Path) -> None:
    make, words = HOSTILE[case]
    with pytest.raises(InputError, match=words) as refusal:
        unpack(make(), project)
    assert "own.zip" in str(refusal.value)
    assert str(refusal.value).isprintable()
    written = {path.relative_to(project.parents[1]).as_posix() for path in project.parents[1].rglob("*")}
    links = {"a/b/out/source", "a/b/out/source.txt"}
    assert written - links == {"a", "a/b", "a/b/own.zip", "a/b/params.yaml", "a/b/out"}


def test_good_archive(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strays = [member(name) for name in ("healthy/Thumbs.db", "healthy/._a.jpg", "__MACOSX/healthy/x.jpg", "x.jpg")]
    unpack(pack(*strays, member("healthy/empty/", b"", stat.S_IFDIR | 0o755)), project)
    found = {path.relative_to("out/images").as_posix(): path for path in Path("out/images").rglob("*.jpg")}
    assert {name: path.read_bytes() for name, path in found.items()} == GOOD
    assert (
        "left out 4: 1 image outside the class folders at the top, 1 .jpg in __MACOSX, 1 .db in healthy, "
        "1 hidden file in healthy\n"
    ) in capsys.readouterr().out


def test_zip64_and_comment(project: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in GOOD.items():
            with packed.open(name, "w", force_zip64=True) as file:
                file.write(data)
        packed.comment = b"a comment"
    unpack(buffer.getvalue(), project)
    assert Path("out/images/healthy/a.jpg").read_bytes() == GOOD["healthy/a.jpg"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any bytes changed, or the end cut off: one of our errors, or exactly the right files."""
    packed = bytearray(PLAIN[: data.draw(st.integers(0, len(PLAIN)), label="length")])
    changes = st.lists(st.tuples(st.integers(0, max(0, len(packed) - 1)), st.integers(0, 255)), max_size=3)
    for position, value in data.draw(changes, label="changes") if packed else ():
        packed[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(packed)
    try:
        with Archive(path, LIMITS) as opened:
            for name in opened.sizes:
                if name in GOOD:
                    assert b"".join(opened.read(name)) == GOOD[name]
                else:
                    b"".join(opened.read(name))
    except ArchiveError:
        pass


def test_bytes_are_counted_whatever_the_directory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that gives more, or fewer, bytes than its entry says is damaged even if its CRC is not compared."""
    path = tmp_path / "x.zip"
    path.write_bytes(PLAIN)
    for data, words in ((b"a" * 41, "more bytes than"), (b"a" * 39, "1 bytes short")):
        with Archive(path, LIMITS) as opened, monkeypatch.context() as patched:
            patched.setattr(zipfile.ZipFile, "open", lambda *_, data=data: io.BytesIO(data))
            with pytest.raises(DamagedArchiveError, match=words):
                b"".join(opened.read("healthy/a.jpg"))


def test_count_is_checked_before_the_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(PLAIN)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(ArchiveError, match=r"2 files; data\.max_files"):
        Archive(path, Limits(files=1, bytes=10**9, ratio=200))


def test_large_member_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "CHUNK", 16)
    path = tmp_path / "x.zip"
    path.write_bytes(PLAIN)
    with Archive(path, LIMITS) as opened:
        chunks = list(opened.read("healthy/a.jpg"))
    assert [len(chunk) for chunk in chunks] == [16, 16, 8]


@pytest.mark.parametrize(
    ("limits", "words"),
    [(Limits(1, 10**9, 200), "2 files; data.max_files"), (Limits(9, 79, 200), "80 bytes unpacked; data.max_bytes")],
)
def test_limits_hold_for_folders(tmp_path: Path, limits: Limits, words: str) -> None:
    for name, data in GOOD.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ArchiveError, match=words):
        Folder(tmp_path, limits)


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes in folders")
def test_folder_with_a_pipe_and_a_broken_link(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert Folder(tmp_path, LIMITS).sizes == {"a.jpg": 1}


def arrange(*paths: str) -> manifest.Arrangement:
    return manifest.arrange(sort_out(paths), "mine")


BOTH = ("healthy/h.jpg", "down_syndrome/d.jpg")


@pytest.mark.parametrize(
    ("path", "placed"),
    [
        ("downSyndorme/downSyndrome/down_1.jpg", "down_syndrome/down_1.jpg"),
        ("healty/healty/healty_1.JPEG", "healthy/healty_1.JPEG"),
        ("set/Down Syndrome/x.png", "down_syndrome/x.png"),
        ("down_syndrome/healthy/x.png", "healthy/x.png"),
        ("healthy/more/deep/x.png", "healthy/x.png"),
        ("healthy/notes.txt", None),
        ("healthy/.hidden.jpg", None),
        ("__MACOSX/healthy/x.jpg", None),
        ("unhealthy/x.jpg", None),
        ("x.jpg", None),
    ],
)
def test_the_class_of_a_file(path: str, placed: str | None) -> None:
    others = ("a/healthy/h.jpg", "a/down_syndrome/d.jpg")
    assert arrange(path, *others).images.get(path) == placed


def test_a_folder_that_holds_class_folders_is_no_class() -> None:
    found = arrange(
        "Down Syndrome/down/u.jpg", "Down Syndrome/u.jpg", *(f"Down Syndrome/{path}" for path in BOTH), "Healthy/x.jpg"
    )
    assert found.images == {
        "Down Syndrome/down_syndrome/d.jpg": "down_syndrome/d.jpg",
        "Down Syndrome/healthy/h.jpg": "healthy/h.jpg",
        "Healthy/x.jpg": "healthy/x.jpg",
    }
    assert summary(found.left_out) == (
        "2: 1 image outside the class folders in Down Syndrome, 1 image outside the class folders in Down Syndrome/down"
    )


def test_other_class_folders_are_counted() -> None:
    found = arrange(*BOTH, *(f"autism/{n}.jpg" for n in range(40)), "healthy/h.cr2", "unlabelled/u.heic")
    assert summary(found.left_out) == (
        "42: 40 images outside the class folders in autism, 1 .cr2 in healthy, "
        "1 image outside the class folders in unlabelled"
    )


def test_the_folders_are_named_where_a_class_is_missing() -> None:
    with pytest.raises(InputError) as refusal:
        arrange(*(f"control/{n}.jpg" for n in range(7)), "down_syndrome/d.jpg", "control/a.cr2")
    assert str(refusal.value).startswith(
        "mine: no images of the class healthy (found: 1 of the class down_syndrome; left out 8: "
        "7 images outside the class folders in control, 1 .cr2 in control); they belong in a folder named healthy, "
    )


@pytest.mark.parametrize(
    "layout", ["{subset}/{label}/{n}.jpg", "{label}/{subset}/{n}.jpg", "set/{label}/x/{subset}/{n}.jpg"]
)
def test_a_split_of_the_sources_own_is_kept(layout: str) -> None:
    names = {"Training": 5, "valid": 3, "Test_set": 2}
    found = arrange(
        *(
            layout.format(subset=name, label=label, n=n)
            for name, count in names.items()
            for label in LABELS
            for n in range(count)
        )
    )
    assert found.subsets == {"train": 10, "validation": 6, "test": 4}
    assert "healthy/train/4.jpg" in found.images.values()
    assert "down_syndrome/validation/2.jpg" in found.images.values()
    assert len(set(found.images.values())) == 20


def test_one_folder_named_test_is_no_split() -> None:
    found = arrange(*(f"test/{path}" for path in BOTH))
    assert found.subsets == {}
    assert set(found.images.values()) == set(BOTH)


def test_images_beside_a_split_have_no_subset() -> None:
    found = arrange("healthy/train/a.jpg", "healthy/test/a.jpg", "healthy/b.jpg", "down_syndrome/train/a.jpg")
    assert found.images["healthy/b.jpg"] == "healthy/b.jpg"
    assert found.subsets == {"train": 2, "test": 1}


def test_collisions_are_counted() -> None:
    with pytest.raises(
        InputError,
        match=r"^mine: 'healthy/a/0.jpg' and 'healthy/b/0.jpg' would both become healthy/0.jpg \(3 such images\)",
    ):
        arrange(*(f"healthy/{folder}/{n}.jpg" for folder in "ab" for n in range(3)), *BOTH)


def test_pin_depends_on_names_and_bytes_alone(tmp_path: Path) -> None:
    def pin(files: dict[str, bytes], root: Path) -> str:
        for label in LABELS:
            (root / label).mkdir(parents=True)
        for name, data in files.items():
            (root / name).write_bytes(data)
        return manifest.pin(manifest.digests(root))

    right = pin(GOOD, tmp_path / "1")
    assert right == pin(dict(reversed(GOOD.items())), tmp_path / "2")
    assert right != pin({**GOOD, "healthy/a.jpg": b"A" * 40}, tmp_path / "3")
    assert right != pin({"healthy/c.jpg": b"a" * 40, "down_syndrome/b.jpg": b"b" * 40}, tmp_path / "4")
