"""The arrays kept between runs: what killed runs leave goes, what other runs do is borne, a full disk is named."""

import errno
import os
from pathlib import Path

import pytest
import torch

from faces.training import cache


@pytest.fixture(autouse=True)
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACES_CACHE", str(tmp_path))
    return cache.folder("arrays")


def fill(out: torch.Tensor) -> None:
    out.fill_(7)


def test_the_cache_is_the_projects_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where DVC runs an experiment in a temporary copy; FACES_CACHE comes first."""
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    assert cache.folder("arrays") == tmp_path / "arrays"
    monkeypatch.delenv("FACES_CACHE")
    assert cache.folder("arrays") == tmp_path / "project/.cache/arrays"
    monkeypatch.delenv("DVC_ROOT")
    assert cache.folder("arrays").resolve() == tmp_path / "copy/.cache/arrays"


def test_what_a_killed_run_left_half_filled_goes_after_a_day(arrays: Path) -> None:
    for name, age in ((".old.abc", cache.ORPHANED_AFTER + 60), (".young.abc", 60)):
        (arrays / name).write_bytes(b"half")
        then = (arrays / name).stat().st_mtime - age
        os.utime(arrays / name, (then, then))
    assert cache.array("key", (3,), torch.uint8, fill).tolist() == [7, 7, 7]
    assert sorted(path.name for path in arrays.iterdir()) == [".young.abc", "key.bin"]


def test_a_file_that_another_run_removes_meanwhile_is_no_failure(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone.bin", "there.bin"):
        (arrays / name).write_bytes(b"x")
    stat = Path.stat

    def removed_before(path: Path, **options: bool) -> os.stat_result:
        if path.name == "gone.bin":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", removed_before)
    assert cache.array("key", (3,), torch.uint8, fill).tolist() == [7, 7, 7]
    assert sorted(path.name for path in arrays.iterdir()) == ["key.bin", "there.bin"]


def test_the_longest_unused_go_first(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("newest", "older", "oldest")):
        cache.array(name, (400,), torch.uint8, fill)
        os.utime(arrays / f"{name}.bin", (1e9 - age, 1e9 - age))
    monkeypatch.setenv("FACES_CACHE_GB", "0.0000013")
    cache.array("new", (400,), torch.uint8, fill)
    assert sorted(path.stem for path in arrays.iterdir()) == ["new", "newest", "older"]


def test_a_full_disk_names_the_file_and_leaves_nothing(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        cache.array("key", (3,), torch.uint8, fill)
    assert caught.value.filename == str(arrays / "key.bin")
    assert list(arrays.iterdir()) == []
