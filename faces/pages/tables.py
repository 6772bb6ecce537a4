"""Numbers in tables, as Markdown: what each page and the README show."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from faces.evidence import children
from faces.evidence.comparison import Comparison, Epochs
from faces.evidence.consistency import AVERAGED, Consistency, RowFindings
from faces.evidence.documents import Explained, Probes, RunMetrics
from faces.evidence.estimate import Estimate, Spread
from faces.evidence.labels import LabelNoise
from faces.evidence.repeats import Repeats
from faces.evidence.seeds import Seeds
from faces.pages.markdown import table
from faces.pages.sentences import counts, duration, listed

Runs = Mapping[str, RunMetrics]
Timing = Mapping[str, Mapping[str, Any]]  # of each run: seconds, epochs, hardware, versions

METRICS = {
    "accuracy": "accuracy",
    "precision": "precision (Down syndrome)",
    "recall": "recall (Down syndrome)",
    "f1": "F1 (Down syndrome)",
    "specificity": "specificity",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "precision_weighted": "precision (weighted)",
    "recall_weighted": "recall (weighted)",
    "f1_weighted": "F1 (weighted)",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "Matthews correlation",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
QUANTITIES = {
    "accuracy": "test accuracy",
    "precision": "test precision",
    "recall": "test recall",
    "f1": "test F1",
    "train_accuracy": "train accuracy",
    "validation_accuracy": "validation accuracy",
}
ON_SPLITS = {
    "accuracy": "accuracy",
    "recall": "recall, Down syndrome",
    "specificity": "specificity",
    "auroc": "AUROC",
    "accuracy_chosen": "accuracy, chosen threshold",
    "recall_at_point": "recall, operating point",
    "specificity_at_point": "specificity, operating point",
}
KINDS = {
    "duplicates": "ordinary splits",
    "children": "splits by children",
    "strict": "splits by children, strict",
}  # of groups that a split keeps together
RIGHT = {"down_syndrome": "recall", "healthy": "specificity"}
RULES = {"always_wrong": "always wrong", "sure": "sure", "confident": "confident learning"}
CLASSES = {"healthy": "healthy", "down_syndrome": "Down syndrome"}


def results(comparison: Comparison, runs: Runs, seeds: Seeds, found: children.Children) -> str:
    """Return one row per compared run, the paper's accuracy beside ours, and one per recipe and kind of several splits.

    A run whose recipe has several seeds is shown as their mean. Splits that keep children apart come first.
    """
    n = comparison.n
    header = (
        "run",
        f"accuracy, paper (n = {comparison.paper.n})",
        f"accuracy, ours (n = {n.test})",
        f"recall, Down syndrome (n = {n.test_down_syndrome})",
        f"AUROC (n = {n.test})",
    )
    rows = []
    for run, document in runs.items():
        recipe = comparison.recipes.get(run)
        over = seeds.recipes.get(recipe or "")
        names = ("accuracy", "recall", "auroc")
        estimates = {name: over.estimate(name, n.test) if over else document.metrics[name] for name in names}
        rows.append(
            (
                comparison.names[run] + (f", mean of {len(over.seeds)} seeds" if over else ""),
                comparison.of(run)["accuracy"].printed or "-",
                f"**{estimates['accuracy'].percent}**",
                estimates["recall"].percent,
                estimates["auroc"].decimal,
            )
        )
    for recipe, kind, of_kind in _on_several_splits(found):
        splits = of_kind.metrics
        rows.append(
            (
                f"{comparison.names.get(recipe, recipe)}, mean of {len(of_kind.runs)} {KINDS[kind]}",
                "-",
                f"**{_mean('accuracy', splits['accuracy'])}**",
                _mean("recall", splits["recall"]),
                _mean("auroc", splits["auroc"]),
            )
        )
    return table(header, rows)


def _on_several_splits(found: children.Children) -> list[tuple[str, str, children.Kind]]:
    """Return recipe, kind of splits and what was found, where a recipe has runs on several; ordinary splits last."""
    several = [
        (recipe, kind, of_kind)
        for recipe, of_recipe in found.recipes.items()
        for kind, of_kind in of_recipe.kinds.items()
        if len(of_kind.runs) > 1
    ]
    return sorted(several, key=lambda row: (row[0], row[1] == children.ORDINARY))


def details(comparison: Comparison, runs: Runs, timing: Timing) -> str:
    """Return what the results table leaves out of each compared run."""
    header = (
        "run",
        f"F1, macro (n = {comparison.n.test})",
        "stopped at epoch",
        "paper stopped at",
        "weights kept from",
        "batch size",
        "learning rate",
        "time",
    )
    rows = [
        (
            comparison.names[epochs.run],
            runs[epochs.run].metrics["f1_macro"].decimal,
            _stopped(epochs),
            epochs.paper or "-",
            epochs.kept,
            runs[epochs.run].training.recipe["batch_size"],
            runs[epochs.run].training.recipe["learning_rate"],
            duration(timing[epochs.run]["seconds"]),
        )
        for epochs in comparison.epochs
    ]
    return table(header, rows)


def _stopped(epochs: Epochs) -> str:
    over = epochs.over_seeds
    return f"{epochs.stopped}" + (f" ({over.min:.0f} to {over.max:.0f} in {over.n} seeds)" if over else "")


def over_seeds(seeds: Seeds, names: Mapping[str, str]) -> str:
    """Return what one run is worth: mean with interval, standard deviation and range over the seeds of each recipe."""
    shown = {"accuracy": "accuracy", "recall": "recall, Down syndrome", "specificity": "specificity"}
    rows = []
    for recipe, found in seeds.recipes.items():
        for name, title in shown.items():
            spread = found.metrics[name]
            ends = f"{spread.min:.1%} to {spread.max:.1%}"
            mean = found.estimate(name, seeds.n).percent
            rows.append((names.get(recipe, recipe), title, mean, f"{100 * (spread.sd or 0):.2f}", ends, spread.n))
        stop = found.stopped_epoch
        ends = f"{stop.min:.0f} to {stop.max:.0f}"
        rows.append((names.get(recipe, recipe), "stopped at epoch", f"{stop.mean:.1f}", f"{stop.sd:.2f}", ends, stop.n))
    return table(("recipe", "figure", "mean", "sd", "range", "seeds"), rows)


def quantities(comparison: Comparison) -> str:
    """Return each figure that the paper reports, beside ours."""
    header = ("run", "figure", "paper", "ours", f"{comparison.confidence:.0%} interval", "n", "verdict")
    rows = [
        (
            comparison.names[item.run],
            QUANTITIES[item.quantity],
            "" if item.paper is None else f"{item.paper:.2%}",
            f"{item.ours.value:.2%}",
            f"{100 * item.ours.low:.1f} to {100 * item.ours.high:.1f}",
            item.ours.n,
            (item.verdict or "") if comparison.source == "kaggle" else f"{comparison.source}: no verdict",
        )
        for item in comparison.quantities
    ]
    return table(header, rows)


def others(comparison: Comparison, found: children.Children, model: str) -> str:
    """Return what others report, with what is known of their data and their split, and beside them the run `model`.

    Of that run's recipe the means over splits are given, one row for each kind of split.
    """
    ours = [
        (
            f"this project; ResNet-34, `{recipe}`",
            _mean("accuracy", of_kind.metrics["accuracy"]),
            _mean("recall", of_kind.metrics["recall"]),
            f"the same set, {found.n} images" if found.source == "kaggle" else f"{found.source}, {found.n} images",
            f"{len(of_kind.runs)} {KINDS[kind]}, 70/20/10, published",
            "this repository",
        )
        for recipe, kind, of_kind in _on_several_splits(found)
        if any(model in of_one.runs.values() for of_one in found.recipes[recipe].kinds.values())
    ]
    rows = [
        (
            f"{other.name}; {other.model}",
            other.accuracy,
            other.recall or "-",
            f"{other.data}{f', {other.n} images' if other.n else ''}",
            other.split,
            other.source,
        )
        for other in comparison.others
    ]
    return table(("who; model", "accuracy", "recall", "data", "split", "source"), [*rows, *ours])


def metrics(runs: Runs) -> str:
    """Return every metric of each run; runs: by their names for people."""
    rows = []
    for name, title in METRICS.items():
        estimates = [run.metrics[name] for run in runs.values()]
        rows.append((title, *(estimate.decimal for estimate in estimates), _n(estimates)))
    return table(("metric", *runs, "n"), rows)


def _n(estimates: list[Estimate]) -> str:
    return " to ".join(map(str, sorted({min(e.n for e in estimates), max(e.n for e in estimates)})))


def card(run: RunMetrics) -> str:
    """Return every metric of one run."""
    header = ("metric", f"value ({run.settings.confidence:.0%} interval)", "n")
    return table(header, [(METRICS[name], metric.decimal, metric.n) for name, metric in run.metrics.items()])


def operating(runs: Runs) -> str:
    """Return each run at the threshold that was chosen on the validation subset; runs: by their names for people."""
    rows = [
        (
            name,
            f"{run.operating_point.threshold:.3f}",
            run.operating_point.test["recall"].percent,
            run.operating_point.test["specificity"].percent,
            run.operating_point.test["false_negatives"].count,
            run.operating_point.test["false_positives"].count,
        )
        for name, run in runs.items()
    ]
    return table(("run", "threshold", "recall", "specificity", "missed", "false alarms"), rows)


def explain(found: Explained, names: Mapping[str, str]) -> str:
    """Return the test accuracy with parts of the picture hidden, of the active run and the one beside it."""
    runs = (found, *found.beside)
    header = ("the network sees", *(f"test accuracy, {names.get(run.run, run.run)}" for run in runs), "n")
    rows = [
        (part.replace("_", " "), *(run.accuracy[part].percent for run in runs), estimate.n)
        for part, estimate in found.accuracy.items()
    ]
    return table(header, rows)


def times(timing: Timing, names: Mapping[str, str]) -> str:
    """Return time, epochs and hardware of each run."""
    rows = [
        (names.get(run, run), duration(facts["seconds"]), facts["epochs"], facts["hardware"])
        for run, facts in timing.items()
    ]
    return table(("run", "time", "epochs", "hardware"), rows)


def classes(sheet: Mapping[str, Any]) -> str:
    """Return what the images of each class are."""
    facts = ("images", "readable", "formats", "modes", "suffixes", "sizes", "bytes")
    found = sheet["classes"]
    return table(
        ("", *(CLASSES[label] for label in found)),
        [(fact, *(_fact(by_class[fact]) for by_class in found.values())) for fact in facts],
    )


def _fact(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name or '(none)'} {value:,.0f}" for name, value in fact.items())
    return str(fact)


def duplicate_rules(sheet: Mapping[str, Any]) -> str:
    """Return how many pairs of images each rule for duplicates found."""
    bits, cosine = (sheet["duplicates"]["thresholds"][key] for key in ("hash_distance", "feature_distance"))
    pairs = sheet["duplicates"]["pairs"]
    rows = [
        ("the same pixels", pairs["same_pixels"], "duplicate"),
        (f"perceptual hashes that differ in at most {bits} of 64 bits", pairs["near_by_hash"], "near duplicate"),
    ]
    if cosine is not None:
        rows += [
            (f"features at a cosine distance of at most {cosine}", pairs["near_by_features"], "near duplicate"),
            ("both of the last two", pairs["near_by_both"], "near duplicate"),
        ]
    return table(("rule", "pairs", "called"), rows)


def gap(sheet: Mapping[str, Any]) -> str:
    """Return the pairs of images whose features are nearest to the threshold on either side."""
    found = sheet["duplicates"]["gap"]
    sides = [("linked", found["below"]), ("not linked", found["above"])]
    rows = [
        (side, *([f"`{pair['a']}`, `{pair['b']}`", f"{pair['feature_distance']:.5f}"] if pair else ["none near", "-"]))
        for side, pair in sides
    ]
    return table(("", "nearest pair", "cosine distance"), rows)


def duplicates(sheet: Mapping[str, Any]) -> str:
    """Return each group of duplicates, and how far its pairs are from each other."""
    rows = []
    for group in sheet["duplicates"]["by_group"].values():
        pairs = group["pairs"]
        cosines = [pair["feature_distance"] for pair in pairs]
        rows.append(
            (
                ", ".join(f"`{path}`" for path in group["images"]),
                ", ".join("same pixels" if pair["same_pixels"] else str(pair["hash_distance"]) for pair in pairs),
                ", ".join("-" if cosine is None else f"{cosine:.4f}" for cosine in cosines),
            )
        )
    return table(("group", "differing bits", "cosine distance"), rows)


def subsets(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the counts of each split's subsets beside the paper's (Table I)."""
    header = ("split", "subset", "Down syndrome", "healthy", "n", "share", "groups")
    rows = [
        (
            name,
            subset,
            *(row[label] for label in ("down_syndrome", "healthy", "n")),
            f"{row['share']:.1%}",
            row["groups"],
            *(split["paper"][subset][label] for label in ("down_syndrome", "healthy")),
        )
        for name, split in splits.items()
        for subset, row in split["subsets"].items()
    ]
    return table((*header, "paper: Down syndrome", "paper: healthy"), rows)


def leaks(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how each split was made, and what ignoring its groups would have done to it."""
    header = (
        "split",
        "scheme",
        "seed",
        "stays together",
        "groups of several images",
        "largest",
        "groups in several subsets",
        "test images with another of their group in training",
        "of",
        "points of accuracy",
    )
    rows = []
    for name, split in splits.items():
        without = split["ignoring_groups"]
        leaked = without["leaked_test_images"]
        rows.append(
            (
                name,
                split["scheme"],
                split["seed"],
                split["grouped_by"],
                split["groups"]["of_several_images"],
                split["groups"]["largest"],
                split["groups"]["in_several_subsets"],
                f"{leaked['mean']} ({leaked['min']} to {leaked['max']})",
                without["n_test"],
                without["at_most_points_of_accuracy"],
            )
        )
    return table(header, rows)


def folds(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the counts of each split's folds; nothing where there are none."""
    rows = [
        (name, fold, row["down_syndrome"], row["healthy"], row["n"], row["groups"])
        for name, split in splits.items()
        for fold, row in split.get("folds", {}).items()
    ]
    return table(("split", "fold", "Down syndrome", "healthy", "n", "groups"), rows) if rows else ""


def probes(found: Probes, names: Mapping[str, str]) -> str:
    """Return the accuracy of each probe, and of the runs below them."""
    rows = [(probe.sees, probe.model, probe.accuracy.percent, probe.accuracy_on_test.percent) for probe in found.probes]
    rows += [
        ("the picture", f"{names[name]}, ResNet-34", "-", run.accuracy.percent) for name, run in found.runs.items()
    ]
    n_test = found.probes[0].accuracy_on_test.n
    return table(("sees", "model", f"accuracy, all images (n = {found.n})", f"test subset (n = {n_test})"), rows)


def where_probe(found: Probes, names: Mapping[str, str]) -> str:
    """Return each run's test accuracy where the strongest probe is right, and where it is wrong."""

    def cell(estimate: Estimate | None) -> str:
        return f"{estimate.percent}, n = {estimate.n}" if estimate else "no such image"

    rows = [
        (names[name], cell(run.where_probe_is_right), cell(run.where_probe_is_wrong))
        for name, run in found.runs.items()
    ]
    return table(("run", "accuracy where the probe is right", "where it is wrong"), rows)


def on_splits(summary: Repeats) -> str:
    """Return a row for each split, then mean and standard deviation."""
    rows: list[tuple[object, ...]] = [
        (split, on.metrics["accuracy"].n, *(_shown(name, on.metrics[name]) for name in ON_SPLITS))
        for split, on in summary.splits.items()
    ]
    over = summary.over_splits
    rows.append(("mean", "", *(_mean(name, over[name]) for name in ON_SPLITS)))
    rows.append(("sd", "", *(_plain(name, over[name].sd) for name in ON_SPLITS)))
    rows.append(("worst", "", *(_plain(name, over[name].min) for name in ON_SPLITS)))
    rows.append(("best", "", *(_plain(name, over[name].max) for name in ON_SPLITS)))
    return table(("split", "n", *ON_SPLITS.values()), rows)


def _shown(name: str, estimate: Estimate) -> str:
    return estimate.decimal if name == "auroc" else estimate.percent


def _mean(name: str, spread: Spread) -> str:
    return _plain(name, spread.mean) if spread.estimate is None else _shown(name, spread.estimate)


def _plain(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if name == "auroc" else f"{value:.1%}"


def suspects(summary: Repeats) -> str:
    """Return the images that may carry the wrong label."""
    rows = [
        (f"`{row.path}`", CLASSES[row.label], row.times_held_out, f"{row.other_class:.3f}") for row in summary.suspects
    ]
    return table(("image", "label", "times held out", "mean probability of the other class"), rows)


def paper_rows(found: Consistency) -> str:
    """Return what each row of the paper's table reports, and what it can come from."""
    header = (
        "row",
        "accuracy",
        "needs right",
        "P, R, F1 need",
        "accuracy then",
        "printed matrix",
        "possible",
    )
    return table(
        header,
        [
            (
                row.name,
                row.reported.get("accuracy", ""),
                counts(row.accuracy_alone) if row.accuracy_alone else "",
                listed(map(str, row.implied_right), "or") or "none",
                listed(row.implied_accuracy, "or"),
                f"{row.figure.right} right, {row.figure.accuracy}" if row.figure else "",
                "yes" if row.consistent else "no",
            )
            for row in found.rows
        ],
    )


def searches(row: RowFindings) -> str:
    """Return how many matrices give each figure of a row, without the averagings that give none."""
    keys = [key for key in AVERAGED if key in row.reported]
    letters = {"precision": "P", "recall": "R", "f1": "F1"}
    header = ("matrices that give", *(f"{letters[key]} {row.reported[key]}" for key in keys))
    found = [search for search in row.searches if any(search.counts.values())]
    return table(
        (*header, "all of these", "and the accuracy"),
        [(search.label, *(search.counts[key] for key in keys), search.averages, search.all) for search in found]
        or [("none of the figures", *("" for _ in keys), "", "")],
    )


def proportions(found: Consistency) -> str:
    """Return which counts of images can give the train and validation accuracies."""
    names = {row.row: row.name for row in found.rows}
    rows = [
        (names[item.row], QUANTITIES[item.quantity], item.reported, f"{counts(item.counts)} of {item.n}")
        for item in found.proportions
    ]
    return table(("row", "figure", "reported", "images right"), rows)


def faces_found(embed: Mapping[str, Any]) -> str:
    """Return in how many images of each class a face was found."""
    rows = [
        (CLASSES[label], facts["n"], facts["with_a_face"], facts["with_several"])
        for label, facts in embed["classes"].items()
    ]
    return table(("class", "images", "with a face", "with several"), rows)


def groups(found: Mapping[str, Any]) -> str:
    """Return each setting's groups of each class, and what file numbers say of them."""
    header = (
        *("class", "setting", "from similarity", "nearest merge", "groups", "images in them", "largest"),
        *("pairs joined", "of one child", "pairs left apart", "of one child, apart", "found"),
    )
    rows = []
    for label, facts in found["classes"].items():
        for setting, of in facts["settings"].items():
            margin = of["nearest_merge"]
            rows.append(
                (
                    *(CLASSES[label], setting, of["threshold"], "-" if margin is None else f"{margin:.4f}"),
                    *(of["groups"], of["images_in_groups"], of["largest"]),
                    *(of["joined"]["pairs"], _estimated(of["joined"]["of_one_child"])),
                    *(of["apart"]["pairs"], _estimated(of["apart"]["of_one_child"]), _estimated(of["found"])),
                )
            )
    return table(header, rows)


def _estimated(estimate: Mapping[str, Any] | None) -> str:
    return "-" if estimate is None else Estimate(**estimate).percent


def by_similarity(recipe: children.Recipe, label: str) -> str:
    """Return what is found of a class's images, by the similarity of the nearest training face and kind of split."""
    header = [f"nearest {CLASSES[label]} training face"]
    for kind in recipe.kinds:
        header += [f"scores, {KINDS[kind]}", f"{RIGHT[label]}, {KINDS[kind]}"]
    rows = []
    for number, (low, high) in enumerate(pairwise(children.BANDS)):
        bands = [kind.by_similarity[label][number] for kind in recipe.kinds.values()]
        rows.append([f"{low:.2f} to {high:.2f}", *(cell for band in bands for cell in (band.times, _right(band)))])
    return table(header, rows)


def seen(recipe: children.Recipe) -> str:
    """Return what is found of images whose group has a training image, and of the others, by setting."""
    header = ["class", "setting", "a training image in the group"]
    for kind in recipe.kinds:
        header += [f"scores, {KINDS[kind]}", f"right, {KINDS[kind]}"]
    rows = []
    first = next(iter(recipe.kinds.values()))
    for setting, by_class in first.seen.items():
        for label in by_class:
            for word in ("yes", "no"):
                bands = [
                    (kind.seen if word == "yes" else kind.unseen)[setting][label] for kind in recipe.kinds.values()
                ]
                cells = (cell for band in bands for cell in (band.times, _right(band)))
                rows.append([CLASSES[label], setting, word, *cells])
    return table(header, rows)


def _right(band: children.Band) -> str:
    return f"{band.right.percent}, n = {band.right.n}" if band.times else "-"


def children_changes(recipe: children.Recipe) -> str:
    """Return each metric by kind of split, and the change from the ordinary ones, by splits and by images."""
    header = ["metric", *(f"{KINDS[kind]}, n = {len(found.runs)}" for kind, found in recipe.kinds.items())]
    for change in recipe.changes.values():
        header += [f"change, {change.by_split['accuracy'].n} pairs of splits", "change, same images"]
    rows = []
    for metric in children.METRICS:
        row = [ON_SPLITS[metric], *(_mean(metric, found.metrics[metric]) for found in recipe.kinds.values())]
        for change in recipe.changes.values():
            row += [_points(change.by_split[metric]), _points(change.same_images.get(metric))]
        rows.append(row)
    return table(header, rows)


def _points(found: Spread | Estimate | None) -> str:
    """Return a difference of fractions in points, with its interval if it has one."""
    if found is None:
        return "-"
    value = found.mean if isinstance(found, Spread) else found.value
    if found.low is None or found.high is None:
        return f"{100 * value:+.1f}"
    n = f", n = {found.n}" if isinstance(found, Estimate) else ""
    return f"{100 * value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f}){n}"


def label_noise(found: LabelNoise) -> str:
    """Return what each rule names, and the ceiling that follows."""
    rows = [
        (name, share.percent, share.n, found.ceiling[rule].percent)
        for rule, name in {**RULES, "noise": "estimated share of wrong labels"}.items()
        for share in [found.noise if rule == "noise" else found.named[rule]]
    ]
    return table(("rule", "images named", "of", "ceiling of the accuracy"), rows)


def label_suspects(found: LabelNoise) -> str:
    """Return the images that a rule names, the most suspected first."""
    header = ("image", "label", "held out", "wrong", "mean probability of the other class", "named by")
    rows = [
        (
            f"`{row.path}`",
            CLASSES[row.label],
            row.times_held_out,
            row.times_wrong,
            f"{row.other_class:.3f}",
            ", ".join(RULES[rule] for rule in row.rules),
            "-" if row.faces_of_other_class is None else row.faces_of_other_class,
            "yes" if row.both_labels else "no",
        )
        for row in found.suspects
    ]
    faces = f"of the {found.most_similar.faces} most similar faces, of the other class"
    return table((*header, faces, "group of both labels"), rows)
