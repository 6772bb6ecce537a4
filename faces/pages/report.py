"""The evidence in words and tables: written once as Markdown, shown as it is in a pull request, as HTML in the page.

Everything is read from the metrics folder, which is in Git, so that the model card and the README's table can be
rendered again, and checked, in a bare clone.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from faces.cli import InputError
from faces.evidence.comparison import interval_text as percent
from faces.evidence.metrics import TITLES

TEMPLATES = Path(__file__).parent / "templates"
README_MARKS = ("<!-- results -->", "<!-- /results -->")
TEXTS = ("data", "split", "comparison", "consistency", "seeds", "repeats", "probes")  # tables other stages wrote
PREVALENCE = 1 / 700  # of Down syndrome among live births, about: Mai et al., Birth Defects Research, 2019
UNBROKEN = re.compile(r"\(?-?[\d.]+ to -?[\d.]+\)?|\b\d+ (?:min|h|s)\b|\btrial \d")  # kept on one line

NOT_IN_PAPER = "-"

Metric = Mapping[str, Any]  # value, low, high, n, method


@dataclass(frozen=True)
class Evidence:
    """The metrics folder: documents by name, each trial's document, and the other stages' Markdown."""

    trials: dict[str, Any]
    active: dict[str, Any]
    comparison: dict[str, Any]
    consistency: dict[str, Any]
    timing: dict[str, Any]  # of each trial: seconds, epochs, hardware, versions
    explain: dict[str, Any] | None
    repeats: dict[str, Any] | None  # the improved recipe over several splits (faces.evidence.repeats)
    texts: dict[str, str]

    @property
    def source(self) -> str:
        """Where the images came from: kaggle, sample or own."""
        return str(self.active["source"])

    @property
    def names(self) -> dict[str, str]:
        """Each trial's name for people: trial2 is "trial 2"."""
        return {row["trial"]: row["name"] for row in self.comparison["quantities"]}

    @property
    def best(self) -> str:
        """The trial with the highest test accuracy, the first where several have it."""
        return max(self.trials, key=lambda trial: float(self.trials[trial]["metrics"]["accuracy"]["value"]))

    @property
    def best_reported(self) -> dict[str, Any]:
        """The highest test accuracy that the paper reports, beside ours."""
        rows = [row for row in self.comparison["quantities"] if row["quantity"] == "accuracy"]
        return dict(max(rows, key=lambda row: float(row["paper"] or 0)))

    def quantity(self, trial: str, quantity: str) -> dict[str, Any]:
        """Return the paper's figure beside ours."""
        rows = self.comparison["quantities"]
        return next(dict(row) for row in rows if (row["trial"], row["quantity"]) == (trial, quantity))


def read_evidence(metrics: Path) -> Evidence:
    """Read the metrics folder; an `InputError` names the first file that is needed and not there."""
    names = ("active", "comparison", "consistency", "timing")
    documents = {name: read_json(metrics / f"{name}.json") for name in names}
    trials = {trial: read_json(metrics / "trials" / f"{trial}.json") for trial in documents["timing"]}
    explain, repeats = metrics / "explain.json", metrics / "repeats.json"
    texts = {name: metrics / f"{name}.md" for name in TEXTS}
    return Evidence(
        trials=trials,
        explain=read_json(explain) if explain.exists() else None,
        repeats=read_json(repeats) if repeats.exists() else None,
        texts={name: path.read_text(encoding="utf-8") for name, path in texts.items() if path.exists()},
        **documents,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an `InputError` names the file if it is not there or not JSON."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} not found; `dvc repro report` makes it first") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}); `dvc checkout {path}` or `dvc repro` mends it") from None
    return document


def decimal(metric: Metric) -> str:
    """Return "0.973 (0.955 to 0.985)"."""
    return "{value:.3f} ({low:.3f} to {high:.3f})".format(**metric)


def count(metric: Metric) -> str:
    """Return "7 (3 to 14) of 149"."""
    return "{value:.0f} ({low:.0f} to {high:.0f}) of {n}".format(**metric)


def duration(seconds: float) -> str:
    """Return "42 s", "3 min" or "1 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; the first column reads as text, the others are right-aligned."""
    header = list(header)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def results_table(evidence: Evidence) -> str:
    """Return one row per trial, the paper's accuracy beside ours (README, report, pull request)."""
    header = (
        "trial",
        "accuracy, paper",
        "accuracy, ours",
        "recall, Down syndrome",
        "F1, macro",
        "AUROC",
        "stopped at epoch (paper)",
        "n",
        "time",
        "batch size, learning rate",
    )
    rows = []
    for trial, document in evidence.trials.items():
        metrics, recipe = document["metrics"], document["training"]["recipe"]
        epochs = evidence.quantity(trial, "stopped_epoch")
        rows.append(
            (
                evidence.names[trial],
                evidence.quantity(trial, "accuracy")["paper_text"] or NOT_IN_PAPER,
                f"**{percent(metrics['accuracy'])}**",
                percent(metrics["recall"]),
                decimal(metrics["f1_macro"]),
                decimal(metrics["auroc"]),
                f"{document['training']['stopped_epoch']} ({epochs['paper'] or NOT_IN_PAPER})",
                document["n"]["test"],
                duration(evidence.timing[trial]["seconds"]),
                f"{recipe['batch_size']}, {recipe['learning_rate']}",
            )
        )
    return table(header, rows)


def splits_table(evidence: Evidence) -> str:
    """Return the improved recipe over several splits, beside what others report; empty if there are no splits."""
    if evidence.repeats is None:
        return ""
    names = ("accuracy", "accuracy_chosen", "recall", "specificity", "auroc", "recall_at_point", "specificity_at_point")
    splits, over = evidence.repeats["splits"], evidence.repeats["over_splits"]
    sizes = " or ".join(map(str, sorted({split["n"] for split in splits.values()})))
    run = evidence.repeats["run"].removeprefix("trials.")

    def mean(name: str) -> str:
        values = {"value": over[name]["mean"], "low": over[name]["low"], "high": over[name]["high"]}
        if values["low"] is None:
            return _figure(name, values["value"])
        clipped = {key: min(max(value, 0.0), 1.0) for key, value in values.items()}
        return decimal(clipped) if name == "auroc" else percent(clipped)

    def ends(name: str) -> str:
        return f"{_figure(name, over[name]['min'])} to {_figure(name, over[name]['max'])}"

    means = [mean(name) for name in names]
    rows = [
        (f"**{run}, mean of {len(splits)} splits**", f"**{means[0]}**", *means[1:], f"{len(splits)} x {sizes}"),
        (f"{run}, worst and best split", *map(ends, names), sizes),
        *((f"{other['name']} (others)", other["accuracy"], *"------", "?") for other in evidence.comparison["others"]),
    ]
    header = (
        "on this data set",
        "accuracy",
        "accuracy, threshold from validation",
        "recall",
        "specificity",
        "AUROC",
        "recall, operating point",
        "specificity there",
        "n",
    )
    return table(header, rows)


def _figure(name: str, value: float) -> str:
    return f"{value:.3f}" if name == "auroc" else f"{value:.1%}"


def results_caption(evidence: Evidence) -> str:
    """Return what the results table rests on: subset, intervals, seed, weights, hardware."""
    document = evidence.active
    hardware = sorted({timing["hardware"] for timing in evidence.timing.values()})
    sample = "**SAMPLE: drawn faces, not the paper's data.** " if evidence.source == "sample" else ""
    return (
        f"{sample}Test subset, threshold {document['settings']['threshold']}, in brackets "
        f"{document['settings']['confidence']:.0%} intervals; one run per trial, seed "
        f"{document['training']['seed']}; pretrained weights: {document['weights']['known_as']} "
        f"(SHA-256 `{document['weights']['sha256'][:16]}`); hardware: {'; '.join(hardware)}. "
        "A research reproduction, not a diagnostic."
    )


def headline(evidence: Evidence) -> str:
    """Return the finding in two sentences: the best trial beside the paper's figure, and what can be told apart."""
    best = evidence.best
    row = evidence.quantity(best, "accuracy")
    pairs = evidence.comparison["pairs"]
    apart = sum(bool(pair["distinguishable"]) for pair in pairs)
    verdict = f" ({row['verdict']})" if row["verdict"] else ""
    if row["paper_text"] is None:
        reported = f"the best of the paper's trials is reported with {evidence.best_reported['paper_text']}"
    else:
        reported = f"the paper reports {row['paper_text']} for it{verdict}"
    return (
        f"{evidence.names[best].capitalize()} classifies {percent(row)} of {row['n']} test images rightly; {reported}. "
        f"Of {len(pairs)} pairs of trials, {apart or 'none'} can be told apart at n = {row['n']}."
    )


def metrics_table(evidence: Evidence) -> str:
    """Return every metric of every trial with its interval."""
    runs = {evidence.names[trial]: document for trial, document in evidence.trials.items()}
    if evidence.active["model_sha256"] not in {document["model_sha256"] for document in runs.values()}:
        runs["active run"] = evidence.active
    rows = [(title, *(decimal(run["metrics"][name]) for run in runs.values())) for name, title in TITLES.items()]
    return table(("metric", *runs), rows)


def operating_table(evidence: Evidence) -> str:
    """Return each trial at the threshold that was chosen on the validation subset."""
    rows = []
    for trial, document in evidence.trials.items():
        point = document["operating_point"]
        test = point["test"]
        rows.append(
            (
                evidence.names[trial],
                f"{point['threshold']:.3f}",
                percent(test["recall"]),
                percent(test["specificity"]),
                count(test["false_negatives"]),
                count(test["false_positives"]),
            )
        )
    return table(("trial", "threshold", "recall", "specificity", "missed", "false alarms"), rows)


def explain_table(evidence: Evidence) -> str:
    """Return the accuracy with parts of the picture hidden; empty if the stage has not run."""
    if evidence.explain is None:
        return ""
    runs = [evidence.explain, *evidence.explain["beside"]]
    rows = [
        (name.replace("_", " "), *(percent(one["accuracy"][name]) for one in runs), row["n"])
        for name, row in evidence.explain["accuracy"].items()
    ]
    names = {f"trials.{trial}": name for trial, name in evidence.names.items()} | {"train": "active run"}
    return table(("the network sees", *(f"test accuracy, {names[one['run']]}" for one in runs), "n"), rows)


def facts_table(evidence: Evidence) -> str:
    """Return time, epochs and hardware of each trial."""
    rows = [
        (evidence.names[trial], duration(timing["seconds"]), timing["epochs"], timing["hardware"])
        for trial, timing in evidence.timing.items()
    ]
    return table(("trial", "time", "epochs", "hardware"), rows)


def versions(evidence: Evidence) -> list[str]:
    """Return the sets of versions the trials ran with: one, unless they ran on different machines."""
    found = (", ".join(f"{k} {v}" for k, v in timing["versions"].items()) for timing in evidence.timing.values())
    return sorted(set(found))


def shifted(markdown: str, by: int) -> str:
    """Return Markdown with its headings `by` levels deeper."""
    return re.sub(r"^(#+ )", "#" * by + r"\1", markdown.strip(), flags=re.MULTILINE)


def to_html(markdown: str, shift: int = 0) -> Markup:
    """Return Markdown as HTML: raw HTML escaped, headings `shift` levels deeper, tables in a box that scrolls.

    An interval, a time and a trial's name stay on one line.
    """
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(shifted(markdown, shift))
    html = UNBROKEN.sub(lambda found: found[0].replace(" ", "\u00a0"), html)
    box = '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>'
    return Markup(html.replace("<table>", box).replace("</table>", "</table></div>"))


def data_uri(png: bytes) -> str:
    """Return a picture as the address that carries it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def render(template: str, evidence: Evidence, **more: Any) -> str:
    """Render a template of faces/pages/templates with the evidence and this module's tables."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "decimal": decimal,
        "count": count,
        "duration": duration,
        "html": to_html,
        "shifted": shifted,
        "data_uri": data_uri,
    }
    tables = {
        "results": results_table(evidence),
        "caption": results_caption(evidence),
        "splits": splits_table(evidence),
        "headline": headline(evidence),
        "metrics": metrics_table(evidence),
        "operating": operating_table(evidence),
        "explain": explain_table(evidence),
        "facts": facts_table(evidence),
        "versions": versions(evidence),
    }
    return environment.get_template(template).render(evidence=evidence, tables=tables, **more)


def model_card(evidence: Evidence) -> str:
    """Return MODEL_CARD.md."""
    metrics = evidence.active["metrics"]
    false_alarm = 1 - metrics["specificity"]["value"]
    flagged = false_alarm * (1 / PREVALENCE - 1) / max(metrics["recall"]["value"], 1e-9)
    return render("MODEL_CARD.md", evidence, titles=TITLES, false_alarms_per_case=flagged)


def readme(text: str, evidence: Evidence) -> str:
    """Return README.md with the text between its two marks replaced by the results."""
    start, end = README_MARKS
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise InputError(f"README.md needs the line {start} and after it the line {end}, once each")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    parts = [results_table(evidence), results_caption(evidence), splits_table(evidence)]
    return f"{before}{start}\n" + "\n\n".join(part for part in parts if part) + f"\n{end}{after}"
