"""Each page in metrics/ against the documents that it is made of."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn_runs
import pytest

from faces.evidence.consistency import check
from faces.evidence.paper import load_paper
from faces.files import write_json
from faces.pages import report, sentences, tables
from faces.pages.report import render


@pytest.fixture(scope="module", params=["kaggle", "sample", "own"])
def evidence(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> report.Evidence:
    root = tmp_path_factory.mktemp(request.param)
    drawn_runs.make(root, source=request.param, n=60)
    timing = {name: drawn_runs.read(root / f"models/runs/{name}/timing.json") for name in drawn_runs.RUNS}
    (root / "metrics/timing.json").write_text(json.dumps(timing), encoding="utf-8")
    return report.read_evidence(root / "metrics", drawn_runs.SPLITS)


def rows(page: str) -> list[list[str]]:
    """Return the cells of all tables' rows, without the rows of dashes."""
    lines = [line for line in page.splitlines() if line.startswith("|") and not line.startswith(("|:", "|-"))]
    return [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines]


def flat(page: str) -> str:
    return " ".join(page.split())


def test_lines_are_short_and_every_page_ends_with_one_line_break(evidence: report.Evidence) -> None:
    pages = report.pages(evidence)
    assert tuple(pages) == report.PAGES
    for page in pages.values():
        assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 100
        assert page.endswith("\n")
        assert not page.endswith("\n\n")
        assert "\n\n\n" not in page
        assert page.startswith("# ")


def test_every_page_of_results_says_whose_images_they_are(evidence: report.Evidence) -> None:
    source = evidence.comparison.source
    mark = {"sample": "sample: drawn faces", "own": "own images, not the paper's"}.get(source)
    pages = {**report.pages(evidence), "card": report.model_card(evidence), "tables": report.all_tables(evidence)}
    for name, page in pages.items():
        if name == "consistency":  # is about the paper alone
            continue
        title = next(line for line in page.splitlines() if line.startswith("# "))
        assert title.endswith(f"({mark})") if mark else "(" not in title, name
    if mark is None:
        assert not any("sample" in page.lower() or "own images" in page for page in pages.values())


def test_comparison_says_each_figure_beside_ours(evidence: report.Evidence) -> None:
    compared, page = evidence.comparison, report.pages(evidence)["comparison"]
    verdicts = compared.source == "kaggle"
    found = {(cells[0], cells[1]): cells[2:] for cells in rows(page)}
    titles = {"accuracy": "test accuracy", "f1": "test F1", "train_accuracy": "train accuracy"}
    for item in compared.quantities:
        title = titles.get(item.quantity)
        if title is None:
            continue
        paper, ours, interval, n, verdict = found[compared.names[item.run], title]
        assert paper == ("" if item.paper is None else f"{item.paper:.2%}")
        assert ours == f"{item.ours.value:.2%}"
        assert interval == f"{100 * item.ours.low:.1f} to {100 * item.ours.high:.1f}"
        assert n == str(item.ours.n)
        assert verdict == ((item.verdict or "") if verdicts else f"{compared.source}: no verdict")
    assert len([key for key in found if key[1] in titles.values()]) == 4 * len(titles)
    for pair in compared.pairs:
        assert f"- {sentences.pair(pair, compared.names)} " in f"{flat(page)} "
    for claim in compared.claims:
        assert sentences.claim(claim, compared) in flat(page)
    for paper_pair in compared.paper_pairs:
        assert sentences.paper_pair(paper_pair, compared.names) in flat(page)
    others = {row[0]: row[1:] for row in rows(page)}
    for other in compared.others:
        data = other.data + (f", {other.n} images" if other.n else "")
        reported = [other.accuracy, other.recall or "-", data, other.split, other.source]
        assert others[f"{other.name}; {other.model}"] == reported
    assert len(compared.others) == 6
    ordinary = evidence.children.recipes["improved"].kinds["duplicates"]
    ours = others["this project; ResNet-34, `improved`"]  # beside them, the last row
    assert [*others][-1] == "this project; ResNet-34, `improved`"
    assert ours[0].startswith(f"{ordinary.metrics['accuracy'].mean:.1%} (")
    assert ours[1].startswith(f"{ordinary.metrics['recall'].mean:.1%} (")
    assert ours[3] == "2 ordinary splits, 70/20/10, published"
    if not verdicts:
        headings = [line for line in page.splitlines() if line.startswith("#")]
        assert [line for line in headings if not line.endswith(")")] == [
            "## The paper's own ranking", "## What others report"
        ]  # fmt: skip
        assert not re.search(r"reproduced|better|worse|supported|undecidable", page)
        assert "These numbers say nothing about the paper." in page


def test_comparison_has_what_the_short_table_leaves_out(evidence: report.Evidence) -> None:
    details = {cells[0]: cells[1:] for cells in rows(report.pages(evidence)["comparison"]) if len(cells) == 8}
    for name, run in evidence.runs.items():
        training = run.training
        assert details[evidence.names[name]] == [
            run.metrics["f1_macro"].decimal,
            str(training.stopped_epoch),
            {"trial1": "30", "trial2": "56", "trial3": "58"}.get(name, "-"),
            str(training.best_epoch),
            str(training.recipe["batch_size"]),
            str(training.recipe["learning_rate"]),
            sentences.duration(evidence.timing[name]["seconds"]),
        ]


def test_repeats_has_a_row_for_each_split_and_the_suspects(evidence: report.Evidence) -> None:
    summary, page = evidence.repeats["improved"], report.pages(evidence)["repeats"]
    found = {cells[0]: cells[1:] for cells in rows(page)}
    for split, on in summary.splits.items():
        assert found[split][:2] == ["60", on.metrics["accuracy"].percent]
        assert found[split][4] == on.metrics["auroc"].decimal
        assert found[split][5] == on.metrics["accuracy_chosen"].percent
    over = summary.over_splits["accuracy"]
    assert over.estimate
    assert found["mean"][1] == over.estimate.percent
    assert (found["sd"][1], found["worst"][1], found["best"][1]) == tuple(
        f"{x:.1%}" for x in (over.sd, over.min, over.max)
    )
    assert f"on 2 splits{' (' if evidence.comparison.source != 'kaggle' else ''}" in page
    assert f"right side for {summary.held_out.percent} of {summary.held_out.n} images" in flat(page)
    again = summary.again
    assert f"{again.n} images were held out at least 2 times. Of these, {again.always_wrong} were wrong every" in flat(
        page
    )
    assert f"{again.sometimes_wrong} were wrong only sometimes." in flat(page)
    for suspect in summary.suspects:
        label = suspect.label.replace("down_syndrome", "Down syndrome")
        assert found[f"`{suspect.path}`"] == [label, str(suspect.times_held_out), f"{suspect.other_class:.3f}"]
    assert f"sure of the other class: {len(summary.suspects) or 'none'}." in flat(page)


def test_repeats_without_any_says_so(evidence: report.Evidence) -> None:
    page = render("repeats.md", evidence.comparison.source, repeats={})
    assert "No recipe has runs on several splits with the same seed." in page


def test_probes_stand_beside_the_runs(evidence: report.Evidence) -> None:
    found, page = evidence.probes, report.pages(evidence)["probes"]
    cells = rows(page)
    for probe in found.probes:
        assert [probe.sees, probe.model, probe.accuracy.percent, probe.accuracy_on_test.percent] in cells
    for name, run in found.runs.items():
        assert ["the picture", f"{evidence.names[name]}, ResNet-34", "-", run.accuracy.percent] in cells
        right = run.where_probe_is_right
        assert right
        assert [evidence.names[name], f"{right.percent}, n = {right.n}", "no such image"] in cells
    assert f"accuracy, all images (n = {found.n})" in page
    assert sentences.shortcuts(found, evidence.names) in flat(page)


def test_consistency_has_every_row(evidence: report.Evidence) -> None:
    page = report.pages(evidence)["consistency"]
    cells = rows(page)
    for row in evidence.consistency.rows:
        assert f"## {row.name}" in page
        assert f"{row.figure.right} right, {row.figure.accuracy}" in [cell for line in cells for cell in line]
        for sentence in sentences.row(row, evidence.consistency):
            assert sentence in flat(page)
        for search in row.searches:
            counts = [str(search.counts[key]) for key in ("precision", "recall", "f1")]
            if any(search.counts.values()):
                assert [search.label, *counts, str(search.averages), str(search.all)] in cells
    assert ["trial 2", "validation accuracy", "86.40%", "no number of 604"] in cells


def test_consistency_of_another_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper = load_paper(drawn_runs.REPOSITORY / "paper.yaml")
    row = paper.rows["trial1"].model_copy(update={"precision": None, "f1": None, "matrix": None})
    short = paper.model_copy(update={"rows": {"trial1": row}, "n": None})
    write_json(tmp_path / "findings.json", check(short).model_dump())
    report.main(tmp_path / "findings.json")
    page = capsys.readouterr().out
    assert page == render("consistency.md", "kaggle", consistency=check(short))
    assert "| matrices that give" in page
    assert "P 0.8362" not in page
    assert "R 0.8350" in page
    assert "Train and validation accuracy" not in page


def test_the_data_sheet_says_what_is_there_and_what_is_left_out(evidence: report.Evidence) -> None:
    page = report.pages(evidence)["data"]
    cells = rows(page)
    assert page.splitlines()[2] == "601 images, 600 of them readable."
    assert ("Source: Kaggle dataset `owner/slug`." in page) == (evidence.comparison.source == "kaggle")
    assert ["images", "301", "300"] in cells
    assert ["formats", "JPEG 300", "JPEG 300"] in cells
    assert "- `healthy/<b>bad</b>.jpg`: empty file" in page
    assert "Not images: `Thumbs.db`." in page
    assert ["features at a cosine distance of at most 0.05", "1", "near duplicate"] in cells
    assert ["`healthy/1.jpg`, `healthy/2.jpg`", "4", "0.0312"] in cells
    assert ["linked", "`healthy/1.jpg`, `healthy/2.jpg`", "0.03120"] in cells
    assert ["not linked", "none near", "-"] in cells
    assert "So every processor links the same images." in flat(page)
    assert "link 2 images to 1 groups, the largest of 2." in flat(page)
    assert "Pairs across the classes: 0." in flat(page)


def test_a_data_sheet_without_features_says_why() -> None:
    sheet = drawn_runs.data_sheet("sample", 60)
    sheet["duplicates"]["thresholds"]["feature_distance"] = sheet["duplicates"]["gap"] = None
    sheet["duplicates"]["by_group"]["healthy/1.jpg"]["pairs"][0]["feature_distance"] = None
    sheet["unreadable"] = sheet["other_files"] = []
    page = render("data.md", "sample", data=sheet)
    assert "Features were not compared: the network's weights are random." in page
    assert "cosine distance of" not in page
    assert ["`healthy/1.jpg`, `healthy/2.jpg`", "4", "-"] in rows(page)
    assert "No image." in page
    assert "Not images" not in page


def test_a_data_sheet_says_if_rounding_decides() -> None:
    sheet = drawn_runs.data_sheet("sample", 60)
    sheet["duplicates"]["gap"]["undecided"] = [sheet["duplicates"]["gap"]["below"]]
    page = flat(render("data.md", "sample", data=sheet))
    assert "**rounding decides 1 of them**: choose a threshold in a gap" in page
    assert "every processor links the same" not in page


def test_splits_has_each_split_beside_the_papers_table(evidence: report.Evidence) -> None:
    page = report.pages(evidence)["splits"]
    cells = rows(page)
    for name in drawn_runs.SPLITS:
        assert [name, "train", "210", "210", "420", "70.0%", "419", "1046", "1053"] in cells
        assert [name, "test", "30", "30", "60", "10.0%", "60", "147", "150"] in cells
        assert [name, "stratified", name[-1], "duplicates", "1", "2", "0", "7.05 (3 to 12)", "60", "2.35"] in cells
    assert "mean of 20 such splits" in flat(page)
    assert "fold" not in page


def test_splits_say_what_is_off_and_what_the_folds_are() -> None:
    facts: dict[str, Any] = drawn_runs.split_facts("kaggle", 60, 1)
    facts["off_paper"] = [{"label": "healthy", "subset": "train", "wanted": 1053, "is": 1052}]
    facts["folds"] = {"4": {"down_syndrome": 20, "healthy": 21, "n": 41, "share": 0.2, "groups": 40}}
    facts["warnings"] = ["6 test images of the class healthy: even if all were right, the interval reaches to 61%"]
    page = render("splits.md", "kaggle", splits={"papers": facts})
    assert f"- papers: {facts['warnings'][0]}." in flat(page)
    assert "- papers, train, healthy: 1052 images, 1053 in the paper." in page
    assert ["papers", "4", "20", "21", "41", "40"] in rows(page)


def test_the_active_run_is_explained_alone_where_no_other_saw_its_split(evidence: report.Evidence) -> None:
    alone = evidence.explain.model_copy(update={"beside": ()})
    header, *parts = rows(tables.explain(alone, evidence.names))
    assert header == ["the network sees", "test accuracy, active run", "n"]
    assert [row[0] for row in parts] == ["whole picture", "middle hidden", "only the middle"]


def test_children_says_the_change_with_n_and_intervals(evidence: report.Evidence) -> None:
    page = report.pages(evidence)["children"]
    recipe = evidence.children.recipes["improved"]
    cells = {row[0]: row[1:] for row in rows(page)}
    found = recipe.changes["children"].same_images["recall"]
    interval = f"({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    assert cells["recall, Down syndrome"][3] == f"{100 * found.value:+.1f} {interval}, n = {found.n}"
    assert cells["accuracy"][2] == f"{100 * recipe.changes['children'].by_split['accuracy'].mean:+.1f}"  # one pair
    band = recipe.kinds["duplicates"].by_similarity["healthy"][2]
    assert [str(band.times), f"{band.right.percent}, n = {band.right.n}"] == cells["0.60 to 0.75"][:2]
    group = evidence.groups["classes"]["healthy"]["settings"]["strict"]
    row = next(row for row in rows(page) if row[:2] == ["healthy", "strict"] and len(row) == 12)
    assert row[2:8] == [
        *(str(group["threshold"]), f"{group['nearest_merge']:.4f}"),
        *(str(group[key]) for key in ("groups", "images_in_groups", "largest")),
        str(group["joined"]["pairs"]),
    ]
    assert "`test_0002.jpg`" in page


def test_labels_says_each_rules_share_and_ceiling(evidence: report.Evidence) -> None:
    page = report.pages(evidence)["labels"]
    cells = {row[0]: row[1:] for row in rows(page)}
    for rule, name in tables.RULES.items():
        share = evidence.labels.named[rule]
        assert cells[name] == [share.percent, str(share.n), evidence.labels.ceiling[rule].percent]
    assert cells["estimated share of wrong labels"][2] == evidence.labels.ceiling["noise"].percent
    suspects = [row for row in rows(page) if row[0].startswith("`")]
    assert [row[0] for row in suspects] == [f"`{suspect.path}`" for suspect in evidence.labels.suspects]
    assert suspects


def test_without_faces_or_runs_the_page_says_so(evidence: report.Evidence) -> None:
    nothing = evidence.children.model_copy(update={"recipes": {}})
    without = replace(evidence, children=nothing, embed={**evidence.embed, "looked_for": False})
    page = report.pages(without)["children"]
    assert "No face was looked for" in page
    assert "No recipe has runs on several comparable splits." in page
