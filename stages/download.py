"""Bring the images: from Kaggle, from an archive or folder of one's own, or drawn; checked, whole or not at all.

python -m stages.download downloads/source downloads/images data
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from faces.cli import InputError, OutFolder, PathRole, printable, run
from faces.files import write_atomically
from faces.params import Data, load_params
from faces.source import kaggle_dataset, manifest, own
from faces.source.archive import Archive, DamagedArchiveError, Folder, Limits, Source
from faces.source.listing import summary

SYNCS = 16  # at once: file systems write the journal once for all of them (on a busy disk 2 s, not 30)


def main(
    source: Annotated[
        Path, PathRole("link"), typer.Argument(help="the link to one's own images that the stage source made")
    ],
    images: Annotated[OutFolder, typer.Argument(help="folder to write the images into")],
    data: Annotated[OutFolder, typer.Argument(help="where DVC imports that folder to")],
) -> None:
    """Write IMAGES/down_syndrome, IMAGES/healthy and IMAGES.sha256, as `data` in params.yaml says; all or nothing.

    SOURCE is the link to one's own folder or archive that stages/source.py made. DATA is where DVC imports IMAGES
    to: what an earlier run made of it goes, so that no image stays that is not in IMAGES any more.
    """
    params = load_params()
    with workspace(images) as work:
        if params.data.kind == "kaggle":
            from_kaggle(params.data, work / "images")
        elif params.data.kind == "sample":
            from_sample(params.data, params.sample.images_per_class, work / "images", work / "drawn")
        else:
            if not source.is_symlink():
                raise InputError(f"{source} is not the link that stage source makes; run `dvc repro`")
            from_path(params.data, source.readlink(), work / "images")
        publish(work, images, data)


def from_kaggle(data: Data, target: Path) -> None:
    """Fill `target` from the kept archive or a new download, compared with the pin either way."""
    dataset = kaggle_dataset.Dataset(data.dataset)
    print(f"dataset  {dataset.page}")
    if dataset.archive.exists():
        print(f"licence  {dataset.licence or 'not asked: the archive is here already; see the page'}")
        print(f"archive  {dataset.archive}, here already; delete it to download again")
        fill_pinned(target, dataset.archive, data)
        return
    for again in (True, False):
        kaggle_dataset.download(dataset)
        try:
            fill_pinned(target, dataset.arrived, data)
        except InputError as error:
            dataset.discard()
            if not (again and isinstance(error, DamagedArchiveError)):
                raise
            print(f"damaged  {error}: downloading from the start, once")
        else:
            dataset.keep()
            return


def from_sample(data: Data, images_per_class: int, target: Path, drawn: Path) -> None:
    """Fill `target` with drawn faces."""
    from faces.source import sample

    print("source   sample: drawn faces, not the paper's data")
    sample.draw(drawn, images_per_class)
    fill(target, Folder(drawn, limits(data)), "the sample")


def from_path(data: Data, origin: Path, target: Path) -> None:
    """Fill `target` from a folder or archive of the user's own, which has no pin."""
    own.check(origin)
    print(f"source   {printable(str(origin))}: your own, compared with no pin (data.sha256 is for the set on Kaggle)")
    if origin.is_dir():
        fill(target, Folder(origin, limits(data)), str(origin))
    else:
        with Archive(origin, limits(data)) as archive:
            fill(target, archive, str(origin))


def limits(data: Data) -> Limits:
    """Return what the parameters allow a source to hold."""
    return Limits(files=data.max_files, bytes=data.max_bytes, ratio=data.max_ratio)


def fill_pinned(target: Path, archive: Path, data: Data) -> None:
    """Fill `target` from the archive of the set on Kaggle; `InputError` if its content is not the pinned one."""
    with Archive(archive, limits(data)) as source:
        kaggle_dataset.check_pin(archive, fill(target, source, str(archive)), data)


def fill(target: Path, source: Source, origin: str) -> str:
    """Write the images of `source` to `target`/<class>/, and return their pin."""
    arranged = manifest.arrange(source.listing, origin)
    if arranged.left_out:
        print(f"left out {summary(arranged.left_out)}")
    shutil.rmtree(target, ignore_errors=True)
    for folder in {name.rpartition("/")[0] for name in arranged.images.values()}:
        (target / folder).mkdir(parents=True)
    need, free = sum(source.sizes[path] for path in arranged.images), shutil.disk_usage(target).free
    if need > free:
        raise InputError(f"{target}: {need:,} bytes to write and {free:,} free; make room and run again")
    for path, name in arranged.images.items():
        with (target / name).open("xb") as file:
            file.writelines(source.read(path))
    counts = Counter(name.split("/")[0] for name in arranged.images.values())
    print(f"images   {counts.total()}: {_listed(counts)}; {need:,} bytes")
    if arranged.subsets:
        print(f"split    the source's own: {_listed(arranged.subsets)}; used by split.scheme folders, by no other")
    digests = manifest.digests(target)
    write_atomically(target.with_suffix(".sha256"), manifest.lines(digests).encode())
    content = manifest.pin(digests)
    print(f"content  {content}")
    return content


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))


@contextmanager
def workspace(images: Path) -> Iterator[Path]:
    """Give an empty folder beside `images`, gone afterwards; what a killed run left there goes first."""
    work = images.with_name(f".{images.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(work: Path, images: Path, data: Path) -> None:
    """Write the new images through to the disk and put them, and their digests, in the place of the old ones."""
    whole, listed = work / "images", work / "images.sha256"
    record = images.with_suffix(".sha256")
    old, new = (_digests(path) for path in (record, listed))
    for folder in (images, data):
        check_made(folder, old, new)
    with ThreadPoolExecutor(SYNCS) as pool:
        list(pool.map(sync, [*whole.rglob("*"), whole]))
    if data.exists() and old != new:
        empty(data)
    if images.exists():
        images.rename(work / "replaced")
    whole.rename(images)
    listed.replace(record)
    sync(images.parent)


def empty(folder: Path) -> None:
    """Remove what is in a folder, but not the folder, which may be a link or another disk."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _digests(record: Path) -> dict[str, str]:
    return manifest.parse(record.read_text(encoding="utf-8")) if record.exists() else {}


def check_made(folder: Path, *made: dict[str, str]) -> None:
    """Refuse to replace a folder that holds files which neither the last run made nor this one makes."""
    found = manifest.digests(folder) if folder.exists() else {}
    strange = [path for path, digest in found.items() if digest not in {run.get(path) for run in made}]
    if strange:
        first = printable(f"{folder}/{strange[0]}")
        raise InputError(
            f"{first} was not made by the pipeline, which is about to replace {folder} ({len(strange)} such files); "
            "move them out: images of your own belong where data.source points"
        )


def sync(path: Path) -> None:
    """Write a file, or a folder's entries, through to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    run(main)
