"""The split: its promises as properties, and the stage on tables of images made here."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from faces.cli import InputError
from faces.images import splits
from faces.pages.report import render
from stages import split

ROOT = Path(__file__).parents[2]
LABELS = ("down_syndrome", "healthy")
SHARES = (0.7, 0.2, 0.1)


@st.composite
def collections(draw: st.DrawFn, mixed: bool = False) -> list[splits.Image]:
    """Draw images in groups of 1 to 6, most of them alone; mixed groups hold both classes."""
    sizes = draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 6]), min_size=8, max_size=60))
    images = []
    for number, size in enumerate(sizes):
        label = LABELS[number % 2]
        both = mixed and size > 1 and draw(st.booleans())
        for member in range(size):
            own = LABELS[member % 2] if both else label
            images.append(splits.Image(f"{own}/{number}-{member}.jpg", own, f"group {number}"))
    return draw(st.permutations(images))


def quotas(images: list[splits.Image], shares: tuple[float, ...] = SHARES) -> dict[str, list[int]]:
    totals = Counter(image.label for image in images)
    return {label: splits.counts(totals[label], shares) for label in LABELS}


def parts(images: list[splits.Image], seed: int = 1, shares: tuple[float, ...] = SHARES) -> dict[str, int]:
    placed = splits.assign(images, quotas(images, shares), seed, "subset")
    return dict(zip((image.path for image in images), placed, strict=True))


def largest(images: list[splits.Image]) -> int:
    return max(Counter(image.group for image in images).values())


@settings(deadline=None)
@given(collections(mixed=True), st.integers(0, 2**32 - 1))
def test_every_image_has_one_subset_and_no_group_has_two(images: list[splits.Image], seed: int) -> None:
    placed = splits.assign(images, quotas(images), seed, "subset")
    assert len(placed) == len(images)
    assert set(placed) <= {0, 1, 2}
    assert len({(image.group, part) for image, part in zip(images, placed, strict=True)}) == len(
        {image.group for image in images}
    )


def off_target(images: list[splits.Image], placed: dict[str, int], shares: tuple[float, ...]) -> float:
    totals = Counter(image.label for image in images)
    counts = Counter((image.label, placed[image.path]) for image in images)
    return max(
        abs(counts[label, part] - share * totals[label]) for label in LABELS for part, share in enumerate(shares)
    )


@settings(deadline=None)
@given(collections(), st.integers(0, 2**32 - 1), st.sampled_from([SHARES, (0.5, 0.25, 0.25), (0.2,) * 5]))
def test_class_shares_are_within_one_groups_size(
    images: list[splits.Image], seed: int, shares: tuple[float, ...]
) -> None:
    assert off_target(images, parts(images, seed, shares), shares) <= largest(images)


@settings(deadline=None)
@given(collections(mixed=True), st.integers(0, 2**32 - 1))
def test_groups_of_both_classes_are_evened_out_by_the_others(images: list[splits.Image], seed: int) -> None:
    group_labels = {(image.group, image.label) for image in images}
    mixed = {group for group, count in Counter(group for group, _ in group_labels).items() if count > 1}
    inside = sum(image.group in mixed for image in images)
    totals = Counter(image.label for image in images)
    assume(inside <= min(totals[label] for label in LABELS))
    assert off_target(images, parts(images, seed), SHARES) <= 2 * largest(images)


@settings(deadline=None)
@given(collections(), st.integers(0, 2**32 - 1))
def test_counts_are_exact_where_single_images_can_even_out_the_groups(images: list[splits.Image], seed: int) -> None:
    extra = [splits.Image(f"{label}/x{n}", label, f"x {label} {n}") for label in LABELS for n in range(200)]
    placed = parts(images + extra, seed)
    counts = Counter((image.label, placed[image.path]) for image in images + extra)
    for label, quota in quotas(images + extra).items():
        assert [counts[label, part] for part in range(3)] == quota


@settings(deadline=None)
@given(collections(mixed=True), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(images: list[splits.Image], random: Any) -> None:
    shuffled = images.copy()
    random.shuffle(shuffled)
    assert parts(images) == parts(shuffled)


@settings(max_examples=200, deadline=None)
@given(collections(), st.data())
@example([splits.Image(f"{label}/{n}", label, f"{label}/{n}") for label in LABELS for n in range(40)], None)
def test_one_image_more_moves_few_others(images: list[splits.Image], data: Any) -> None:
    group = "a new group" if data is None else data.draw(st.sampled_from([image.group for image in images] + ["new"]))
    label = next((image.label for image in images if image.group == group), "healthy")
    before, after = parts(images), parts([*images, splits.Image("new.jpg", label, group)])
    moved = sum(after[path] != part for path, part in before.items())
    assert moved <= 3 + 4 * (largest(images) if data else 0)


def test_one_image_more_moves_few_of_three_thousand() -> None:
    images = [splits.Image(f"{label}/{n}", label, f"{label}/{n // 2}") for label in LABELS for n in range(100)]
    images += [splits.Image(f"{label}/{n}", label, f"single {n}") for label in LABELS for n in range(100, 1500)]
    before, after = parts(images), parts([*images, splits.Image("new.jpg", "healthy", "new")])
    assert sum(after[path] != part for path, part in before.items()) <= 3


def test_another_seed_gives_another_split() -> None:
    images = [splits.Image(f"{label}/{n}", label, f"{label}/{n}") for label in LABELS for n in range(100)]
    assert parts(images, seed=1) != parts(images, seed=2)
    assert parts(images, seed=1) == parts(images, seed=1)


@settings(deadline=None)
@given(st.integers(0, 5000), st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_counts_sum_up_and_differ_by_less_than_one_from_their_shares(n: int, shares: list[float]) -> None:
    whole = splits.counts(n, shares)
    assert sum(whole) == n
    assert all(abs(count - n * share / sum(shares)) < 1 + 1e-6 for count, share in zip(whole, shares, strict=True))


def test_the_split_is_the_same_on_every_machine() -> None:
    images = [splits.Image(f"{label}/{n}", label, f"{label}/{n}") for label in LABELS for n in range(10)]
    assert "".join(map(str, parts(images).values())) == "00002001100000012010"


# The stage


def run_split(folder: Path, sizes: dict[str, int], **split_params: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the stage on a table of images: every tenth image of a class shares the group of the one before it."""
    rows = []
    for label, n in sizes.items():
        for number in range(n):
            name = f"{label}/{number:04}.jpg"
            group = rows[-1]["group"] if number % 10 == 9 else name
            rows.append(
                {"path": name, "label": label, "y_true": int(label == LABELS[0]), "readable": 1, "group": group}
            )
    bad = "healthy/bad.jpg"
    rows.append({"path": bad, "label": "healthy", "y_true": 0, "readable": 0, "group": bad})
    return run_rows(folder, rows, **split_params)


def run_rows(
    folder: Path,
    rows: list[dict[str, Any]],
    child: Callable[[pd.DataFrame], Any] = lambda groups: groups.duplicates,
    **split_params: Any,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the stage on these rows of a table of images; child: makes the groups of children."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["source"] = split_params.pop("source", "sample")
    params["split"]["folds"] = split_params.pop("folds", 0)
    params["splits"]["seed1"].update(split_params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
    groups = pd.DataFrame({"path": [row["path"] for row in rows], "duplicates": [row["group"] for row in rows]})
    groups.assign(children=child(groups)).to_csv(folder / "groups.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        split.main("seed1", Path("images.csv"), Path("o/seed1.csv"), Path("groups.csv"), Path("o/seed1.json"))
    return pd.read_csv(folder / "o/seed1.csv"), json.loads((folder / "o/seed1.json").read_text())


def test_the_table_holds_the_readable_images_sorted(tmp_path: Path) -> None:
    table, facts = run_split(tmp_path, {"healthy": 100, "down_syndrome": 120})
    assert list(table.columns) == ["path", "label", "y_true", "group", "subset"]
    assert list(table.path) == sorted(table.path)
    assert len(table) == facts["n"] == 220
    assert table.groupby("group").subset.nunique().max() == 1
    assert Counter(zip(table.label, table.subset, strict=True)) == {
        **{("healthy", "train"): 70, ("healthy", "validation"): 20, ("healthy", "test"): 10},
        **{("down_syndrome", "train"): 84, ("down_syndrome", "validation"): 24, ("down_syndrome", "test"): 12},
    }
    assert facts["subsets"]["test"] == {
        **{"down_syndrome": 12, "healthy": 10, "n": 22, "share": 0.1},
        "groups": table[table.subset == "test"].group.nunique(),
    }
    assert facts["groups"] == {
        **{"n": 198, "of_several_images": 22, "largest": 2},
        **{"of_both_classes": 0, "in_several_subsets": 0},
    }
    assert facts["off_target"] == []


def test_the_papers_scheme_gives_table_1(tmp_path: Path) -> None:
    table, facts = run_split(tmp_path, {"healthy": 1500, "down_syndrome": 1500}, scheme="paper", source="kaggle")
    counts = Counter(zip(table.label, table.subset, strict=True))
    for label, row in {"down_syndrome": (1046, 307, 147), "healthy": (1053, 297, 150)}.items():
        assert tuple(counts[label, subset] for subset in ("train", "validation", "test")) == row
    assert facts["off_paper"] == []
    for label, row in {"down_syndrome": (1046, 307, 147), "healthy": (1053, 297, 150)}.items():
        assert tuple(facts["paper"][subset][label] for subset in ("train", "validation", "test")) == row


def test_the_papers_scheme_takes_a_missing_image_from_training_and_says_so(tmp_path: Path) -> None:
    _, facts = run_split(tmp_path, {"healthy": 1499, "down_syndrome": 1500}, scheme="paper")
    assert facts["off_paper"] == [{"label": "healthy", "subset": "train", "wanted": 1053, "is": 1052}]
    assert facts["off_target"] == []


def test_the_papers_scheme_refuses_much_smaller_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Table I has 1500 down_syndrome images, the data has 60; use .*stratified"):
        run_split(tmp_path, {"healthy": 60, "down_syndrome": 60}, scheme="paper")
    assert not (tmp_path / "o").exists()


def test_too_few_images_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class healthy: its 3 readable images leave none for the test subset"):
        run_split(tmp_path, {"healthy": 3, "down_syndrome": 60})
    with pytest.raises(InputError, match="class healthy: its 0 readable images leave none"):
        run_split(tmp_path, {"down_syndrome": 60})


def test_folds_divide_the_same_groups_again(tmp_path: Path) -> None:
    table, facts = run_split(tmp_path, {"healthy": 100, "down_syndrome": 100}, folds=5)
    assert list(table.columns)[-1] == "fold"
    assert set(table.fold) == {0, 1, 2, 3, 4}
    assert table.groupby("group").fold.nunique().max() == 1
    assert (table.groupby(["fold", "label"]).size() == 20).all()
    assert facts["folds"]["4"]["n"] == 40
    assert table.groupby("fold").subset.nunique().min() > 1  # not the subsets over again
    without, _ = run_split(tmp_path, {"healthy": 100, "down_syndrome": 100})
    assert (without.subset == table.subset).all()


@pytest.mark.parametrize("source", ["sample", "kaggle"])
def test_the_facts_say_whose_images_these_are(tmp_path: Path, source: str) -> None:
    _, facts = run_split(tmp_path, {"healthy": 50, "down_syndrome": 50}, source=source)
    assert facts["source"] == source


def test_the_page_has_the_facts_numbers(tmp_path: Path) -> None:
    _, facts = run_split(tmp_path, {"healthy": 1499, "down_syndrome": 1500}, scheme="paper", folds=5)
    page = " ".join(render("splits.md", facts["source"], splits={"seed1": facts}).split())
    assert "| seed1 | train | 1046 | 1052 | 2098 | 70.0% |" in page
    assert "- seed1, train, healthy: 1052 images, 1053 in the paper." in page
    assert "| seed1 | 4 | 300 | 299 | 599 |" in page


def of_five(groups: pd.DataFrame) -> Any:
    """Return groups of five images of a class, whose names follow each other."""
    return groups.path.str.replace(r"\d{4}", lambda number: f"{int(number[0]) // 5 * 5:04}", regex=True)


def test_no_child_is_on_two_sides_and_the_classes_keep_their_shares(tmp_path: Path) -> None:
    sizes = {"healthy": 150, "down_syndrome": 200}
    table, facts = run_split(tmp_path, sizes, child=of_five, groups="children")
    assert facts["grouped_by"] == "children"
    assert facts["groups"]["largest"] == 5
    assert table.group.nunique() == 70
    assert table.groupby("group").subset.nunique().max() == 1
    for label, n in sizes.items():
        counts = table[table.label == label].subset.value_counts()
        for subset, share in zip(splits.SUBSETS, SHARES, strict=True):
            assert abs(counts[subset] - share * n) <= 5
    by_duplicates, facts = run_split(tmp_path, sizes, child=of_five)
    assert facts["grouped_by"] == "duplicates"
    assert by_duplicates.groupby(of_five(by_duplicates)).subset.nunique().max() > 1


def test_a_class_with_one_child_only_is_one_line(tmp_path: Path) -> None:
    def one(groups: pd.DataFrame) -> Any:
        return groups.path.where(groups.path.str.startswith("healthy"), "down_syndrome/0000.jpg")

    message = r"class down_syndrome: 60 images in 1 groups of children leave a part empty .* group\.children"
    with pytest.raises(InputError, match=message):
        run_split(tmp_path, {"healthy": 60, "down_syndrome": 60}, child=one, groups="children")
    assert not (tmp_path / "o").exists()


def test_groups_of_other_images_are_one_line(tmp_path: Path) -> None:
    def gone(groups: pd.DataFrame) -> Any:
        groups.loc[0, "path"] = "healthy/renamed.jpg"
        return groups.duplicates

    with pytest.raises(InputError, match=r"groups\.csv has no healthy/0000\.jpg; run `dvc repro`"):
        run_split(tmp_path, {"healthy": 60, "down_syndrome": 60}, child=gone)


def test_images_without_torch_or_pillow(tmp_path: Path) -> None:
    """The split reads a table: a change to how images are decoded or embedded must not redo it."""
    import subprocess
    import sys

    code = "import sys, stages.split; print([m for m in ('torch', 'PIL', 'faiss') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# A class that cannot be spread, and what is easily misread


def run_groups(folder: Path, groups: dict[str, list[int]], **params: Any) -> dict[str, Any]:
    """Run the stage on images in groups of these sizes, by class."""
    rows = [
        {"path": f"{label}/{g}-{n}.jpg", "label": label, "y_true": 0, "readable": 1, "group": f"{label}/{g}-0.jpg"}
        for label, sizes in groups.items()
        for g, size in enumerate(sizes)
        for n in range(size)
    ]
    return run_rows(folder, rows, **params)[1]


def test_a_class_of_near_duplicates_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"class healthy: 20 images in 1 groups of duplicates leave a part empty "
        r"\(train 20, validation 0, test 0\); add images of other scenes, or lower audit.hash_distance",
    ):
        run_groups(tmp_path, {"healthy": [20], "down_syndrome": [1] * 60})
    assert not (tmp_path / "o").exists()
    facts = run_groups(tmp_path, {"healthy": [8] + [1] * 12, "down_syndrome": [1] * 60})
    assert facts["subsets"]["test"]["healthy"] == 2


def test_a_fold_without_a_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"class healthy: 24 images in 7 groups .*fold 0 "):
        run_groups(tmp_path, {"healthy": [18, 1, 1, 1, 1, 1, 1], "down_syndrome": [1] * 60}, folds=10)


def test_small_and_uneven_test_subsets_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_groups(tmp_path, {"healthy": [1] * 50, "down_syndrome": [1] * 1000})
    small, uneven = facts["warnings"]
    lowest = binomtest(5, 5).proportion_ci(0.95, method="wilson").low
    assert small == (
        "5 test images of the class healthy: even if all were right, the 95% interval of the specificity would "
        f"reach down to {lowest:.0%}"
    )
    assert uneven == (
        "100 of 105 test images are down_syndrome: always to answer down_syndrome is right on 95% of them; "
        "read recall, specificity and AUROC, not accuracy"
    )
    assert capsys.readouterr().err == f"warning: seed1: {small}\nwarning: seed1: {uneven}\n"
    assert "warnings" not in run_groups(tmp_path, {"healthy": [1] * 200, "down_syndrome": [1] * 300})


# The source's own split


def own_split(**counts: int) -> list[dict[str, Any]]:
    return [
        {"path": f"{label}/{subset}/{n}.jpg".replace("//", "/"), "label": label, "y_true": 0, "readable": 1}
        | {"group": f"{label}/{subset}/{n}.jpg"}
        for label in LABELS
        for subset, count in counts.items()
        for n in range(count)
    ]


def test_the_sources_own_split_is_used(tmp_path: Path) -> None:
    rows = own_split(train=40, validation=20, test=20)
    rows[0]["group"] = rows[-1]["group"] = "one"
    table, facts = run_rows(tmp_path, rows, scheme="folders")
    assert (table.subset == table.path.str.split("/").str[1]).all()
    assert facts["scheme"] == "folders"
    assert facts["off_target"] == []
    assert facts["groups"]["in_several_subsets"] == 1
    assert facts["warnings"] == [
        "1 groups of duplicates lie in several subsets; the scheme stratified keeps them together"
    ]


def test_a_split_of_the_sources_own_that_is_not_used_is_named(tmp_path: Path) -> None:
    table, facts = run_rows(tmp_path, own_split(train=140, validation=40, test=20))
    assert facts["warnings"] == [
        "the split of the source's own folders (train 280, validation 80, test 40) is not used; scheme: folders uses it"
    ]
    assert Counter(table.subset) == {"train": 280, "validation": 80, "test": 40}


def test_a_split_of_the_sources_own_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folders: 6 of 106 images lie in none of the folders train, valid"):
        run_rows(tmp_path, [*own_split(train=30, validation=10, test=10), *rows_of(3)], scheme="folders")
    with pytest.raises(InputError, match=r"class down_syndrome: .*\(train 30, validation 0, test 10\);.*stratified"):
        run_rows(tmp_path, own_split(train=30, test=10), scheme="folders")


def rows_of(n: int) -> list[dict[str, Any]]:
    return [
        {"path": f"{label}/{i}.jpg", "label": label, "y_true": 0, "readable": 1, "group": f"{label}/{i}.jpg"}
        for label in LABELS
        for i in range(n)
    ]
