"""Write a pull request's comment: the gate's table, and the curves before and after.

    python -m ci.comment BASE GATE OUT

In a comment GitHub shows only pictures that have an address; what is in an artifact has none. So the comment shows
the figures that the pull request changes as they are in Git, before and after. The plots of dvc.yaml with both
revisions in the same axes are written beside it as SVG, for the artifact that the comment links to. Nothing is
uploaded here, and no permission is needed.
"""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
import vl_convert

from faces.cli import InFile, InputError, OutFolder, execute, run
from faces.files import write_atomically

FIGURES = "plots/figures"
WIDTH = 360  # pixels, of a figure in the comment


def main(
    base: Annotated[str, typer.Argument(help="the Git revision to compare with, such as origin/main")],
    gate: Annotated[InFile, typer.Argument(help="the gate's table, as Markdown")],
    out: Annotated[OutFolder, typer.Argument(help="folder to write comment.md and curves/*.svg into")],
    repository: Annotated[str, typer.Option(envvar="GITHUB_REPOSITORY", help="OWNER/NAME on GitHub")],
    server: Annotated[str, typer.Option(envvar="GITHUB_SERVER_URL", help="where GitHub is")] = "https://github.com",
    run_id: Annotated[str | None, typer.Option(envvar="GITHUB_RUN_ID", help="whose artifact holds OUT")] = None,
    event: Annotated[InFile | None, typer.Option(envvar="GITHUB_EVENT_PATH", help="JSON of the pull request")] = None,
) -> None:
    """Write a pull request's comment, and each plot with both revisions in the same axes."""
    address = f"{server}/{repository}"
    before, after = commit(base), pull_request_head(event) or commit("HEAD")
    drawn, missing = curves(base)
    for name, svg in drawn.items():
        write_atomically(out / "curves" / f"{name}.svg", svg.encode())
    where = f"in [the artifact]({address}/actions/runs/{run_id}#artifacts)" if run_id else "in `curves/`"
    lines = [
        gate.read_text(encoding="utf-8"),
        "### Curves",
        "",
        *figures(f"{address}/raw", before, after),
        "",
        f"Before and after in the same axes: {len(drawn)} plots as SVG {where}.",
        *([f"Not in them, since it cannot be read: {', '.join(missing)}."] if missing else []),
        "",
    ]
    write_atomically(out / "comment.md", "\n".join(lines).encode())


def commit(revision: str) -> str:
    """Return the hash of a revision's commit."""
    try:
        return execute("git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()
    except InputError:
        raise InputError(f"cannot see the revision {revision!r}; run `git fetch`, or name another") from None


def pull_request_head(event: Path | None) -> str | None:
    """Return a pull request's own last commit, which GitHub keeps; what it checks out is a merge with the base."""
    found = json.loads(event.read_text(encoding="utf-8")) if event else {}
    return found["pull_request"]["head"]["sha"] if "pull_request" in found else None


def curves(base: str) -> tuple[dict[str, str], list[str]]:
    """Return dvc.yaml's plots of `base` and the working tree, as SVG by a file's name, and what cannot be read."""
    found = json.loads(execute("dvc", "plots", "diff", base, "--json"))
    svg = {
        re.sub(r"\W+", "-", name): vl_convert.vegalite_to_svg(plot["content"])
        for name, parts in found["data"].items()
        for plot in parts
        if plot["type"] == "vega" and plot["content"]
    }
    return svg, sorted({f"`{error.get('source', 'dvc.yaml')}` in {error['rev']}" for error in found.get("errors", [])})


def figures(raw: str, before: str, after: str) -> list[str]:
    """Return a table of the figures that differ between the base and what is checked out; raw: where files are."""
    listed = execute("git", "diff", "--no-renames", "--name-status", "-z", before, "HEAD", "--", FIGURES).split("\0")
    rows = []
    for status, path in zip(listed[::2], listed[1::2], strict=False):
        was = "" if status == "A" else _picture(raw, before, path)
        now = "" if status == "D" else _picture(raw, after, path)
        rows.append(f"| {Path(path).stem} | {was} | {now} |")
    return ["| figure | before | after |", "|---|---|---|", *rows] if rows else ["No figure changes."]


def _picture(raw: str, revision: str, path: str) -> str:
    return f'<img src="{raw}/{revision}/{path}" alt="{Path(path).stem} at {revision[:7]}" width="{WIDTH}">'


if __name__ == "__main__":
    run(main)
