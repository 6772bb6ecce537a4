"""Fetch the networks that find faces and tell them apart: OpenCV's files, ones placed beforehand, or none."""

import shutil
from pathlib import Path
from typing import Annotated
from urllib.error import URLError

import typer

from faces.children.networks import SFACE
from faces.cli import InputError, OutFolder, run
from faces.files import file_sha256, replaced, write_json
from faces.images.yunet import YUNET, Network
from faces.params import load_params

DOWNLOADS = Path("downloads")  # where the downloads go; a file already there is used instead


def main(
    out: Annotated[OutFolder, typer.Argument(help="folder to write the networks into")],
) -> None:
    """Write the two files into a folder, and what they are; with `networks.source: none` no face is looked for."""
    with replaced(out) as folder:
        facts = fetch(folder, load_params().networks.source)
    print("networks: " + ", ".join(f"{name} {value}" for name, value in facts.items()))


def fetch(folder: Path, source: str) -> dict[str, str]:
    """Write the networks of a source, and facts.json, into a folder; return the facts."""
    facts = {"source": source}
    for network in (YUNET, SFACE) if source == "opencv-zoo" else ():
        downloaded = DOWNLOADS / network.file
        if not downloaded.exists():
            _download(network, downloaded)
        sha256 = file_sha256(downloaded)
        if sha256 != network.sha256:
            raise InputError(
                f"{downloaded} has SHA-256 {sha256}, not {network.sha256}; "
                "delete it and run again, or place the zoo's own file there"
            )
        shutil.copyfile(downloaded, folder / network.name)
        facts[network.name] = sha256
    write_json(folder / "facts.json", facts)
    return facts


def _download(network: Network, target: Path) -> None:
    import torch

    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {network.url}")
    instead = "fetch the two files elsewhere and run: make repro NETWORKS=folder"
    try:  # to a temporary file first
        torch.hub.download_url_to_file(network.url, str(target), hash_prefix=network.sha256)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"cannot download {network.url} ({reason}); {instead}") from None
    except RuntimeError as error:
        raise InputError(f"{network.url}: {error}; run again, or {instead}") from None


if __name__ == "__main__":
    run(main)
