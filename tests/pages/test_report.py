"""The report, the model card and the README's table say what the metrics files say, and nothing else."""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import drawn_runs
import pytest
from PIL import Image

from ci import readme
from faces.cli import InputError
from faces.pages import report
from stages import report as stage

REPOSITORY = Path(__file__).parents[2]
PAPERS = ("trial1", "trial2", "trial3")
HIDDEN = ("whole_picture", "middle_hidden", "only_the_middle")
PICTURES = [f"figures/{kind}_{t}" for kind in ("curves", "confusion", "operating_point") for t in drawn_runs.TRIALS]
PICTURES += ["figures/roc", "figures/precision_recall", "figures/calibration", "class_balance"]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    drawn_runs.make(root)
    for name in PICTURES:
        path = root / "plots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(path)
    findings = {"rows": [], "summary": ""}
    (root / "metrics" / "consistency.json").write_text(json.dumps(findings), encoding="utf-8")
    (root / "metrics" / "consistency.md").write_text("# Table III against itself\n\nNo.\n", encoding="utf-8")
    return root


@pytest.fixture
def runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(runs: Path, out: str = "out") -> tuple[str, str, str]:
    """Run the stage; returns page, tables, model card."""
    files = [runs / out / name for name in ("index.html", "tables.md", "MODEL_CARD.md")]
    stage.main(runs / "metrics", runs / "models", runs / "plots", *files, runs / "metrics" / "timing.json")
    page, tables, card = (file.read_text(encoding="utf-8") for file in files)
    return page, tables, card


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


def documents(runs: Path) -> dict[str, Any]:
    return {t: json.loads((runs / "metrics" / "trials" / f"{t}.json").read_text()) for t in drawn_runs.TRIALS}


def as_list(metric: dict[str, Any], scale: float, digits: int) -> list[float]:
    return [round(scale * metric[key], digits) for key in ("value", "low", "high")]


def test_the_pages_numbers_are_the_documents(runs: Path) -> None:
    tables = Page(write(runs)[0]).tables
    results, metrics, operating = tables[:3]
    for row, (trial, document) in zip(results[1:], documents(runs).items(), strict=True):
        own, training = document["metrics"], document["training"]
        assert row[0] == (f"trial {trial[-1]}" if trial in PAPERS else trial)
        assert numbers(row[2]) == pytest.approx(as_list(own["accuracy"], 100, 1), abs=0.0501)
        assert numbers(row[3]) == pytest.approx(as_list(own["recall"], 100, 1), abs=0.0501)
        assert numbers(row[4]) == pytest.approx(as_list(own["f1_macro"], 1, 3), abs=0.000501)
        assert numbers(row[5]) == pytest.approx(as_list(own["auroc"], 1, 3), abs=0.000501)
        assert numbers(row[6])[0] == training["stopped_epoch"] == drawn_runs.EPOCHS[trial]
        assert numbers(row[7]) == [document["n"]["test"]]
        assert numbers(row[9]) == [training["recipe"]["batch_size"], training["recipe"]["learning_rate"]]
    assert [row[1] for row in results[1:]] == ["82.83%", "87.88%", "80.47%", "-"]
    assert [row[6].split()[1] for row in results[1:]] == ["(30)", "(56)", "(58)", "(-)"]
    assert [row[8] for row in results[1:]] == ["25 min", "26 min", "27 min", "28 min"]

    for column, document in enumerate(documents(runs).values(), start=1):
        assert len(metrics) - 1 == len(document["metrics"])
        for row, metric in zip(metrics[1:], document["metrics"].values(), strict=True):
            assert numbers(row[column]) == pytest.approx(as_list(metric, 1, 3), abs=0.000501)
        point, row = document["operating_point"], operating[column]
        assert numbers(row[1]) == pytest.approx([point["threshold"]], abs=0.000501)
        missed = point["test"]["false_negatives"]
        assert numbers(row[4])[0] == missed["value"] == point["confusion_matrix"]["matrix"][1][0]
        assert numbers(row[5])[0] == point["confusion_matrix"]["matrix"][0][1]


def test_the_headline_is_the_best_trial(runs: Path) -> None:
    page = write(runs)[0].replace("\u00a0", " ")
    best = max(documents(runs).values(), key=lambda document: document["metrics"]["accuracy"]["value"])
    assert best["run"] == "trials.trial2"
    metric = best["metrics"]["accuracy"]
    comparison = json.loads((runs / "metrics" / "comparison.json").read_text())
    apart = sum(pair["distinguishable"] for pair in comparison["pairs"])
    assert f"Trial 2 classifies {report.percent(metric)} of {metric['n']} test images rightly" in page
    assert f"the paper reports 87.88% for it ({comparison['quantities'][7]['verdict']}). " in page
    assert f"Of 6 pairs of trials, {apart or 'none'} can be told apart" in page


def test_a_best_trial_that_the_paper_does_not_have_stands_beside_the_papers_best(runs: Path) -> None:
    path = runs / "metrics" / "trials" / "improved.json"
    document = json.loads(path.read_text())
    document["metrics"]["accuracy"]["value"] = 0.999
    path.write_text(json.dumps(document))
    page = write(runs)[0].replace("\u00a0", " ")
    assert '<p class="finding">Improved classifies' in page
    assert "rightly; the best of the paper&#39;s trials is reported with 87.88%. Of" in page


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
    tn, fp = documents(runs)["trial1"]["confusion_matrix"]["matrix"][0]
    assert any(f"of trial 1: of the healthy {tn} right and {fp} wrong" in text for text in descriptions)


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


def test_what_is_missing_is_said(runs: Path) -> None:
    page = write(runs)[0]
    assert "<code>dvc repro probe</code> makes metrics/probes.md" in page
    assert "On several splits" not in page  # nor is it a hole: a recipe need not be repeated
    assert "<code>dvc repro explain</code> makes metrics/explain.json" in page
    (runs / "metrics" / "probes.md").write_text("# Shortcut probes\n\nWords.\n")
    (runs / "metrics" / "explain.json").write_text(json.dumps(explained()))
    (runs / "plots" / "figures" / "roc.png").unlink()
    page, _, card = write(runs)
    assert "Shortcut probes</h2>" in page
    assert "No picture plots/explain/healthy.png" in page
    assert "No picture plots/figures/roc.png" in page
    assert "61.0% (55.4 to 66.3)" in page.replace("\u00a0", " ")
    assert "62.0% (55.4 to 66.3)" in page.replace("\u00a0", " ")
    assert "test accuracy, trial 3" in page.replace("\u00a0", " ")
    assert "61.0% (55.4 to 66.3)" in card


def explained() -> dict[str, Any]:
    row = {"value": 0.61, "low": 0.5538, "high": 0.6634, "n": 300, "method": "Wilson"}
    other = {**row, "value": 0.62}
    return {
        "run": "train",
        "source": "kaggle",
        "class_explained": "the predicted one",
        "middle_area": 0.5,
        "heat_in_middle": {"healthy": {"value": 0.7, "n": 150}, "down_syndrome": {"value": 0.8, "n": 150}},
        "accuracy": dict.fromkeys(HIDDEN, row),
        "beside": [{"run": "trials.trial3", "accuracy": dict.fromkeys(HIDDEN, other)}],
    }


@pytest.mark.parametrize("name", ["active.json", "comparison.json", "consistency.json", "trials/trial3.json"])
def test_a_missing_document_is_one_clear_line(runs: Path, name: str) -> None:
    (runs / "metrics" / name).unlink()
    with pytest.raises(InputError, match=f"{Path(name).name} not found"):
        write(runs)


def test_a_broken_document_is_one_clear_line(runs: Path) -> None:
    (runs / "metrics" / "active.json").write_text("{")
    with pytest.raises(InputError, match=r"active\.json is not JSON"):
        write(runs)


def test_the_same_inputs_give_the_same_bytes(runs: Path) -> None:
    assert write(runs) == write(runs, "again")


def test_the_sample_is_never_taken_for_the_papers_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_runs.make(tmp_path, source="sample", n=60)
    (tmp_path / "metrics" / "consistency.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    page, tables, card = write(tmp_path)
    assert '<p class="banner">SAMPLE' in page
    assert "SAMPLE" in tables.splitlines()[0]
    assert "**SAMPLE" in card
    assert "SAMPLE" in report.results_caption(report.read_evidence(tmp_path / "metrics"))


def test_markdown_cannot_bring_html_with_it(runs: Path) -> None:
    assert "<td>&lt;b&gt;1&lt;/b&gt;</td>" in write(runs)[0]


def test_headings_are_shifted_and_bars_escaped() -> None:
    assert report.shifted("# a\ntext # b\n## c\n", 2) == "### a\ntext # b\n#### c"
    assert report.table(["x|y"], [["a|b"]]).count("\\|") == 2
    assert report.to_html("# a").startswith("<h1>")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (3580, "1 h 00 min"), (3900, "1 h 05 min")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_model_card_numbers(runs: Path) -> None:
    card = write(runs)[2]
    active = json.loads((runs / "metrics" / "active.json").read_text())
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    cells = {row[0]: row[1:] for row in rows}
    for name, metric in active["metrics"].items():
        assert cells[report.TITLES[name]] == [report.decimal(metric), str(metric["n"])]
    specificity, recall = (active["metrics"][name]["value"] for name in ("specificity", "recall"))
    flagged = round((1 - specificity) * 699 / recall)
    assert f"about {flagged} children" in " ".join(card.split())
    assert active["weights"]["sha256"] in card


def test_readme_block_is_replaced_and_nothing_else(runs: Path) -> None:
    write(runs)
    path = runs / "README.md"
    path.write_text("# Title\n<!-- results -->\nformer\n<!-- /results -->\nend\n", encoding="utf-8")
    readme.main(path, runs / "metrics")
    text = path.read_text(encoding="utf-8")
    found = report.read_evidence(runs / "metrics")
    assert text.startswith("# Title\n<!-- results -->\n| trial |")
    assert text.endswith("<!-- /results -->\nend\n")
    assert report.results_table(found) in text
    assert "former" not in text
    readme.main(path, runs / "metrics")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["", "<!-- /results -->\n<!-- results -->", "<!-- results -->" * 2])
def test_readme_without_its_marks_is_one_clear_line(runs: Path, text: str) -> None:
    write(runs)
    with pytest.raises(InputError, match=r"README\.md needs the line <!-- results -->"):
        report.readme(text, report.read_evidence(runs / "metrics"))


def test_times_are_copied_to_the_metrics(runs: Path) -> None:
    write(runs)
    timing = json.loads((runs / "metrics" / "timing.json").read_text())
    own = json.loads((runs / "models" / "trial3" / "timing.json").read_text())
    assert list(timing) == list(drawn_runs.TRIALS)
    assert timing["trial3"] == own


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


@pytest.fixture
def committed() -> report.Evidence:
    if not (REPOSITORY / "metrics" / "active.json").exists():
        pytest.skip("no metrics are committed yet")
    return report.read_evidence(REPOSITORY / "metrics")


def test_the_committed_model_card_is_rendered_from_the_committed_metrics(committed: report.Evidence) -> None:
    card = (REPOSITORY / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == report.model_card(committed), "run `dvc repro report`"


def test_the_committed_readme_is_rendered_from_the_committed_metrics(committed: report.Evidence) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert text == report.readme(text, committed), "run `python -m ci.readme README.md metrics`"
