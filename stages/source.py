"""Find what data.source names, and leave a link to it where DVC looks for changes."""

from pathlib import Path
from typing import Annotated

import typer

from faces.cli import InputError, PathRole, run
from faces.files import write_atomically
from faces.params import load_params
from faces.source import own


def main(
    link: Annotated[Path, PathRole("link", written=True), typer.Argument(help="the link to make")],
) -> None:
    """Make LINK lead to one's own folder or archive, or be a file with the word kaggle or sample; LINK.txt says which.

    DVC follows the link: what lies behind it is a dependency of the download, wherever it is.
    """
    data = load_params().data
    word = f"{data.kind}\n".encode()
    if link.exists() and not link.is_symlink() and not (link.is_file() and link.read_bytes() in WORDS):
        raise InputError(f"{link} is in the way; move it: the pipeline keeps a link of this name")
    if data.kind == "own":
        origin = own.locate(data.source)
        own.check(origin)
        link.parent.mkdir(parents=True, exist_ok=True)
        new = link.with_name(f".{link.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(origin)
        new.replace(link)
    else:
        write_atomically(link, word)
    write_atomically(link.with_suffix(".txt"), word)
    print(f"source   {data.source}")


WORDS = (b"kaggle\n", b"sample\n")

if __name__ == "__main__":
    run(main)
