"""Compare the metrics of the working tree with those of a Git revision.

    python -m ci.gate BASE [--json FILE] [--markdown FILE]

A run's metric may be worse by its tolerance (params.yaml, `gate`). Where both revisions hold predictions for the
same test images, a paired test decides instead: a drop is a regression if chance alone would make one as large
with probability below `gate.alpha` (Holm-corrected over all drops), however small; otherwise it is noise,
however large. Every JSON file below metrics/ must still be there, and hold finite numbers; a run's metrics must
follow from its predictions. Exit status: 0 nothing is worse, 1 something is, 2 the two cannot be compared.
"""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from faces.cli import InputError
from faces.evidence import metrics, statistics
from faces.files import write_atomically, write_json
from faces.params import Gate, load_params

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Pair = tuple[Labels, Scores, Scores]  # y_true, y_score before, y_score now; each [N], the same images

LOWER_IS_BETTER = ("brier", "ece")
SHARES = {"accuracy": (0, 1), "recall": (1,), "specificity": (0,)}  # of right answers among these classes
VERDICTS = {
    "same": "same",
    "improved": "improved",
    "within": "within tolerance",
    "noise": "within noise",
    "regression": "**regression**",
    "new": "new",
}


class IncomparableError(InputError):
    """The two revisions cannot be compared; the message says why and what to do."""


@dataclass
class Row:
    """One metric of one run in both revisions; `change` is positive where it got better."""

    run: str
    metric: str
    base: float | None
    now: float
    change: float | None = None
    p: float | None = None  # of the paired test, Holm-corrected; None where there was none
    verdict: str = "new"


@dataclass
class Revision:
    """What one revision says: its documents below metrics/ and its predictions, by path; unreadable ones as text."""

    name: str
    read: Callable[[str], bytes | None]
    files: list[str]

    def document(self, path: str) -> Any:
        """Return a JSON file's content; `InputError` if it is absent, corrupt or holds what is not finite."""
        content = self.read(path)
        if content is None:
            raise InputError(f"{path} is missing in {self.name}")
        try:
            return json.loads(content, parse_float=_finite, parse_constant=_finite)
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError too
            raise InputError(f"{path} in {self.name}: {error}") from None

    def predictions(self, path: str) -> pd.DataFrame | None:
        """Return a run's test predictions sorted by path, or None if the revision has none."""
        content = self.read(path)
        if content is None:
            return None
        where = f"{path} in {self.name}"
        try:
            table = pd.read_csv(io.BytesIO(content))
        except ValueError as error:  # ParserError, EmptyDataError, UnicodeDecodeError too
            raise InputError(f"{where} is not a CSV file: {' '.join(str(error).split())}") from None
        metrics.check_predictions(table, where)
        return table[table["subset"] == "test"].sort_values("path", ignore_index=True)


def _finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def git_revision(base: str) -> Revision:
    """Return a Git revision's metrics; `IncomparableError` if this clone cannot see it."""
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}")
    shallow = _git("rev-parse", "--is-shallow-repository")
    if shallow is None:
        raise IncomparableError("not a Git repository; run the gate inside a clone")
    if commit is None:
        full = "this clone is shallow; run `git fetch --unshallow`" if shallow.strip() == b"true" else "run `git fetch`"
        raise IncomparableError(f"cannot see the revision {base!r}: {full}, or name another")
    if shallow.strip() == b"true" and commit == _git("rev-parse", "HEAD"):
        raise IncomparableError(f"this clone is shallow and {base!r} is its only commit; run `git fetch --unshallow`")
    name = commit.decode().strip()
    listed = _git("ls-tree", "-r", "-z", "--name-only", "--full-tree", name, "metrics/") or b""
    return Revision(base, lambda path: _git("show", f"{name}:{path}"), listed.decode().split("\0")[:-1])


def working_tree(root: Path) -> Revision:
    """Return the working tree's metrics."""
    files = [path.relative_to(root).as_posix() for path in sorted((root / "metrics").rglob("*")) if path.is_file()]
    return Revision("the working tree", lambda p: (root / p).read_bytes() if (root / p).is_file() else None, files)


def _git(*arguments: str) -> bytes | None:
    result = subprocess.run(["git", *arguments], capture_output=True, check=False)
    return result.stdout if result.returncode == 0 else None


def compare(base: Revision, now: Revision, params: Gate) -> tuple[list[Row], list[str]]:
    """Return a row for each gated metric of each run, and what is wrong with the working tree's files."""
    if not any(_is_run(path) for path in base.files):
        raise IncomparableError(f"{base.name} has no metrics/trials/*.json nor metrics/active.json")
    problems: list[str] = []
    rows: list[Row] = []
    dropped: list[tuple[Row, Pair]] = []
    for path in sorted(name for name in {*base.files, *now.files} if name.endswith(".json")):
        try:
            after = now.document(path)
            if _is_run(path):
                before = _base_document(base, path, after)
                found = [_row(path, name, before, after) for name in params.tolerances]
                pair = _paired(path, base, now, after, params)
                rows += found
                dropped += [(row, pair) for row in found if pair and (row.change or 0) < 0 and _testable(row.metric)]
        except IncomparableError:
            raise
        except InputError as error:
            problems.append(str(error))
    p_values = [p_value(row.metric, pair, params.permutations) for row, pair in dropped]
    for (row, _), p in zip(dropped, statistics.holm(p_values), strict=True):
        row.p = p
    for row in rows:
        row.verdict = verdict(row, params)
    return rows, problems


def _testable(metric: str) -> bool:
    return metric in SHARES or metric in SCORERS


def _is_run(path: str) -> bool:
    return path == "metrics/active.json" or (path.startswith("metrics/trials/") and path.endswith(".json"))


def _base_document(base: Revision, path: str, after: Any) -> Any:
    """Return a run's metrics in the base, None if it had no such run; both must be of the same images' source."""
    if path not in base.files:
        return None
    try:
        before = base.document(path)
    except InputError as error:
        raise IncomparableError(str(error)) from None
    sources = [document.get("source") if isinstance(document, dict) else None for document in (before, after)]
    if sources[0] != sources[1] and sources[1] is not None:
        raise IncomparableError(f"{path}: its images were {sources[0]!r} in {base.name} and are {sources[1]!r} now")
    return before


def _row(path: str, name: str, before: Any, after: Any) -> Row:
    now, old = _value(after, name), _value(before, name)
    if now is None:
        raise InputError(f"{path} in the working tree has no metric {name!r}")
    row = Row(Path(path).stem, name, old, now)
    if old is not None:
        row.change = round((old - now) if name in LOWER_IS_BETTER else (now - old), 9) + 0.0
    return row


def _value(document: Any, name: str) -> float | None:
    try:
        value = document["metrics"][name]["value"]
    except (KeyError, TypeError):
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _paired(path: str, base: Revision, now: Revision, after: Any, params: Gate) -> Pair | None:
    """Return both revisions' scores of a run's test images, or None where they are not the same images.

    `InputError` if the working tree's metrics do not follow from its predictions.
    """
    csv = f"predictions/{Path(path).stem}.csv"
    here = now.predictions(csv)
    if here is None:
        if base.read(csv) is not None:
            raise InputError(f"{csv} is missing in {now.name}")
        return None
    found = metrics.point_values(here["y_true"].to_numpy(), here["y_score"].to_numpy())
    for name in params.tolerances:
        if name in found and abs(found[name] - (_value(after, name) or 0.0)) > 2e-6:
            raise InputError(f"{path}: {name} does not follow from {csv}, which gives {found[name]:.6f}; run dvc repro")
    try:
        there = base.predictions(csv)
    except InputError as error:
        raise IncomparableError(str(error)) from None
    if there is None or not here[["path", "y_true"]].equals(there[["path", "y_true"]]):
        return None
    return here["y_true"].to_numpy(), there["y_score"].to_numpy(float), here["y_score"].to_numpy(float)


def p_value(name: str, pair: Pair, permutations: int) -> float:
    """Return the two-sided p-value that a metric changed, from both revisions' scores of the same images.

    Shares of right answers: exact McNemar. Others: the permutation test in which the two scores of each image
    change places at random (Good, P. (2005). Permutation, Parametric and Bootstrap Tests of Hypotheses).
    """
    from scipy.stats import permutation_test

    y_true, before, now = pair
    if name in SHARES:
        rows = np.isin(y_true, SHARES[name])
        was_right, is_right = (((score >= metrics.THRESHOLD) == y_true)[rows] for score in (before, now))
        return statistics.mcnemar(int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum()))

    def change(first: Scores, second: Scores, axis: int) -> Scores:
        old, new = (SCORERS[name](y_true, np.moveaxis(scores, axis, -1)) for scores in (first, second))
        return np.asarray(np.round(new - old, 12), dtype=np.float64)  # rounded: equal changes compare as equal

    result = permutation_test((before, now), change, permutation_type="samples", n_resamples=permutations, rng=0)
    return float(result.pvalue)


def auroc(y_true: Labels, y_score: Scores) -> Scores:
    """Return the area under the ROC curve [...] of scores [..., N], from the ranks (Mann-Whitney)."""
    from scipy.stats import rankdata

    positives, negatives = int((y_true == 1).sum()), int((y_true == 0).sum())
    ranks = rankdata(y_score, axis=-1)[..., y_true == 1].sum(axis=-1)
    return np.asarray((ranks - positives * (positives + 1) / 2) / (positives * negatives), dtype=np.float64)


def brier(y_true: Labels, y_score: Scores) -> Scores:
    """Return the mean squared error [...] of scores [..., N]."""
    return np.asarray(((y_score - y_true) ** 2).mean(axis=-1), dtype=np.float64)


def f1(y_true: Labels, y_score: Scores) -> Scores:
    """Return the Down syndrome class's F1 [...] of scores [..., N]."""
    y_pred = y_score >= metrics.THRESHOLD
    right, called = (y_pred & (y_true == 1)).sum(axis=-1), y_pred.sum(axis=-1)
    return np.asarray(2 * right / (called + y_true.sum()), dtype=np.float64)


SCORERS = {"auroc": auroc, "brier": brier, "f1": f1}


def verdict(row: Row, params: Gate) -> str:
    """Return a key of VERDICTS: the paired test's word where there was one, the tolerance's elsewhere."""
    if row.change is None:
        return "new"
    if row.change >= 0:
        return "improved" if row.change > 0 else "same"
    if row.p is not None:
        return "regression" if row.p < params.alpha else "noise"
    return "regression" if -row.change > params.tolerances[row.metric] + 1e-9 else "within"


def markdown(base: str, rows: list[Row], problems: list[str]) -> str:
    """Return the comparison as a comment for a pull request."""
    worse = [row for row in rows if row.verdict == "regression"]
    good = "nothing is worse" if rows else "nothing was compared"
    head = f"{len(worse)} regression(s), {len(problems)} problem(s)" if worse or problems else good
    lines = [f"### Metrics against `{base}`: {head}", ""]
    lines += [f"- {problem}" for problem in problems] + [""] * bool(problems)
    lines += ["| run | metric | base | now | change | p | |", "|---|---|---:|---:|---:|---:|---|"]
    for row in rows:
        old, change = (f"{row.base:.4f}", f"{row.now - row.base:+.4f}") if row.base is not None else ("", "")
        p = "" if row.p is None else f"{row.p:.3g}"
        lines.append(f"| {row.run} | {row.metric} | {old} | {row.now:.4f} | {change} | {p} | {VERDICTS[row.verdict]} |")
    lines += ["", "p: paired test on the same test images, Holm-corrected; without one, the tolerance decides.", ""]
    return "\n".join(lines)


def main(
    base: str,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the comparison as JSON")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="also write the table there")] = None,
) -> None:
    """Compare the working tree's metrics with those of the revision BASE."""
    rows: list[Row] = []
    try:
        params = load_params().gate
        rows, problems = compare(git_revision(base), working_tree(Path.cwd()), params)
        status = int(bool(problems) or any(row.verdict == "regression" for row in rows))
        text = markdown(base, rows, problems)
    except InputError as error:
        status, problems = 2, [str(error)]
        text = f"### Metrics against `{base}`: cannot be compared\n\n- {error}\n"
    print(text)
    result = {"base": base, "status": status, "problems": problems, "rows": [asdict(row) for row in rows]}
    if json_file is not None:
        write_json(json_file, result)
    if markdown_file is not None:
        write_atomically(markdown_file, text.encode())
    sys.exit(status)


if __name__ == "__main__":
    typer.run(main)
