"""Check the paper's results table against itself: which confusion matrices can each row come from?"""

from pathlib import Path

from faces.cli import run
from faces.evidence.consistency import check, markdown
from faces.evidence.paper import load_paper
from faces.files import write_atomically, write_json


def main(paper: Path, report: Path, page: Path) -> None:
    """Write the findings as JSON (report) and Markdown (page)."""
    findings = check(load_paper(paper))

    write_json(report, findings)
    write_atomically(page, markdown(findings).encode())


if __name__ == "__main__":
    run(main)
