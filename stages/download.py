"""Bring the images: from Kaggle, from an archive or folder of one's own, or drawn; checked, whole or not at all.

python -m stages.download downloads/images
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from faces.cli import InputError, run
from faces.naming import LABELS
from faces.params import Data, load_params
from faces.source import kaggle_dataset, manifest
from faces.source.archive import Archive, DamagedArchiveError, Folder, Limits, Source

SYNCS = 16  # at once: file systems write the journal once for all of them (on a busy disk 2 s, not 30)


def main(images: Path) -> None:
    """Write IMAGES/down_syndrome and IMAGES/healthy, as `data` in params.yaml says; whole or not at all."""
    params = load_params()
    with workspace(images) as work:
        if params.data.source == "kaggle":
            from_kaggle(params.data, work / "images")
        elif params.data.source == "sample":
            from_sample(params.data, params.sample.images_per_class, work / "images", work / "drawn")
        else:
            from_path(params.data, Path(params.data.source).expanduser(), images, work / "images")
        publish(work / "images", images)


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


def from_path(data: Data, source: Path, images: Path, target: Path) -> None:
    """Fill `target` from a folder or archive of the user's own, which has no pin."""
    if not source.exists():
        raise InputError(f"params.yaml: data.source: {source} is neither kaggle nor sample nor a path that exists")
    origin, output = source.resolve(), images.resolve()
    if origin == output or origin in output.parents or output in origin.parents:
        raise InputError(f"params.yaml: data.source: {source} and the output {images} lie in one another")
    print(f"source   {source}: your own, compared with no pin (data.sha256 is for the set on Kaggle)")
    if source.is_dir():
        fill(target, Folder(source, limits(data)), str(source))
    else:
        with Archive(source, limits(data)) as archive:
            fill(target, archive, str(source))


def limits(data: Data) -> Limits:
    """Return what the parameters allow a source to hold."""
    return Limits(files=data.max_files, bytes=data.max_bytes, ratio=data.max_ratio)


def fill_pinned(target: Path, archive: Path, data: Data) -> None:
    """Fill `target` from the archive of the set on Kaggle; `InputError` if its content is not the pinned one."""
    with Archive(archive, limits(data)) as source:
        content = fill(target, source, str(archive))
    if content != data.sha256:
        raise InputError(
            f"{archive}: its images are not the pinned ones: expected {data.sha256} (data.sha256 in params.yaml), "
            f"got {content}. Name the version you mean (data.dataset: owner/slug/version), or give its archive "
            f"(make repro ARCHIVE=...), or, if this content is what you want, set data.sha256 to it"
        )


def fill(target: Path, source: Source, origin: str) -> str:
    """Write the images of `source` to `target`/<class>/, through to the disk, and return their pin."""
    chosen, strays = manifest.arrange(source.sizes, origin)
    if strays:
        names = Counter(PurePosixPath(path).name for path in strays)
        shown = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in sorted(names.items())[:10])
        more = ", ..." if len(names) > 10 else ""
        print(f"left out {len(strays)} not images of a class: {shown}{more}")
    shutil.rmtree(target, ignore_errors=True)
    for label in LABELS:
        (target / label).mkdir(parents=True)
    need, free = sum(source.sizes[path] for path in chosen), shutil.disk_usage(target).free
    if need > free:
        raise InputError(f"{target}: {need:,} bytes to write and {free:,} free; make room and run again")
    for path, name in chosen.items():
        with (target / name).open("xb") as file:
            file.writelines(source.read(path))
    counts = Counter(name.split("/")[0] for name in chosen.values())
    print(f"images   {len(chosen)}: {', '.join(f'{n} {label}' for label, n in sorted(counts.items()))}; {need:,} bytes")
    content = manifest.content_sha256(target)
    print(f"content  {content}")
    return content


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


def publish(whole: Path, images: Path) -> None:
    """Write `whole` through to the disk and move it to `images`, in one rename where nothing is there yet."""
    with ThreadPoolExecutor(SYNCS) as pool:
        list(pool.map(sync, [*whole.rglob("*"), whole]))
    if images.exists():
        images.rename(whole.with_name("replaced"))
    whole.rename(images)
    sync(images.parent)


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
