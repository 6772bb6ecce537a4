"""Which files are images, by name, link and folder; what is left out is counted, whoever walks."""

import os
from pathlib import Path

import pytest

from faces.cli import InputError
from faces.naming import LABELS
from faces.source.listing import LeftOut, list_classes, list_folder, sort_out, summary


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpe", "jfif", "jpeg", "heic", "HEIF", "hif", "avif", "webp", "tiff"])
def test_suffixes_of_images(suffix: str) -> None:
    assert sort_out([f"a/b.{suffix}"]).images == [f"a/b.{suffix}"]


@pytest.mark.parametrize(
    ("path", "what", "folder"),
    [
        ("healthy/notes.TXT", ".txt", "healthy"),
        ("README", "file without suffix", ""),
        ("healthy/.hidden.jpg", "hidden file", "healthy"),
        ("healthy/._a.jpg", "hidden file", "healthy"),
        (".DS_Store", "hidden file", ""),
        ("healthy/.ipynb_checkpoints/h1-checkpoint.jpg", ".jpg", "healthy/.ipynb_checkpoints"),
        (".Trash-1000/files/deep/a.jpg", ".jpg", ".Trash-1000"),
        ("healthy/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".jpg", "healthy/@eaDir"),
        ("healthy/.AppleDouble/a.jpg", ".jpg", "healthy/.AppleDouble"),
        ("__MACOSX/healthy/a.jpg", ".jpg", "__MACOSX"),
        ("$RECYCLE.BIN/a.jpg", ".jpg", "$RECYCLE.BIN"),
        ("#recycle/a.jpg", ".jpg", "#recycle"),
        ("healthy/a.jpg:Zone.Identifier", ".identifier", "healthy"),
        ("healthy/a.cr2", ".cr2", "healthy"),
    ],
)
def test_what_is_left_out(path: str, what: str, folder: str, tmp_path: Path) -> None:
    expected = [LeftOut(path, what, folder)]
    assert sort_out([path]).left_out == expected
    assert list_folder(make(tmp_path, path)).left_out == expected


def test_the_line_counts_by_kind_and_folder() -> None:
    listing = sort_out([f"healthy/{n}.cr2" for n in range(40)] + ["a.txt", "b.txt", "healthy/.x/a.jpg", "c/.y"])
    assert summary(listing.left_out) == (
        "44: 40 .cr2 in healthy, 2 .txt at the top, 1 hidden file in c, 1 .jpg in healthy/.x"
    )


def test_the_line_stays_one_printable_line() -> None:
    listing = sort_out([f"folder{n}/a.txt" for n in range(20)] + ["new\nline/\x1b[2J.txt", "\udcff/b.md"])
    line = summary(listing.left_out)
    assert line.isprintable()
    assert line.startswith("22: 1 .txt in folder0, ")
    assert line.endswith(", 14 more of 14 kinds")


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "healthy/a.jpg")
    make(tmp_path / "other", "b.jpg")
    (root / "healthy/link.jpg").symlink_to(tmp_path / "other/b.jpg")
    (root / "healthy/more").symlink_to(tmp_path / "other")
    (root / "round").symlink_to(root)
    (root / "gone.jpg").symlink_to("nowhere")
    (root / "circle.jpg").symlink_to("circle.jpg")
    listing = list_folder(root)
    assert listing.images == ["healthy/a.jpg", "healthy/link.jpg"]
    assert summary(listing.left_out) == (
        "4: 2 broken links at the top, 1 link to a folder in healthy/more, 1 link to a folder in round"
    )
    (tmp_path / "link").symlink_to(root)
    assert list_folder(tmp_path / "link").images == listing.images  # the folder that was named may be a link


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in folders")
    os.mkfifo(make(tmp_path, "a.jpg") / "pipe.jpg")
    listing = list_folder(tmp_path)
    assert listing.images == ["a.jpg"]
    assert summary(listing.left_out) == "1: 1 pipe, socket or device at the top"


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jpg", "closed/b.jpg", ".Trash-1000/c.jpg")
    scan = os.scandir

    def refuse(name: str) -> None:
        def scandir(path: Path) -> object:
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)

    refuse("closed")
    with pytest.raises(InputError, match=r"closed: cannot be read: Permission denied$"):
        list_folder(tmp_path)
    refuse(".Trash-1000")
    assert summary(list_folder(tmp_path).left_out) == "1: 1 folder that cannot be read at the top"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make(tmp_path, *(f"{label}/{number}.png" for label in LABELS for number in range(5)))


def test_the_class_folders(data: Path) -> None:
    make(data, "healthy/Thumbs.db", "healthy/._0.png", "healthy/UPPER.JPG", "healthy/train/a.png", "other/a.jpg")
    listing = list_classes(data)
    assert listing.images == sorted(listing.images)
    assert {"healthy/UPPER.JPG", "healthy/train/a.png", "down_syndrome/0.png"} < set(listing.images)
    assert len(listing.images) == 12
    assert listing.left_out == [
        LeftOut("healthy/._0.png", "hidden file", "healthy"),
        LeftOut("healthy/Thumbs.db", ".db", "healthy"),
        LeftOut("other/a.jpg", "image outside the class folders", "other"),
    ]


def test_a_missing_or_empty_class_is_one_line(data: Path, tmp_path: Path) -> None:
    for path in (data / "healthy").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"healthy holds no images; their names end in \.avif"):
        list_classes(data)
    (data / "healthy").rmdir()
    with pytest.raises(InputError, match="has no folder 'healthy'"):
        list_classes(data)
    with pytest.raises(InputError, match="has no folder"):
        list_classes(tmp_path / "nothing")


@pytest.mark.parametrize(("name", "why"), [(b"\xff.png", "is not valid UTF-8"), (b"a\nb.png", "a control character")])
def test_a_file_name_that_no_table_can_hold_is_named(data: Path, name: bytes, why: str) -> None:
    try:
        Path(os.fsdecode(os.fsencode(data / "healthy") + b"/" + name)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(InputError, match=f"{why}; rename the file") as refusal:
        list_classes(data)
    assert str(refusal.value).isprintable()
