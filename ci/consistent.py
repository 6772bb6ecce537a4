"""Are the results in the working tree consistent with the committed ones? The last line of `make repro`.

    python -m ci.consistent [REVISION]

On the same machine, with the same threads and versions, they must have the same bytes. On another one the split must
be the same, the features must agree to the digits that are written, and the runs may differ as much as runs do
(docs/statistics.md). Runs of other inputs are named, not judged. Exit status: 0 consistent, 1 not, 2 the two cannot be
compared.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ci import changes
from ci.changes import Change, Result
from ci.revision import SEEDS, Revision, git_revision, working_tree
from faces import cli
from faces.cli import InputError
from faces.images.duplicates import ROUNDING
from faces.params import Params, load_params

SHEET = "metrics/data.json"
LAST_DIGIT = 1e-4  # of the distances in it


@dataclass
class Findings:
    """What agrees and what does not, in words; what was made from other inputs; how the machines differ."""

    agrees: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)

    def verdict(self) -> str:
        """Return all of it in one line."""
        if self.differs:
            return f"not consistent with the committed results: {'; '.join(self.differs)}"
        if not self.agrees:
            return f"not compared with the committed results: {'; '.join(self.others) or 'there are none'}"
        return f"consistent with the committed results: {'; '.join(self.agrees + self.others)}"


@dataclass(frozen=True)
class Rerun:
    """A run of the same inputs on both sides: metrics documents and results."""

    before: Any
    after: Any
    expected: Result
    found: Result

    @property
    def machine(self) -> str:
        """How the machines differ, in words; empty if both are the same, or not recorded."""
        return changes.machines_differ(self.before, self.after)

    @property
    def same_split(self) -> bool:
        """Do validation and test hold the same images? (Training then holds the others, of the same images.)"""
        one, other = self.expected.predictions, self.found.predictions
        columns = ["path", "subset", "y_true"]
        return one is not None and other is not None and one[columns].equals(other[columns])

    @property
    def same_bytes(self) -> bool:
        """Are model and predictions the same to the byte?"""
        one, other = self.expected.predictions, self.found.predictions
        same = one is not None and other is not None and one.equals(other)
        return same and self.before.get("model_sha256") == self.after.get("model_sha256")


def consistent(committed: Revision, here: Revision, params: Params) -> Findings:
    """Compare split, features and runs; `InputError` names a file that is missing or broken."""
    findings = Findings()
    reruns: dict[str, Rerun] = {}
    there, paths = committed.runs(), here.runs()
    findings.differs += [f"{run} is missing" for run in there if run not in paths and run in params.runs]
    others: dict[str, list[str]] = {}
    for run in sorted(there.keys() & paths.keys()):
        before, after = committed.document(there[run]), here.document(paths[run])
        expected = changes.result(run, before, committed.predictions(run), f"{there[run]} in {committed.name}")
        found = changes.result(run, after, here.predictions(run), f"{paths[run]} in {here.name}")
        if expected.predictions is None or found.predictions is None:
            raise InputError(f"the predictions of {run} are missing; run `dvc repro`")
        other = _other_input(before, after)
        if other:
            others.setdefault(other, []).append(run)
        else:
            reruns[run] = Rerun(before, after, expected, found)
    findings.others += [f"{other}: {', '.join(runs)}" for other, runs in others.items()]
    if reruns:
        _judge_split(reruns, findings)
        _judge_features(committed, here, findings)
        measured = [changes.spreads(committed.document(SEEDS), SEEDS)] if SEEDS in committed.files else []
        _judge_runs(reruns, measured, params, findings)
        findings.machines = list(dict.fromkeys(filter(None, (rerun.machine for rerun in reruns.values()))))
    return findings


def _other_input(before: Any, after: Any) -> str:
    """Return in words which input of a run is another one than in the committed result; empty if none is."""
    if before.get("source") != after.get("source"):
        return f"other images ({after.get('source')} instead of {before.get('source')})"
    hashes = [document.get("weights", {}).get("sha256", "none")[:8] for document in (before, after)]
    if hashes[0] != hashes[1]:
        return f"other pretrained weights ({hashes[1]} instead of {hashes[0]})"
    one, other = (document.get("training", {}) for document in (before, after))
    for key in ("split", "seed"):
        if one.get(key) != other.get(key):
            return f"another {key}"
    recipes = [
        {**training.get("recipe", {}), "precision": None} for training in (one, other)
    ]  # precision: the machine's
    return "another recipe" if recipes[0] != recipes[1] else ""


def _judge_split(reruns: dict[str, Rerun], findings: Findings) -> None:
    moved = [run for run, rerun in reruns.items() if not rerun.same_split]
    if moved:
        findings.differs.append(f"the subsets hold other images in {', '.join(moved)}")
    else:
        findings.agrees.append("the same split")


def _judge_features(committed: Revision, here: Revision, findings: Findings) -> None:
    if SHEET not in committed.files:
        return
    (one, pairs), (other, found) = (_near_duplicates(revision) for revision in (committed, here))
    if one != other:
        findings.others.append("other thresholds of near duplicates")
    elif pairs.keys() != found.keys():
        count = len(pairs.keys() ^ found.keys())
        findings.differs.append(f"{count} pairs are near duplicates in one of the two only")
    else:
        apart = max((abs(pairs[pair] - found[pair]) for pair in pairs), default=0.0)
        if apart > LAST_DIGIT + ROUNDING:
            findings.differs.append(f"feature distances of near duplicates differ by up to {apart:.4f}")
        else:
            findings.agrees.append(f"the same duplicates (pairs: {len(pairs)}), their distances within {LAST_DIGIT:g}")


def _near_duplicates(revision: Revision) -> tuple[Any, dict[tuple[str, str], float]]:
    """Return the thresholds, and each pair of duplicates with its feature distance (0 where none was computed)."""
    try:
        found = revision.document(SHEET)["duplicates"]
        pairs = [pair for group in found["by_group"].values() for pair in group["pairs"]]
        return found["thresholds"], {(pair["a"], pair["b"]): pair["feature_distance"] or 0.0 for pair in pairs}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{SHEET} in {revision.name} is not the audit's: {error!r}; run `dvc repro`") from None


def _judge_runs(reruns: dict[str, Rerun], measured: list[changes.Spreads], params: Params, findings: Findings) -> None:
    settings = changes.load_settings()
    rows: list[Change] = []
    for run, rerun in reruns.items():
        noise = changes.between_runs(measured, params.runs[run].recipe if run in params.runs else None)
        rows += changes.compare(rerun.expected, rerun.found, noise, settings.permutations)
        if not rerun.same_bytes and not rerun.machine and rerun.after.get("training", {}).get("machine"):
            findings.differs.append(f"{run} has other bytes, though machine, threads and versions are the same")
    rows = changes.corrected(rows)
    for row in rows:
        if row.p is not None and row.p < settings.alpha:
            findings.differs.append(
                f"{row.run}: {row.metric} {row.now:.4f} instead of {row.base:.4f} (n = {row.n}, p = {row.p:.2g})"
            )
    same = [run for run, rerun in reruns.items() if rerun.same_bytes]
    if same:
        findings.agrees.append(f"the same bytes: {', '.join(same)}")
    noisy = [run for run in reruns if run not in same]
    if noisy:
        least = min((row.p for row in rows if row.p is not None), default=1.0)
        like = "differ as runs do" if measured else "differ as chance over the test images explains"
        findings.agrees.append(f"{like}: {', '.join(noisy)} (smallest p = {least:.2g}, Holm-corrected)")


def main(revision: Annotated[str, typer.Argument(help="the committed results")] = "HEAD") -> None:
    """Print in which way the machine differs, and in the last line whether the results are consistent.

    Example: python -m ci.consistent HEAD~1
    """
    try:
        findings = consistent(git_revision(revision), working_tree(Path.cwd()), load_params())
    except InputError as error:
        print(f"not compared with the committed results: {error}")
        sys.exit(2)
    for words in findings.machines:
        print(f"made on another machine: {words}")
    print(findings.verdict())
    sys.exit(1 if findings.differs else 0 if findings.agrees else 2)


if __name__ == "__main__":
    cli.run(main)
