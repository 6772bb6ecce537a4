"""Check the paper's results table against itself: which confusion matrices can each row come from?"""

from pathlib import Path
from typing import Annotated

import typer

from faces.cli import OutFile, PathRole, run
from faces.evidence.consistency import check
from faces.evidence.paper import load_paper
from faces.files import write_json

TABLE = PathRole("file", read=True, remedy="give the YAML file of a paper's table")


def main(
    paper: Annotated[Path, TABLE, typer.Argument(help="the paper's figures, paper.yaml")],
    out: Annotated[OutFile, typer.Argument(help="where to write the findings, as JSON")],
) -> None:
    """Write what each row of a paper's table can and cannot come from."""
    write_json(out, check(load_paper(paper)).model_dump())


if __name__ == "__main__":
    run(main)
