"""Check the paper's results table against itself: which confusion matrices can each row come from?"""

from faces.cli import InFile, OutFile, run
from faces.evidence.consistency import check
from faces.evidence.paper import load_paper
from faces.files import write_json


def main(paper: InFile, out: OutFile) -> None:
    """Write what each row of a paper's table can and cannot come from."""
    write_json(out, check(load_paper(paper)).model_dump())


if __name__ == "__main__":
    run(main)
