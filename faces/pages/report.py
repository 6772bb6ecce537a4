"""All pages: each is a template of faces/pages/templates, with the tables and sentences that the evidence makes.

Everything is read from the metrics folder, which is in Git, so that the pages, the model card and the README's table
can be rendered again, and checked, in a bare clone. The page of another paper's table is printed by

    python -m faces.pages.report FINDINGS.json     what `python -m stages.consistency TABLE.yaml FINDINGS.json` wrote
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
import typer
from huggingface_hub import EvalResult, ModelCardData

from faces.cli import InFile, run
from faces.evidence import repeats
from faces.evidence.children import Children
from faces.evidence.comparison import Comparison
from faces.evidence.consistency import Consistency
from faces.evidence.documents import Explained, Probes, RunMetrics, read_document
from faces.evidence.labels import LabelNoise
from faces.evidence.repeats import Repeats
from faces.evidence.seeds import Seeds
from faces.pages import sentences, tables
from faces.pages.markdown import filled, mark, marked, replaced, shifted, to_html

TEMPLATES = Path(__file__).parent / "templates"
README_MARKS = ("<!-- results -->", "<!-- /results -->")
PAGES = (
    "data",
    "splits",
    "seeds",
    "comparison",
    "consistency",
    "repeats",
    "children",
    "labels",
    "probes",
)  # metrics/NAME.md
DATASETS = {  # by source: what the model card calls the images, and where they are
    "kaggle": ("Detection of Down Syndrome in Children (Kaggle)", "mervecayli/detection-of-down-syndrome-in-children"),
    "sample": ("faces drawn by a program", "sample"),
    "own": ("own images, not the paper's", "own"),
}
HUB_METRICS = {  # our name -> the hub's, of the model card's front matter
    "accuracy": "accuracy",
    "recall": "recall",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "f1",
    "auroc": "roc_auc",
    "mcc": "matthews_correlation",
    "brier": "brier_score",
}
PREVALENCE = 1 / 700  # of Down syndrome among live births, about: Mai et al., Birth Defects Research, 2019


@dataclass(frozen=True)
class Evidence:
    """The metrics folder: what the stages found."""

    active: RunMetrics
    model: RunMetrics  # the run that the model card is about
    runs: dict[str, RunMetrics]  # the compared ones
    comparison: Comparison
    consistency: Consistency
    seeds: Seeds
    repeats: dict[str, Repeats]  # by recipe
    embed: dict[str, Any]
    groups: dict[str, Any]
    children: Children
    labels: LabelNoise
    probes: Probes
    explain: Explained
    data: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    timing: dict[str, dict[str, Any]]  # of each run: seconds, epochs, hardware, versions

    @property
    def names(self) -> dict[str, str]:
        """Each run's name for people: trial2 is "trial 2"."""
        return {**self.comparison.names, "active": "active run"}

    @property
    def named(self) -> dict[str, RunMetrics]:
        """The compared runs by their names for people, and the active one where it is not one of them."""
        named = {self.names[name]: run for name, run in self.runs.items()}
        return named | ({self.names["active"]: self.active} if self.active_apart else {})

    @property
    def active_apart(self) -> bool:
        """Is the active run another one than the compared ones?"""
        return self.active.model_sha256 not in {run.model_sha256 for run in self.runs.values()}

    @property
    def hardware(self) -> list[str]:
        """What the runs were trained on."""
        return sorted({facts["hardware"] for facts in self.timing.values()})

    @property
    def versions(self) -> list[str]:
        """The sets of versions that the runs were trained with: one, unless they ran on different machines."""
        found = (
            ", ".join(f"{key} {value}" for key, value in facts["versions"].items()) for facts in self.timing.values()
        )
        return sorted(set(found))


def read_evidence(metrics: Path, splits: Iterable[str]) -> Evidence:
    """Read the metrics folder, and of its splits these; an `InputError` names the first file that is not there."""
    comparison = read_document(Comparison, metrics / "comparison.json")
    (model,) = read_document(dict[str, Any], metrics / "model.json")  # its only key
    return Evidence(
        active=read_document(RunMetrics, metrics / "active.json"),
        model=read_document(RunMetrics, metrics / "runs" / f"{model}.json"),
        runs={name: read_document(RunMetrics, metrics / "runs" / f"{name}.json") for name in comparison.runs},
        comparison=comparison,
        consistency=read_document(Consistency, metrics / "consistency.json"),
        seeds=read_document(Seeds, metrics / "seeds.json"),
        repeats=read_document(dict[str, Repeats], metrics / "repeats.json"),
        embed=read_document(dict[str, Any], metrics / "embed.json"),
        groups=read_document(dict[str, Any], metrics / "groups.json"),
        children=read_document(Children, metrics / "children.json"),
        labels=read_document(LabelNoise, metrics / "labels.json"),
        probes=read_document(Probes, metrics / "probes.json"),
        explain=read_document(Explained, metrics / "explain.json"),
        data=read_document(dict[str, Any], metrics / "data.json"),
        splits={name: read_document(dict[str, Any], metrics / "splits" / f"{name}.json") for name in splits},
        timing=read_document(dict[str, dict[str, Any]], metrics / "timing.json"),
    )


def render(template: str, source: str, **documents: Any) -> str:
    """Render a template of faces/pages/templates; what is not HTML is filled to lines of one width."""
    html = template.endswith(".html")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"html": to_html, "shifted": shifted, "data_uri": data_uri}
    shared = {"mark": mark(source), "marked": marked(source), "tables": tables, "sentences": sentences}
    text = environment.get_template(template).render(source=source, **shared, **documents)
    return text if html else filled(text)


def pages(evidence: Evidence) -> dict[str, str]:
    """Return metrics/NAME.md by name."""
    return {name: render(f"{name}.md", **_context(evidence)) for name in PAGES}


def page(evidence: Evidence, pictures: dict[str, bytes], provenance: dict[str, str]) -> str:
    """Return the page that opens offline; pictures: PNG by name below plots/, without its suffix."""
    return render(
        "index.html",
        **_context(evidence),
        caption=caption(evidence),
        pages=pages(evidence),
        pictures=pictures,
        provenance=provenance,
    )


def all_tables(evidence: Evidence) -> str:
    """Return the tables of the page as Markdown."""
    return render("tables.md", **_context(evidence), caption=caption(evidence), pages=pages(evidence))


def model_card(evidence: Evidence) -> str:
    """Return MODEL_CARD.md, with the front matter that the Hugging Face hub reads."""
    metrics = evidence.model.metrics
    false_alarm = 1 - metrics["specificity"].value
    flagged = false_alarm * (1 / PREVALENCE - 1) / max(metrics["recall"].value, 1e-9)
    text = render(
        "MODEL_CARD.md", **_context(evidence), caption=caption(evidence), false_alarms_per_case=round(flagged)
    )
    return f"---\n{front_matter(evidence.model)}\n---\n{text}"


def front_matter(run: RunMetrics) -> ModelCardData:
    """Return what the Hugging Face hub reads of a model card; each metric carries its n and its interval.

    The licence is "other": the Apache licence covers the code, not what was trained on the photographs (NOTICE).
    """
    name, dataset = DATASETS[run.source]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=name,
            dataset_split="test",
            metric_type=hub,
            metric_value=run.metrics[key].value,
            metric_name=tables.METRICS[key],
            metric_args={
                "n": run.metrics[key].n,
                "confidence": run.settings.confidence,
                "low": run.metrics[key].low,
                "high": run.metrics[key].high,
            },
        )
        for key, hub in HUB_METRICS.items()
    ]
    return ModelCardData(
        license="other",
        license_name="see-notice",
        license_link="NOTICE",
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=[
            "resnet34",
            "medical-imaging",
            "reproduction",
            "research-only",
            *([] if run.source == "kaggle" else [run.source]),
        ],
        model_name=f"down-syndrome-faces, {run.run}",
        eval_results=results,
    )


def caption(evidence: Evidence) -> str:
    """Return what the results table rests on: subset, intervals, seed, weights, hardware."""
    return render("caption.md", **_context(evidence))


def readme(text: str, evidence: Evidence) -> str:
    """Return README.md with the text between its two marks replaced by the results, and by what others report."""
    return replaced(
        "README.md", text, README_MARKS, render("results.md", **_context(evidence), caption=caption(evidence))
    )


def data_uri(png: bytes) -> str:
    """Return a picture as the address that carries it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _context(evidence: Evidence) -> dict[str, Any]:
    properties = ("names", "named", "active_apart", "hardware", "versions")
    return {
        "source": evidence.comparison.source,
        "times": repeats.TIMES,
        "sure": repeats.SURE,
        **vars(evidence),
        **{name: getattr(evidence, name) for name in properties},
    }


def main(
    findings: Annotated[InFile, typer.Argument(help="what the stage consistency found, as JSON")],
) -> None:
    """Print what a paper's table can come from."""
    print(render("consistency.md", "kaggle", consistency=read_document(Consistency, findings)), end="")


if __name__ == "__main__":
    run(main)
