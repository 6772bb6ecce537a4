"""Fetch the pretrained ResNet-34: torchvision's file, one placed beforehand, or random weights for the sample."""

import io
import shutil
from pathlib import Path
from typing import Annotated
from urllib.error import URLError

import typer

from faces.cli import InputError, OutFile, run
from faces.files import file_sha256, write_atomically, write_json
from faces.params import load_params

DOWNLOADED = Path("downloads/weights.pth")  # where the download goes; a file already there is used instead


def main(
    out_weights: Annotated[OutFile, typer.Argument(help="where to write the weights")],
    out_facts: Annotated[OutFile, typer.Argument(help="where to write what is known of them, as JSON")],
) -> None:
    """Write the weights file and what is known of it."""
    params = load_params()

    from faces.training.model import known_as, read_state_dict

    if params.weights.source == "random":
        content, known = _random(params.weights.seed), "random weights, for the sample"
        write_atomically(out_weights, content)
    else:
        if not DOWNLOADED.exists():
            _download()
        read_state_dict(DOWNLOADED)
        out_weights.parent.mkdir(parents=True, exist_ok=True)
        partial = out_weights.with_suffix(".partial")
        shutil.copyfile(DOWNLOADED, partial)
        partial.replace(out_weights)
        known = known_as(file_sha256(out_weights))

    facts = {"sha256": file_sha256(out_weights), "known_as": known}
    write_json(out_facts, facts)
    print(f"weights: {known}, SHA-256 {facts['sha256']}")


def _download() -> None:
    import torch
    from torchvision.models import ResNet34_Weights

    url = ResNet34_Weights.IMAGENET1K_V1.url
    DOWNLOADED.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url}")
    try:  # to a temporary file first; the hash in the file's name is checked
        hash_prefix = url.rsplit("-", 1)[1].removesuffix(".pth")
        torch.hub.download_url_to_file(url, str(DOWNLOADED), hash_prefix=hash_prefix)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"cannot download {url} ({reason}); fetch the file elsewhere and run: make repro WEIGHTS=file.pth"
        ) from None
    except RuntimeError as error:
        raise InputError(f"{url}: {error}; run again, or: make repro WEIGHTS=file.pth") from None


def _random(seed: int) -> bytes:
    import torch
    from torchvision.models import resnet34

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = resnet34(weights=None).state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    run(main)
