"""Compare the metrics of the working tree with those of a Git revision or a DVC experiment.

    python -m ci.gate BASE [--json FILE] [--markdown FILE]

A drop is a regression if chance explains it with a probability below `alpha` (ci/gate.yaml): neither the choice of
the test images nor the noise between runs, where metrics/seeds.json knows it (ci/changes.py says how). A run of one
side only is named as added or removed. Every other JSON file below metrics/ must still be there, and hold finite
numbers; a run's metrics must follow from its predictions. Exit status: 0 nothing is worse, 1 something is, 2 the two
cannot be compared.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from ci import changes
from ci.changes import Change, Result, Settings
from ci.revision import ACTIVE, RUNS, SEEDS, Revision, RevisionError, git_revision, working_tree
from faces.cli import InputError, OutFileOrDevice, run
from faces.files import as_json, begins_with, check_output, write_through
from faces.params import Params, load_params

SPLITS = PurePosixPath("metrics/splits")
JSON_BEGINS, MARKDOWN_BEGINS = '{\n  "base": ', "### Metrics against `"
VERDICTS = {"same": "same", "improved": "improved", "noise": "within noise", "regression": "**regression**"}


@dataclass
class Comparison:
    """What the gate found: a row for each metric of each run on both sides, and what else is to be said."""

    rows: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # any of them fails


def compare(base: Revision, now: Revision, params: Params, settings: Settings) -> Comparison:
    """Compare two revisions; `RevisionError` if they cannot be."""
    before, after = base.runs(), now.runs()
    if not before:
        raise RevisionError(f"{base.name} has no {RUNS}/*.json nor {ACTIVE}")
    found = Comparison()
    found.problems += _missing(base, now, params)
    measured = [
        changes.spreads(revision.document(SEEDS), f"{SEEDS} in {revision.name}")
        for revision in (base, now)
        if SEEDS in revision.files
    ]
    machines: dict[str, str] = {}
    for path in sorted(name for name in now.files if name.endswith(".json")):
        run = PurePosixPath(path).stem
        try:
            document = now.document(path)
            if after.get(run) != path:
                continue
            result = _result(now, run, path, document)
            if run not in before:
                accuracy = result.metrics["accuracy"]
                found.notes.append(f"added: {run}, accuracy {accuracy['value']:.4f} (n = {accuracy['n']})")
                continue
            earlier, expected = _base(base, run, path, document)
            if expected.predictions is not None and result.predictions is None:
                raise InputError(f"the predictions of {run} are missing in {now.name}")
            noise = changes.between_runs(measured, params.runs[run].recipe if run in params.runs else None)
            found.rows += changes.compare(expected, result, noise, settings.permutations)
            machines[run] = changes.machines_differ(earlier, document)
        except RevisionError:
            raise
        except InputError as error:
            found.problems.append(str(error))
    found.rows = changes.corrected(found.rows)
    found.notes += [f"removed: {run}" for run in before if run not in after]
    found.notes += _hardware(base.name, machines)
    return found


def _missing(base: Revision, now: Revision, params: Params) -> Iterator[str]:
    """Yield a line for each JSON file that is gone though params.yaml still asks for it."""
    for path in (name for name in base.files if name.endswith(".json") and name not in now.files):
        file = PurePosixPath(path)
        named = {RUNS: list(params.runs), SPLITS: list(params.splits)}.get(file.parent, [file.stem])
        if file.stem in named:
            yield f"{path} is missing in {now.name}"


def _result(revision: Revision, run: str, path: str, document: Any) -> Result:
    return changes.result(run, document, revision.predictions(run), f"{path} in {revision.name}")


def _base(base: Revision, run: str, path: str, after: Any) -> tuple[Any, Result]:
    """Return a run's metrics in the base, as a document and as a result; both must be of the same source of images."""
    try:
        before = base.document(path)
        result = _result(base, run, path, before)
    except InputError as error:
        raise RevisionError(str(error)) from None
    sources = [document.get("source") for document in (before, after)]
    if sources[0] != sources[1]:
        raise RevisionError(f"{path}: its images were {sources[0]!r} in {base.name} and are {sources[1]!r} now")
    return before, result


def _hardware(base: str, machines: dict[str, str]) -> Iterator[str]:
    for words in dict.fromkeys(filter(None, machines.values())):
        runs = [run for run, found in machines.items() if found == words]
        yield f"made on other hardware than in {base}: {', '.join(runs)} ({words})"


def verdict(row: Change, alpha: float) -> str:
    """Return a key of VERDICTS."""
    if row.p is None:
        return "same"
    if row.p >= alpha:
        return "noise"
    return "improved" if row.change > 0 else "regression"


def markdown(base: str, found: Comparison, alpha: float) -> str:
    """Return the comparison as a comment for a pull request."""
    worse = sum(verdict(row, alpha) == "regression" for row in found.rows)
    good = "nothing is worse" if found.rows else "nothing was compared"
    head = f"{worse} regression(s), {len(found.problems)} problem(s)" if worse or found.problems else good
    lines = [f"{MARKDOWN_BEGINS}{base}`: {head}", ""]
    remarks = found.problems + found.notes
    lines += [f"- {remark}" for remark in remarks] + [""] * bool(remarks)
    lines += ["| run | metric | n | base | now | change | test images | p | |"]
    lines += ["|---|---|---:|---:|---:|---:|---|---:|---|"]
    for row in found.rows:
        p, images = "" if row.p is None else f"{row.p:.3g}", "the same" if row.paired else "others"
        lines.append(
            f"| {row.run} | {row.metric} | {row.n} | {row.base:.4f} | {row.now:.4f} | {row.now - row.base:+.4f} "
            f"| {images} | {p} | {VERDICTS[verdict(row, alpha)]} |"
        )
    lines += ["", f"p: could chance explain the change? Holm-corrected; below {alpha:g} it does not.", ""]
    return "\n".join(lines)


def main(
    base: Annotated[str, typer.Argument(help="a Git revision, or the name of a DVC experiment")],
    json_file: Annotated[OutFileOrDevice | None, typer.Option("--json", help="also write it as JSON")] = None,
    markdown_file: Annotated[OutFileOrDevice | None, typer.Option("--markdown", help="also write the table")] = None,
) -> None:
    """Compare the working tree's metrics with those of BASE: is anything worse, beyond chance?

    Example: python -m ci.gate main --markdown .gate/gate.md
    """
    for file, start in ((json_file, JSON_BEGINS), (markdown_file, MARKDOWN_BEGINS)):
        if file is not None:
            check_output(file, begins_with(start.encode()))
    found = Comparison()
    rows: list[dict[str, Any]] = []
    try:
        params, settings = load_params(), changes.load_settings()
        alpha = settings.alpha
        found = compare(git_revision(base), working_tree(Path.cwd()), params, settings)
        rows = [{**asdict(row), "verdict": verdict(row, alpha)} for row in found.rows]
        status = int(bool(found.problems) or any(row["verdict"] == "regression" for row in rows))
        text = markdown(base, found, alpha)
    except InputError as error:
        status, found.problems = 2, [str(error)]
        text = f"{MARKDOWN_BEGINS}{base}`: cannot be compared\n\n- {error}\n"
    print(text)
    if json_file is not None:
        content = {"base": base, "status": status, "problems": found.problems, "notes": found.notes, "rows": rows}
        write_through(json_file, as_json(content))
    if markdown_file is not None:
        write_through(markdown_file, text.encode())
    sys.exit(status)


if __name__ == "__main__":
    run(main)
