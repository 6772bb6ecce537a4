"""The report, the model card and the README's table say what the metrics files say, and nothing else."""

import itertools
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import drawn_runs
import pytest
from PIL import Image

from ci import readme
from faces.cli import InputError
from faces.evidence.comparison import Comparison
from faces.evidence.documents import RunMetrics, read_document
from faces.evidence.estimate import Estimate
from faces.files import write_json
from faces.pages import report, sentences, tables
from faces.params import load_params
from stages import report as stage

REPOSITORY = Path(__file__).parents[2]
METRICS = REPOSITORY / "metrics"
PAPERS = ("trial1", "trial2", "trial3")
PICTURES = [f"figures/{kind}_{t}" for kind in ("curves", "confusion", "operating_point") for t in drawn_runs.TRIALS]
PICTURES += [
    "figures/roc",
    "figures/precision_recall",
    "figures/calibration",
    "figures/class_balance",
    "figures/children_improved",
]
PICTURES += ["explain/healthy", "explain/down_syndrome", "explain/occlusion"]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    drawn_runs.make(root)
    for name in PICTURES:
        path = root / "plots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(path)
    return root


@pytest.fixture
def runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(runs: Path, out: str = "out") -> tuple[str, str, str]:
    """Run the stage; returns page, tables, model card."""
    card = runs / out / "MODEL_CARD.md"
    stage.main(runs / "metrics", runs / "models/runs", runs / "plots", reports=runs / out, card=card)
    page, tables, text = (
        (runs / out / name).read_text(encoding="utf-8") for name in ("index.html", "tables.md", card.name)
    )
    return page, tables, text


class Page(HTMLParser):
    """Collects tables, pictures, headings, addresses, ids and tag names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.images: list[dict[str, str | None]] = []
        self.levels: list[int] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data") and v]
        self.ids += [v for k, v in attrs if k == "id" and v]
        if tag == "img":
            self.images.append(values)
        if re.fullmatch(r"h\d", tag):
            self.levels.append(int(tag[1]))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[-1][-1][-1] += data.replace("\u00a0", " ")


def numbers(cell: str) -> list[float]:
    return [float(text) for text in NUMBER.findall(cell)]


def documents(runs: Path) -> dict[str, RunMetrics]:
    return {name: read_document(RunMetrics, runs / "metrics" / "runs" / f"{name}.json") for name in drawn_runs.TRIALS}


def as_list(metric: Estimate, scale: float, digits: int) -> list[float]:
    return [round(scale * number, digits) for number in (metric.value, metric.low, metric.high)]


def test_the_pages_numbers_are_the_documents(runs: Path) -> None:
    tables = Page(write(runs)[0]).tables
    results, metrics, operating = tables[:3]
    assert [len(row) for row in results] == [5] * 6
    for row, (name, document) in zip(results[1:], documents(runs).items(), strict=False):
        own = document.metrics
        assert row[0] == (f"trial {name[-1]}" if name in PAPERS else name)
        assert numbers(row[2]) == pytest.approx(as_list(own["accuracy"], 100, 1), abs=0.0501)
        assert numbers(row[3]) == pytest.approx(as_list(own["recall"], 100, 1), abs=0.0501)
        assert numbers(row[4]) == pytest.approx(as_list(own["auroc"], 1, 3), abs=0.000501)
    assert [row[1] for row in results[1:]] == ["82.83%", "87.88%", "80.47%", "-", "-"]
    assert [numbers(cell)[-1:] for cell in results[0]] == [[], [297], [300], [150], [300]]
    assert results[-1][0] == "improved, mean of 2 ordinary splits"
    over = drawn_runs.read(runs / "metrics" / "repeats.json")["improved"]["over_splits"]
    assert numbers(results[-1][2])[0] == pytest.approx(100 * over["accuracy"]["mean"], abs=0.0501)

    for column, document in enumerate(documents(runs).values(), start=1):
        assert len(metrics) - 1 == len(document.metrics)
        for row, metric in zip(metrics[1:], document.metrics.values(), strict=True):
            assert numbers(row[column]) == pytest.approx(as_list(metric, 1, 3), abs=0.000501)
            ends = numbers(row[-1])
            assert ends[0] <= metric.n <= ends[-1]
        point, row = document.operating_point, operating[column]
        assert numbers(row[1]) == pytest.approx([point.threshold], abs=0.000501)
        missed = point.test["false_negatives"]
        assert numbers(row[4])[0] == missed.value == point.confusion_matrix.matrix[1][0]
        assert numbers(row[4])[-1] == missed.n
        assert numbers(row[5])[0] == point.confusion_matrix.matrix[0][1]


def test_the_headline_stands_first(runs: Path) -> None:
    page = write(runs)[0].replace("\u00a0", " ")
    compared = read_document(Comparison, runs / "metrics" / "comparison.json")
    assert f'<p class="finding">{sentences.headline(compared)}</p>' in page
    assert page.index('class="finding"') < page.index("<table>")


def test_an_active_run_of_its_own_is_shown_with_the_others(runs: Path) -> None:
    active = drawn_runs.read(runs / "metrics" / "active.json")
    tables = Page(write(runs)[0]).tables
    assert tables[1][0] == ["metric", "trial 1", "trial 2", "trial 3", "improved", "n"]  # it is trial 2
    write_json(runs / "metrics" / "active.json", active | {"model_sha256": "f" * 64})
    page = write(runs)[0]
    tables = Page(page).tables
    assert tables[1][0][-2:] == ["active run", "n"]
    assert tables[2][-1][0] == "active run"
    assert "No picture plots/figures/confusion_active.png" in page


def test_the_page_is_whole_in_itself(runs: Path) -> None:
    html = write(runs)[0]
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "url(" not in html
    assert "@import" not in html
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_picture_is_there_and_described(runs: Path) -> None:
    page = Page(write(runs)[0])
    assert len(page.images) == len(PICTURES)
    descriptions = [image["alt"] or "" for image in page.images]
    assert min(len(text) for text in descriptions) > 20
    assert len(set(descriptions)) == len(descriptions)
    tn, fp = documents(runs)["trial1"].confusion_matrix.matrix[0]
    assert any(f"of trial 1: of the healthy {tn} right and {fp} wrong" in text for text in descriptions)
    assert "Number of images per class: 1500 healthy, 1500 Down syndrome." in descriptions


def test_headings_descend_one_level_at_a_time(runs: Path) -> None:
    levels = Page(write(runs)[0]).levels
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_note_stands_beside_the_accuracy(runs: Path) -> None:
    page, tables, card = write(runs)
    assert page.index("not a diagnostic") - page.index('class="finding"') < 1000
    assert "not a diagnostic" in tables
    assert "not a diagnostic" in card


def test_the_sections_are_the_pages(runs: Path) -> None:
    html = write(runs)[0]
    sections = {name: html.split(f'<div id="{name}">')[1] for name in ("comparison", "repeats", "consistency", "data")}
    assert "Our runs beside the paper's</h2>" in sections["comparison"].replace("&#x27;", "'").replace("&#39;", "'")
    assert sections["repeats"].index("Recipes on several splits</h2>") < 100
    assert sections["consistency"].index("Table III against itself</h2>") < 100
    assert sections["data"].index("Data sheet</h2>") < sections["data"].index("Splits</h2>")
    assert "Shortcut probes</h2>" in html
    text = html.replace("\u00a0", " ")
    for value in (
        "61.0% (55.4 to 66.3)",
        "62.0% (55.4 to 66.3)",
        "test accuracy, trial 3",
        "test accuracy, active run",
    ):
        assert value in text
    assert "61.0% (55.4 to 66.3)" in write(runs)[2]


def test_a_missing_picture_is_said(runs: Path) -> None:
    (runs / "plots" / "figures" / "roc.png").unlink()
    assert "No picture plots/figures/roc.png" in write(runs)[0]


def test_the_pages_are_written_to_the_metrics(runs: Path) -> None:
    write(runs)
    evidence = report.read_evidence(runs / "metrics", drawn_runs.SPLITS)
    for name, text in report.pages(evidence).items():
        assert (runs / "metrics" / f"{name}.md").read_text(encoding="utf-8") == text


DOCUMENTS = (
    "active",
    "comparison",
    "consistency",
    "data",
    "explain",
    "probes",
    "repeats",
    "runs/trial3",
    "splits/seed2",
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_missing_document_is_one_clear_line(runs: Path, name: str) -> None:
    (runs / "metrics" / f"{name}.json").unlink()
    with pytest.raises(InputError, match=f"{Path(name).name}.json not found"):
        write(runs)
    assert not (runs / "out").exists()


def test_a_missing_time_is_one_clear_line(runs: Path) -> None:
    (runs / "models" / "runs" / "improved-split2" / "timing.json").unlink()
    with pytest.raises(InputError, match=r"improved-split2/timing\.json not found"):
        write(runs)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_broken_document_is_one_clear_line(runs: Path, name: str) -> None:
    (runs / "metrics" / f"{name}.json").write_text("{")
    with pytest.raises(InputError, match=rf"{Path(name).name}\.json is not valid JSON"):
        write(runs)


def test_files_of_runs_and_splits_that_are_not_named_are_not_read(runs: Path) -> None:
    before = write(runs)
    for name in ("runs/gone.json", "splits/gone.json"):
        (runs / "metrics" / name).write_text("{")
    assert write(runs, "again") == before


def test_the_same_inputs_give_the_same_bytes(runs: Path) -> None:
    assert write(runs) == write(runs, "again")


def test_the_sample_is_never_taken_for_the_papers_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_runs.make(tmp_path, source="sample", n=60)
    monkeypatch.chdir(tmp_path)
    page, tables, card = write(tmp_path)
    assert '<p class="banner">Sample: drawn faces. Nothing below says anything about the paper.' in page
    assert "<title>Down syndrome in photographs: a reproduction (sample: drawn faces)</title>" in page
    assert tables.splitlines()[0] == "# Results (sample: drawn faces)"
    assert "**Sample: drawn faces. None of the numbers below says anything about the paper.**" in card
    caption = report.caption(report.read_evidence(tmp_path / "metrics", drawn_runs.SPLITS))
    assert caption.startswith("**Sample: drawn faces.** Test subset")


def test_markdown_cannot_bring_html_with_it(runs: Path) -> None:
    page = write(runs)[0]
    assert "<code>healthy/&lt;b&gt;bad&lt;/b&gt;.jpg</code>" in page
    assert "<b>" not in page


def test_model_card_numbers(runs: Path) -> None:
    card = write(runs)[2]
    model = read_document(RunMetrics, runs / "metrics/runs/improved.json")
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in table_rows(card)}
    for name, metric in model.metrics.items():
        assert cells[tables.METRICS[name]] == [metric.decimal, str(metric.n)]
    specificity, recall = (model.metrics[name].value for name in ("specificity", "recall"))
    flagged = round((1 - specificity) * 699 / recall)
    assert f"about {flagged} children" in " ".join(card.split())
    assert model.weights.sha256 in card
    assert model.model_sha256 in card
    transforms = model.training.recipe["transforms"]
    size = transforms["evaluation_crop"] or transforms["crop"]
    assert f"resized to {transforms['resize']} and then to {size} pixels" in " ".join(card.split())
    assert "The model is the run `improved`" in card
    body = card.split("\n---\n", 1)[1]
    assert max(len(line) for line in body.splitlines() if not line.startswith("|")) <= 100


@pytest.mark.parametrize("source", ["kaggle", "sample"])
def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path, source: str) -> None:
    """Read back by the hub's own library, which raises where a result is not as it should be."""
    from huggingface_hub import ModelCard

    drawn_runs.make(tmp_path, source=source, n=60)
    (tmp_path / "metrics/timing.json").write_text("{}")
    evidence = report.read_evidence(tmp_path / "metrics", drawn_runs.SPLITS)
    card = ModelCard(report.model_card(evidence), ignore_metadata_errors=False)
    assert card.text.lstrip().startswith("<!-- Written by stages/report.py")
    assert (card.data.license, card.data.license_link, card.data.library_name) == ("other", "NOTICE", "pytorch")
    assert ("sample" in card.data.tags) == (source == "sample")
    assert (REPOSITORY / card.data.license_link).is_file()
    found = {result.metric_type: result for result in card.data.eval_results}
    model = read_document(RunMetrics, tmp_path / "metrics/runs/improved.json")
    assert len(found) == len(report.HUB_METRICS)
    for name, hub in report.HUB_METRICS.items():
        estimate, result = model.metrics[name], found[hub]
        assert result.metric_value == estimate.value
        assert result.metric_args == {"n": estimate.n, "confidence": 0.95, "low": estimate.low, "high": estimate.high}


def table_rows(text: str) -> list[list[str]]:
    return [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]


def test_readme_block_is_replaced_and_nothing_else(runs: Path) -> None:
    write(runs)
    path = runs / "README.md"
    path.write_text("# Title\n<!-- results -->\nan earlier table\n<!-- /results -->\nend\n", encoding="utf-8")
    readme.main(path, runs / "metrics")
    text = path.read_text(encoding="utf-8")
    found = report.read_evidence(runs / "metrics", drawn_runs.SPLITS)
    assert text.startswith("# Title\n<!-- results -->\n| run ")
    assert text.endswith("<!-- /results -->\nend\n")
    assert tables.results(found.comparison, found.runs, found.seeds, found.children) in text
    assert report.caption(found) in text
    assert tables.others(found.comparison, found.children, found.model.run) in text
    assert "an earlier table" not in text
    readme.main(path, runs / "metrics")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["", "<!-- /results -->\n<!-- results -->", "<!-- results -->" * 2])
def test_readme_without_its_marks_is_one_clear_line(runs: Path, text: str) -> None:
    write(runs)
    with pytest.raises(InputError, match=r"README\.md needs the line <!-- results -->"):
        report.readme(text, report.read_evidence(runs / "metrics", drawn_runs.SPLITS))


def test_times_of_all_runs_are_copied_to_the_metrics(runs: Path) -> None:
    page = write(runs)[0].replace("\u00a0", " ")
    timing = drawn_runs.read(runs / "metrics" / "timing.json")
    assert list(timing) == list(drawn_runs.RUNS)
    for name in drawn_runs.RUNS:
        assert timing[name] == drawn_runs.read(runs / "models" / "runs" / name / "timing.json")
    times = {row[0]: row[1:] for row in Page(page).tables[-1]}
    assert times["trial 3"] == ["27 min", "17", "a made-up CPU, 2 cores"]
    assert times["improved-split2"][0] == "29 min"


def test_provenance_without_git_or_lock_and_with_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert stage.commit() == "unknown"
    assert stage.lock_sha256(tmp_path / "dvc.lock") == "none"
    lock = tmp_path / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages:\n  a: {cmd: x}\n  report: {cmd: y}\n")
    first = stage.lock_sha256(lock)
    lock.write_text("schema: '2.0'\nstages:\n  report: {cmd: z}\n  a: {cmd: x}\n")
    assert stage.lock_sha256(lock) == first
    lock.write_text("schema: '2.0'\nstages:\n  a: {cmd: changed}\n")
    assert stage.lock_sha256(lock) != first


@pytest.fixture(scope="module")
def committed() -> report.Evidence:
    if missing := [name for name in ("active", "children", "labels") if not (METRICS / f"{name}.json").exists()]:
        pytest.skip(f"not committed yet, the results being of older code: metrics/{missing[0]}.json")
    return report.read_evidence(METRICS, load_params(REPOSITORY / "params.yaml").splits)


def test_the_committed_model_card_is_rendered_from_the_committed_metrics(committed: report.Evidence) -> None:
    card = (REPOSITORY / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == report.model_card(committed), "run `dvc repro report`"


@pytest.mark.parametrize("name", report.PAGES)
def test_the_committed_pages_are_rendered_from_the_committed_metrics(committed: report.Evidence, name: str) -> None:
    page = (REPOSITORY / "metrics" / f"{name}.md").read_text(encoding="utf-8")
    assert page == report.pages(committed)[name], "run `dvc repro report`"


def test_the_committed_readme_is_rendered_from_the_committed_metrics(committed: report.Evidence) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert text == report.readme(text, committed), "run `python -m ci.readme README.md metrics`"
