"""Write the report: one page that opens offline, its tables as Markdown, the model card, and the times."""

import hashlib
import json
import subprocess
from pathlib import Path

import yaml

from faces.cli import run
from faces.files import write_atomically, write_json
from faces.pages import report
from faces.params import load_params


def main(
    metrics: Path,
    models: Path,
    plots: Path,
    out_page: Path,
    out_tables: Path,
    out_card: Path,
    out_timing: Path,
) -> None:
    """Gather what the other stages found; times are copied to `out_timing`, among the metrics."""
    trials = load_params().trials
    timing = {trial: report.read_json(models / trial / "timing.json") for trial in trials}
    write_json(out_timing, timing)
    evidence = report.read_evidence(metrics)
    pictures = {
        path.relative_to(plots).with_suffix("").as_posix(): path.read_bytes() for path in sorted(plots.rglob("*.png"))
    }

    provenance = {"commit": commit(), "lock": lock_sha256(Path("dvc.lock"))}
    page = report.render("index.html", evidence, pictures=pictures, provenance=provenance)
    write_atomically(out_page, page.encode())
    write_atomically(out_tables, report.render("tables.md", evidence).encode())
    write_atomically(out_card, report.model_card(evidence).encode())


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
