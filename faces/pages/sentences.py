"""Numbers in sentences: which of two runs is better, what became of a claim, what a row of the paper can come from."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from faces.evidence.claims import Finding
from faces.evidence.comparison import Comparison
from faces.evidence.consistency import AVERAGED, LISTED, READINGS, Consistency, OneMatrix, Reading, RowFindings
from faces.evidence.documents import Probes
from faces.evidence.pairs import Pair, PaperPair

Names = Mapping[str, str]


def points(fraction: float) -> str:
    """Print a difference of fractions in percentage points, without a minus before zero."""
    return f"{100 * fraction:.1f}".replace("-0.0", "0.0")


def duration(seconds: float) -> str:
    """Return "42 s", "3 min" or "1 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *others, final = [*words] or [""]
    return f"{', '.join(others)} {last} {final}" if others else final


def capital(text: str) -> str:
    """Return a text that begins a sentence."""
    return text[:1].upper() + text[1:]


def pair(pair: Pair, names: Names) -> str:
    """Say which of two runs is better on the test images, by how much, and how sure that is."""
    difference, better, worse = pair.difference, names[pair.first], names[pair.second]
    value, low, high = difference.value, difference.low, difference.high
    if value < 0:
        better, worse, value, low, high = worse, better, -value, -high, -low
    what = f"{better} beats {worse} by {points(value)} points" if value else f"{better} and {worse} tie"
    found = "distinguishable" if pair.distinguishable else "not distinguishable"
    p = f"p = {pair.p_holm:.3f}" if pair.p_holm >= 0.001 else "p < 0.001"
    means = f"means of {pair.seeds} seeds; " if pair.seeds > 1 else ""
    return f"{what} ({means}{points(low)} to {points(high)}; {p}): {found} at n={difference.n}"


def paper_pair(pair: PaperPair, names: Names) -> str:
    """Say by how much one row of the paper leads another."""
    difference = pair.difference
    return (
        f"{names[pair.first]} beats {names[pair.second]} by {points(difference.value)} points "
        f"({points(difference.low)} to {points(difference.high)}), McNemar p from {pair.p_min:.2g} to {pair.p_max:.2g}"
    )


def claim(finding: Finding, comparison: Comparison) -> str:
    """Say what became of one of the paper's claims, why, and by which criterion."""
    verdict = finding.verdict or f"{comparison.source}: no verdict"
    at_n = " at this n" if verdict == "undecidable" else ""
    return (
        f"{finding.claim}: **{verdict}{at_n}**. {_found(finding, comparison)}. "
        f"Criterion: {_criterion(finding, comparison.names)}."
    )


def _criterion(finding: Finding, names: Names) -> str:
    run, other = names.get(finding.trial, finding.trial), names.get(finding.against or "", "")
    if finding.missing:
        return "needs these runs"
    if finding.kind == "reaches":
        return f"the interval of {run}'s test accuracy lies above {finding.accuracy or 0:.0%}"
    if finding.kind == "best":
        return f"{run} beats each other trial of the paper on the same test images (Holm-corrected)"
    if finding.kind == "underfits":
        return (
            f"{run}'s train accuracy at its last epoch lies more than {points(finding.margin or 0)} points below "
            f"{other}'s (interval of the difference)"
        )
    return (
        f"train minus validation accuracy at the last epoch is larger for {run} than for {other} "
        "(interval of the difference from the four accuracies)"
    )


def _found(finding: Finding, comparison: Comparison) -> str:
    if finding.missing:
        return f"not run: {', '.join(finding.missing)}"
    estimate = finding.estimate
    if estimate is None:  # decided by the pairs with the paper's other runs
        pairs = [(p, {p.first, p.second}) for p in comparison.pairs]
        own = [p for p, runs in pairs if finding.trial in runs and runs <= comparison.trials]
        return "; ".join(pair(p, comparison.names) for p in own) or "there is no other trial"
    if finding.kind == "reaches":
        return f"{estimate.percent} at n={estimate.n}"
    interval = f"({points(estimate.low)} to {points(estimate.high)})"
    if finding.kind == "underfits":
        return f"{points(estimate.value)} points below {interval} at n={estimate.n} each"
    gaps = []
    for run in (finding.trial, finding.against or ""):
        figures = comparison.of(run)
        gaps.append(figures["train_accuracy"].ours.value - figures["validation_accuracy"].ours.value)
    n_validation = comparison.of(finding.trial)["validation_accuracy"].ours.n
    return (
        f"gaps of {points(gaps[0])} and {points(gaps[1])} points, {points(estimate.value)} more {interval} "
        f"at n={estimate.n} and {n_validation}"
    )


def row(row: RowFindings, found: Consistency) -> list[str]:
    """Say what one row of the paper's table can and cannot come from."""
    reported, n = row.reported, found.test.n
    names = listed(word(key) for key in AVERAGED if key in reported)
    sentences = []
    if row.accuracy_alone:
        sentences.append(f"Accuracy {reported['accuracy']} alone: {counts(row.accuracy_alone)} of {n} images right.")
    if names and not row.explained_by:
        sentences.append(f"No averaging, rounded or truncated, gives {names} from one matrix.")
    elif names:
        sentences.append(f"{capital(names)} can come from one matrix as {ways(row.explained_by)}.")
        rows_explained = Counter(label for other in found.rows for label in other.explained_by)
        best = max((search for search in row.searches if search.averages), key=lambda s: rows_explained[s.label])
        more = " and others" if best.averages > LISTED else ""
        sentences.append(f"As {best.label}: {' or '.join(map(cells, best.matrices))}{more}.")
    if names and "accuracy" in reported:
        if row.consistent:
            sentences.append("All its figures can come from one matrix: consistent.")
        elif row.explained_by:
            sentences.append(
                f"Then the accuracy would have been {listed(row.implied_accuracy, 'or')}, "
                f"not {reported['accuracy']}: the row cannot come from one matrix."
            )
    return sentences + _figure(row, names, {other.row: other.name for other in found.rows})


def _figure(row: RowFindings, averages: str, names: Names) -> list[str]:
    figure = row.figure
    if figure is None:
        return []
    sentence = f"The printed matrix ({cells(figure)}) has accuracy {figure.accuracy}"
    if "accuracy" in row.reported:
        sentence += ", as reported" if figure.gives_accuracy else f", not {row.reported['accuracy']}"
    sentences = [sentence + "."]
    if figure.gives:
        sentences.append(f"It gives this row's {averages}: {ways(figure.gives)}.")
    elif averages:
        others = [names[other] for other in figure.explains]
        instead = f"; it gives those of {listed(others)}" if others else ""
        sentences.append(f"It does not give this row's {averages}{instead}.")
    if figure.same_as:
        sentences.append(f"The same matrix is printed for {listed(names[other] for other in figure.same_as)}.")
    return sentences


def consistency(found: Consistency) -> str:
    """Say in a few sentences what the rows of the paper's table can come from."""
    test, rows = found.test, found.rows
    bad = [row for row in rows if not row.consistent]
    matrices = (
        f"{found.matrices:,} confusion matrices that {test.positive.n} {test.positive.name} and {test.negative.n} "
        f"{test.negative.name} test images allow"
    )
    if not bad:
        sentences = [f"Each row of {found.table} can come from one of the {matrices}."]
    elif len(bad) == len(rows):
        sentences = [f"None of the {matrices} gives all figures of any row of {found.table}."]
    else:
        sentences = [
            f"None of the {matrices} gives all figures of {listed(row.name for row in bad)} in {found.table}.",
            "The other rows can each come from one.",
        ]
    implied = [row for row in bad if row.implied_right and "accuracy" in row.reported]
    for row in implied:
        sentences.append(
            f"Precision, recall and F1 of {row.name} belong to an accuracy of {listed(row.implied_accuracy, 'or')}; "
            f"{row.reported['accuracy']} is reported."
        )
    shared = set.intersection(*(set(row.explained_by) for row in implied)) if implied else set()
    if len(shared) == 1:
        averaging, _, reading = shared.pop().rpartition(", ")
        sentences.append(f"Only {reading} {averaging} averages fit {'all of them' if len(implied) > 1 else 'it'}.")
    return " ".join(sentences + _figures(found))


def _figures(found: Consistency) -> list[str]:
    rows = [(row, row.figure) for row in found.rows if row.figure]
    if not rows:
        return []
    names = {row.row: row.name for row in found.rows}
    same = sorted({tuple(sorted([row.row, *figure.same_as])) for row, figure in rows if figure.same_as})
    return [
        _printed([row.name for row, figure in rows if figure.gives_accuracy], "accuracy"),
        _printed([row.name for row, figure in rows if figure.gives], "precision, recall and F1"),
        *(f"The printed matrices of {listed(names[name] for name in group)} are the same." for group in same),
    ]


def _printed(names: list[str], what: str) -> str:
    if not names:
        return f"No printed matrix gives its row's {what}."
    if len(names) == 1:
        return f"The printed matrix of {names[0]} gives its row's {what}."
    return f"The printed matrices of {listed(names)} give their rows' {what}."


def word(quantity: str) -> str:
    """Return a quantity's name in a sentence."""
    return {"f1": "F1"}.get(quantity, quantity.replace("_", " "))


def ways(labels: Sequence[str]) -> str:
    """Shorten "macro, rounded" and "macro, truncated" to "macro, rounded or truncated", and so on."""
    readings: dict[str, list[str]] = {}
    for label in labels:
        averaging, reading = label.rsplit(", ", 1)
        readings.setdefault(averaging, []).append(reading)
    by_reading: dict[str, list[str]] = {}
    for averaging, found in readings.items():
        by_reading.setdefault(" or ".join(found), []).append(averaging)
    return "; ".join(f"{listed(found, 'or')}, {reading}" for reading, found in by_reading.items())


def counts(by_reading: Mapping[Reading, Sequence[int]]) -> str:
    """Say which counts give a proportion: "246 (rounded)", "1864 (either way)", "no number"."""
    readings: dict[str, list[str]] = {}
    for reading in READINGS:
        if values := by_reading[reading]:
            text = f"{values[0]} to {values[-1]}" if len(values) > 2 else " or ".join(map(str, values))
            readings.setdefault(text, []).append(reading)
    found = (f"{text} ({names[0] if len(names) == 1 else 'either way'})" for text, names in readings.items())
    return " or ".join(found) or "no number"


def cells(matrix: OneMatrix) -> str:
    """Write a confusion matrix in a line."""
    return f"TN {matrix.tn}, FP {matrix.fp}, FN {matrix.fn}, TP {matrix.tp}: {matrix.right} right"


def shortcuts(probes: Probes, names: Names) -> str:
    """Say how far the strongest probe gets, beside the best run, and what that bounds."""
    probe = max(probes.probes, key=lambda probe: probe.accuracy.value)
    name, run = max(probes.runs.items(), key=lambda item: item[1].accuracy.value)
    seen, best = probe.accuracy, run.accuracy
    sentences = [
        f"Without seeing a face, the strongest probe ({probe.sees}, {probe.model}) is right on {seen.percent} of "
        f"{seen.n} images.",
        f"{capital(names[name])} is right on {best.percent} of {best.n} test images.",
    ]
    by_probe, by_run = (100 * (estimate.value - 0.5) for estimate in (seen, best))
    if min(by_probe, by_run) > 0:
        sentences += [
            f"Of the {by_run:.1f} points by which that beats a coin, shortcuts alone could explain up to "
            f"{min(by_probe, by_run):.1f} ({min(by_probe / by_run, 1):.0%}).",
            "This does not show whether the network uses them.",
        ]
    return " ".join(sentences)


def headline(comparison: Comparison) -> str:
    """Return the finding: the run with the highest accuracy beside the paper's figure, and what can be told apart."""
    accuracies = {run: comparison.of(run)["accuracy"] for run in comparison.runs}
    best = max(accuracies.values(), key=lambda item: item.ours.value)
    reported = max(accuracies.values(), key=lambda item: item.paper or 0)
    verdict = f" ({best.verdict})" if best.verdict else ""
    apart = sum(pair.distinguishable for pair in comparison.pairs)
    name, n = comparison.names[best.run], best.ours.n
    sentences = [f"{capital(name)} classifies {best.ours.percent} of {n} test images rightly"]
    if best.printed is not None:
        sentences[0] += f"; the paper reports {best.printed} for it{verdict}."
    elif reported.printed is not None:
        sentences[0] += f"; the best of the paper's trials is reported with {reported.printed}."
    else:
        sentences[0] += "."
    if comparison.pairs:
        sentences.append(f"Of {len(comparison.pairs)} pairs of runs, {apart or 'none'} can be told apart at n = {n}.")
    return " ".join(sentences)


def images(paths: Sequence[str]) -> str:
    """Return file names in a row, or "none"."""
    return ", ".join(f"`{path}`" for path in paths) or "none"
