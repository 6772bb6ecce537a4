"""Write every page: the evidence as Markdown, one page that opens offline, the model card, and the times."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from faces.cli import ChangedFolder, InFolder, OutFile, OutFolder, run
from faces.evidence.documents import read_document
from faces.files import write_atomically, write_json
from faces.pages import report
from faces.params import load_params


def main(
    metrics: Annotated[ChangedFolder, typer.Argument(help="folder of the metrics")],
    models: Annotated[InFolder, typer.Argument(help="folder with NAME/timing.json for each run")],
    plots: Annotated[InFolder, typer.Argument(help="folder with the pictures")],
    reports: Annotated[OutFolder, typer.Option(help="where to write index.html and tables.md")],
    card: Annotated[OutFile, typer.Option(help="where to write the model card")],
) -> None:
    """Write metrics/NAME.md and timing.json into `metrics`, the page and its tables into `reports`, and the card.

    models: folder with NAME/timing.json for each run; plots: folder with the pictures, as PNG.
    """
    params = load_params()
    timing = {name: read_document(dict[str, Any], models / name / "timing.json") for name in params.runs}
    write_json(metrics / "timing.json", timing)
    evidence = report.read_evidence(metrics, params.splits)
    pictures = {
        path.relative_to(plots).with_suffix("").as_posix(): path.read_bytes()
        for folder in ("explain", "figures")
        for path in sorted((plots / folder).glob("*.png"))
    }
    provenance = {"commit": commit(), "lock": lock_sha256(Path("dvc.lock"))}

    texts = {metrics / f"{name}.md": text for name, text in report.pages(evidence).items()}
    texts |= {
        reports / "index.html": report.page(evidence, pictures, provenance),
        reports / "tables.md": report.all_tables(evidence),
        card: report.model_card(evidence),
    }
    for path, text in texts.items():
        write_atomically(path, text.encode())


def commit() -> str:
    """Return the commit this ran at, and whether code or parameters differ from it; "unknown" without Git."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "HEAD")
        if head.returncode:
            return "unknown"
        changed = git("diff", "--quiet", "HEAD", "--", "faces", "stages", "params.yaml", "dvc.yaml").returncode
    except FileNotFoundError:
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed else "")


def lock_sha256(path: Path) -> str:
    """Return the SHA-256 of dvc.lock without the entry of this very stage, as sorted JSON; "none" without it."""
    if not path.exists():
        return "none"
    stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    stages.pop("report", None)
    return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    run(main)
