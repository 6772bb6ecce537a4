"""Put the results of the metrics folder into README.md: `python -m ci.readme README.md metrics`."""

from typing import Annotated

import typer

from faces.cli import ChangedFile, InFolder, run
from faces.pages.report import read_evidence, readme
from faces.params import load_params


def main(
    readme_file: Annotated[ChangedFile, typer.Argument(help="README.md, with its two marks")],
    metrics: Annotated[InFolder, typer.Argument(help="folder of the metrics")],
) -> None:
    """Rewrite the block between the marks of `faces.pages.report.README_MARKS`; the rest stays as it is."""
    text = readme(readme_file.read_text(encoding="utf-8"), read_evidence(metrics, load_params().splits))
    readme_file.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run(main)
