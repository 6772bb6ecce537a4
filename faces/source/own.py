"""A folder or archive of the user's own: where it is, that the pipeline cannot harm it, that DVC can watch it.

Before a stage runs, DVC deletes the stage's outputs; before it imports `data`, it replaces what is there. So a
source must lie apart from everything that the pipeline makes.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import yaml

from faces.cli import InputError, printable
from faces.source.listing import BROKEN_LINK, FOLDER_LINK, SPECIAL, check_names, list_folder


def project() -> Path:
    """Return the repository's folder; DVC names it in a stage of a queued experiment, which runs in a copy."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def locate(source: str) -> Path:
    """Return the absolute path of `data.source`, links as they are; `InputError` unless it is a folder or a file."""
    where = f"params.yaml: data.source: {printable(source)}"
    try:
        path = project() / Path(source).expanduser()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{where} is neither kaggle nor sample nor a path that exists") from None
    except (OSError, RuntimeError, ValueError) as error:  # no permission, no such user, a name too long, a NUL
        raise InputError(f"{where} cannot be used: {' '.join(str(error).split())}") from None
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise InputError(f"{where} is a device, pipe or socket; give a folder or a ZIP archive")
    return path


def check(origin: Path) -> None:
    """Refuse, in one line, a source that the pipeline would harm or that DVC could not watch."""
    _check_apart(origin)
    if origin.is_dir():
        _check_watchable(origin)


def _check_apart(origin: Path) -> None:
    """Refuse a source that lies in an output of the pipeline, or holds one, whichever links lead there."""
    where = f"params.yaml: data.source: {printable(str(origin))}"
    lies_in = {_identity(path) for path in _up(origin)}
    for name in ["", *_outputs(project())]:
        output = project() / name
        if name and output.exists() and _identity(output) in lies_in:
            raise InputError(f"{where} lies in {name}, which the pipeline replaces; move it out, beside the repository")
        if _identity(origin) in {_identity(path) for path in _up(output)}:
            held = f"the pipeline's own {name}" if name else "the repository"
            raise InputError(f"{where} holds {held}; give the folder of the images alone, outside the repository")


def _check_watchable(origin: Path) -> None:
    """Refuse where DVC would fail (names, broken links), wait for ever (pipes) or not look (behind links to folders).

    .dvcignore keeps it from hidden files.
    """
    listing = list_folder(origin)
    seen = [file for file in listing.left_out if not _hidden(file.path)]
    check_names(origin, [*listing.images, *(file.path for file in seen)])
    for file in seen:
        path = printable(str(origin / file.path))
        if file.what in (BROKEN_LINK, SPECIAL):
            raise InputError(f"{path} is a {file.what}; DVC cannot look for changes there: remove it")
        if file.what == FOLDER_LINK:
            raise InputError(f"{path} is a {file.what}; DVC sees no change behind it: put the folder itself there")


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _outputs(root: Path) -> Iterator[str]:
    """Yield the top folders of what the stages in dvc.yaml and the .dvc files write, and the tools' hidden ones."""
    file = root / "dvc.yaml"
    stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"] if file.exists() else {}
    bodies = [stage.get("do", stage) for stage in stages.values()]
    bodies += [yaml.safe_load(path.read_text(encoding="utf-8")) for path in root.glob("*.dvc") if path.is_file()]
    listed = [out for body in bodies for key in ("outs", "metrics", "plots") for out in body.get(key, [])]
    paths = [out.get("path") or next(iter(out)) if isinstance(out, dict) else out for out in listed]
    yield from sorted({path.split("/")[0] for path in paths} | {path.name for path in root.glob(".*")})


def _up(path: Path) -> Iterator[Path]:
    """Yield what a path leads to and all folders above that, as far as they exist."""
    real = path.resolve()
    yield from (folder for folder in (real, *real.parents) if folder.exists())


def _identity(path: Path) -> tuple[int, int]:
    """Return what two paths share if they are one file, also where letter case makes no difference."""
    found = path.stat()
    return found.st_dev, found.st_ino
