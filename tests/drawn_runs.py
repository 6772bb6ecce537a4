"""A made-up set of finished runs, in the pipeline's own layout and from its own code, to draw and report on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from faces.evidence import children, comparison, consistency, labels, probes, repeats
from faces.evidence.documents import Beside, Probe, Probes, RunMetrics
from faces.evidence.estimate import Estimate
from faces.evidence.metrics import curves, evaluate_predictions, headline
from faces.evidence.paper import load_paper
from faces.evidence.seeds import Seeds, summarise
from faces.files import write_json
from faces.naming import LABELS
from faces.params import Evaluate

REPOSITORY = Path(__file__).parents[1]

TRIALS = {"trial1": 1.6, "trial2": 2.2, "trial3": 1.5, "improved": 2.0}  # how far the two classes' scores lie apart
RUNS = TRIALS | {"improved-split2": 2.4}
EPOCHS = {"trial1": 9, "trial2": 23, "trial3": 17, "improved": 16, "improved-split2": 16}
SPLITS = ("seed1", "seed2")
EVALUATE = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.95)


def make(root: Path, source: str = "kaggle", n: int = 300) -> None:
    """Write params.yaml, models/, metrics/ and plots/ below `root`, as the stages before `report` and `plot` do."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    params["runs"] = {name: run for name, run in params["runs"].items() if name in RUNS}
    params["splits"] = {name: params["splits"][name] for name in SPLITS}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    metrics = root / "metrics"
    documents, predictions = {}, {}
    for seed, name in enumerate(RUNS):
        facts, documents[name], predictions[name] = finished_run(name, source, n, seed)
        _write_run(root, facts, predictions[name], seed)
        write_json(metrics / "runs" / f"{name}.json", documents[name].model_dump())
    active = documents["trial2"].model_copy(update={"run": "active"})
    write_json(metrics / "active.json", active.model_dump())
    write_json(metrics / "model.json", {"improved": headline(documents["improved"])})
    for below in ("plots/history/trial2.csv", *(f"plots/curves/trial2/{kind}.csv" for kind in curve_names())):
        own = below.replace("history/trial2", "active/history").replace("curves/trial2", "active/curves")
        (root / own).parent.mkdir(parents=True, exist_ok=True)
        (root / own).write_bytes((root / below).read_bytes())

    paper = load_paper(REPOSITORY / "paper.yaml")
    compared = comparison.compare(
        paper, {name: documents[name] for name in TRIALS}, predictions, {}, without_seeds(source), EVALUATE
    )
    splits = {"seed1": "improved", "seed2": "improved-split2"}
    summary = repeats.summarise(
        {split: documents[name] for split, name in splits.items()},
        {split: predictions[name] for split, name in splits.items()},
        EVALUATE.confidence,
    )
    write_json(metrics / "comparison.json", compared.model_dump())
    write_json(metrics / "seeds.json", without_seeds(source).model_dump())
    write_json(metrics / "consistency.json", consistency.check(paper).model_dump())
    write_json(metrics / "repeats.json", {"improved": summary.model_dump()})
    write_json(metrics / "embed.json", faces_found(source, n))
    write_json(metrics / "groups.json", face_groups(source, n))
    write_json(metrics / "children.json", seen(predictions, source).model_dump())
    write_json(metrics / "labels.json", label_noise(predictions, source).model_dump())
    write_json(metrics / "probes.json", shortcuts(documents, source).model_dump())
    write_json(metrics / "explain.json", explained(source))
    write_json(metrics / "data.json", data_sheet(source, n))
    for seed, name in enumerate(SPLITS, start=1):
        write_json(metrics / "splits" / f"{name}.json", split_facts(source, n, seed))


def without_seeds(source: str) -> Seeds:
    """Return what stage seeds finds where no recipe has several."""
    return summarise({}, {}, {}, "seed1", source, EVALUATE)


def curve_names() -> tuple[str, ...]:
    """Return the kinds of curves that a run has."""
    return ("confusion", "roc", "pr", "calibration", "operating_point")


def drawn_predictions(signal: float, n: int, seed: int) -> pd.DataFrame:
    """Return scores of n test and 2 n validation images; the larger `signal`, the farther the classes lie apart."""
    rng = np.random.default_rng(seed)
    rows = []
    for subset, size in (("test", n), ("validation", 2 * n)):
        y_true = np.arange(size) % 2
        y_score = 1 / (1 + np.exp(-signal * (2 * y_true - 1) - rng.normal(0, 1.3, size)))
        names = [f"{subset}_{i:04}.jpg" for i in range(size)]
        rows.append(pd.DataFrame({"path": names, "subset": subset, "y_true": y_true, "y_score": y_score.round(6)}))
    return pd.concat(rows, ignore_index=True)


def finished_run(
    name: str, source: str = "kaggle", n: int = 300, seed: int = 0
) -> tuple[dict[str, Any], RunMetrics, pd.DataFrame]:
    """Return a run's run.json, its metrics and its predictions."""
    predictions = drawn_predictions(RUNS[name], n, seed)
    history = _history(EPOCHS[name], seed)
    best = int(history["val_loss"].idxmin())
    facts = {
        "run": name,
        "source": source,
        "recipe": {
            "batch_size": 32 * 2 ** min(seed, 3),
            "learning_rate": 0.001,
            "freeze": "layer3",
            "max_epochs": 100,
            "patience": 10,
            "layer_decay": 1.0,
            "weight_decay": 0.01,
            "schedule": "constant",
            "warm_up": 0.3,
            "label_smoothing": 0.0,
            "mixup": 0.0,
            "ema_decay": 0.0,
            "reestimate_norms": False,
            "calibrate": False,
            "precision": "bf16",
            "transforms": {
                "resize": 224,
                "crop": 250,
                "scale": [0.08, 1.0],
                "ratio": [0.75, 1.3333333333333333],
                "flip": 0.5,
                "align": None,
                "colour": 0.0,
                "erase": 0.0,
                "final_scale": None,
                "final_epochs": 0,
                "first_crop": None,
                "evaluation_crop": None,
                "evaluation_flip": False,
            },
        },
        "split": "seed2" if name == "improved-split2" else "seed1",
        "seed": 1,
        "stopped_epoch": len(history),
        "best_epoch": best + 1,
        "n_train": 7 * n,
        "n_validation": 2 * n,
        "weights": {"sha256": "0123456789abcdef" * 4, "known_as": "made-up weights"},
        "model_sha256": f"{seed:064x}",
        "device": "cpu",
        "machine": {"processor": "a made-up CPU", "threads": 2, "precision": "bf16"},
        "at_best": history.iloc[best].to_dict(),
        "at_stop": history.iloc[-1].to_dict(),
        "finished": {**history.iloc[best][["val_loss", "val_accuracy"]].to_dict(), "slope": 1.0, "shift": 0.0},
        "unaligned": {"train": 0, "validation": 0},
    }
    return facts, evaluate_predictions(predictions, EVALUATE, facts), predictions


def _history(epochs: int, seed: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    fall = np.exp(-epoch / 4)
    noise = np.random.default_rng([seed, 1]).normal(0, 0.008, (4, epochs))
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": (0.08 + 0.6 * fall + noise[0]).round(6),
            "train_accuracy": (0.975 - 0.35 * fall + noise[1]).clip(0, 1).round(6),
            "val_loss": (0.24 + 0.4 * fall + 0.004 * epoch + noise[2]).round(6),
            "val_accuracy": (0.92 - 0.3 * fall + noise[3]).clip(0, 1).round(6),
        }
    )


def _write_run(root: Path, facts: dict[str, Any], predictions: pd.DataFrame, seed: int) -> None:
    name = facts["run"]
    folder = root / "models" / "runs" / name
    timing = {"seconds": 1500.0 + 60 * seed, "epochs": EPOCHS[name], "hardware": "a made-up CPU, 2 cores"}
    write_json(folder / "run.json", facts)
    write_json(folder / "timing.json", {**timing, "versions": {"python": "3.11.9", "torch": "2.14.1"}})
    _write_table(root / "plots" / "history" / f"{name}.csv", _history(EPOCHS[name], seed))
    for kind, curve in curves(predictions, EVALUATE.confidence).items():
        _write_table(root / "plots" / "curves" / name / f"{kind}.csv", curve)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\n")


def faces_found(source: str, n: int) -> dict[str, Any]:
    """Return a made-up metrics/embed.json."""
    found = {"n": 5 * n, "with_a_face": 5 * n - 2, "with_several": 1, "score": {}}
    return {
        **{"source": source, "looked_for": True, "n": 10 * n, "classes": dict.fromkeys(LABELS, found)},
        **{"taken_of_several": "the largest", "several_faces": ["test_0001.jpg"], "no_face": ["test_0002.jpg"]},
    }


def face_groups(source: str, n: int) -> dict[str, Any]:
    """Return a made-up metrics/groups.json, without its tables of similarities."""
    share = {"value": 0.51, "low": 0.35, "high": 0.79, "n": 435, "method": "bootstrap"}
    judged = {"pairs": 435, "neighbours": 40, "of_one_child": share}
    of = {"groups": 4, "images_in_groups": 9, "largest": 3, "sizes": {"2": 3, "3": 1}, "joined": judged}
    setting = {"threshold": 0.6, "nearest_merge": 0.0007, **of, "apart": judged, "found": share}
    return {
        **{"source": source, "n": 10 * n, "with_a_face": 10 * n - 4, "linkage": "average", "confidence": 0.95},
        "groups": {name: {"of_both_classes": 1} for name in ("duplicates", "children", "strict")},
        "classes": {label: {"settings": {"children": setting, "strict": setting}} for label in LABELS},
    }


def seen(predictions: dict[str, pd.DataFrame], source: str) -> children.Children:
    """Return the evidence of children as if improved-split2 were on a split by children with the seed of the other."""
    runs = {"duplicates": {"1": "improved", "2": "improved-split2"}, "children": {"1": "improved-split2"}}
    rows = {}
    for name in ("improved", "improved-split2"):
        nearest = np.random.default_rng(0).uniform(0.4, 0.9, len(predictions[name]))
        known = nearest > 0.7
        rows[name] = predictions[name].assign(nearest=nearest, seen_children=known, seen_strict=known)
    groups = pd.DataFrame({"group": rows["improved"].path.to_numpy()}, index=rows["improved"].path)
    recipe = children.summarise(runs, rows, groups, ("children", "strict"), EVALUATE)
    return children.Children(
        source=source, confidence=0.95, n=3000, without_a_face=4, step=children.STEP, recipes={"improved": recipe}
    )


def label_noise(predictions: dict[str, pd.DataFrame], source: str) -> labels.LabelNoise:
    """Return the evidence of wrong labels, with made-up faces."""
    images = labels.held_out(predictions)
    images.loc[images.index[:6], "wrong"] = images.times.iloc[:6]
    images.loc[images.index[:6], "y_score"] = 0.96 - 0.92 * images.y_true.iloc[:6]
    faces = np.random.default_rng(0).integers(0, 6, len(images))
    images = images.assign(group=images.index, both_labels=False, faces_of_other_class=faces)
    return labels.summarise(images, source, tuple(predictions), 5, EVALUATE)


def shortcuts(documents: dict[str, RunMetrics], source: str) -> Probes:
    """Return made-up probes beside the trials' own accuracies."""
    n = next(iter(documents.values())).n.test
    one = Estimate.proportion(7 * n, 10 * n, EVALUATE.confidence)
    other = Estimate.proportion(6 * n // 10, n, EVALUATE.confidence)
    return Probes(
        source=source,
        n=10 * n,
        folds=5,
        seed=1,
        confidence=EVALUATE.confidence,
        guessing=0.5,
        probes=tuple(
            Probe(sees=view, model=model, accuracy=one, accuracy_on_test=other)
            for view in ("file", probes.ALL)
            for model in probes.MODELS
        ),
        runs={
            name: Beside(
                accuracy=documents[name].metrics["accuracy"], where_probe_is_right=other, where_probe_is_wrong=None
            )
            for name in TRIALS
        },
    )


def explained(source: str) -> dict[str, Any]:
    """Return a made-up metrics/explain.json."""
    row = {"value": 0.61, "low": 0.5538, "high": 0.6634, "n": 300, "method": "Wilson"}
    parts = ("whole_picture", "middle_hidden", "only_the_middle")
    return {
        "run": "active",
        "source": source,
        "class_explained": "the predicted one",
        "middle_area": 0.5,
        "heat_in_middle": {"healthy": {"value": 0.7, "n": 150}, "down_syndrome": {"value": 0.8, "n": 150}},
        "accuracy": dict.fromkeys(parts, row),
        "beside": [{"run": "trial3", "accuracy": {part: {**row, "value": 0.62} for part in parts}}],
    }


def data_sheet(source: str, n: int) -> dict[str, Any]:
    """Return a made-up metrics/data.json of 10 n readable images, one pair of duplicates and one unreadable file."""
    sizes = {"smallest": 6357, "median": 9842.0, "largest": 17940, "total": 14995772}
    kinds = {"formats": {"JPEG": 5 * n}, "modes": {"RGB": 5 * n}, "suffixes": {".jpg": 5 * n}, "sizes": {"9x9": 5 * n}}
    classes = {label: {"images": 5 * n, "readable": 5 * n, **kinds, "bytes": sizes} for label in LABELS}
    classes["healthy"]["images"] += 1
    images = ["healthy/1.jpg", "healthy/2.jpg"]
    pair = {"a": images[0], "b": images[1], "same_pixels": False, "hash_distance": 4, "feature_distance": 0.0312}
    return {
        "source": source,
        "dataset": "owner/slug" if source == "kaggle" else None,
        "n": 10 * n + 1,
        "n_readable": 10 * n,
        "classes": classes,
        "unreadable": [{"path": "healthy/<b>bad</b>.jpg", "reason": "empty file"}],
        "other_files": ["Thumbs.db"],
        "duplicates": {
            "thresholds": {"hash_distance": 4, "feature_distance": 0.05},
            "gap": {
                "below": {"a": images[0], "b": images[1], "feature_distance": 0.0312},
                "above": None,
                "margin": 0.005,
                "rounding": 1e-5,
                "undecided": [],
            },
            "pairs": {"same_pixels": 0, "near_by_hash": 1, "near_by_features": 1, "near_by_both": 1},
            "groups": 1,
            "images_in_groups": 2,
            "largest_group": 2,
            "cross_class_pairs": [],
            "by_group": {"healthy/1.jpg": {"images": images, "pairs": [pair]}},
        },
    }


def split_facts(source: str, n: int, seed: int) -> dict[str, Any]:
    """Return a made-up metrics/splits/NAME.json."""
    shares = {"train": 7, "validation": 2, "test": 1}
    halves = {subset: {"down_syndrome": k * n // 2, "healthy": k * n // 2} for subset, k in shares.items()}
    return {
        "source": source,
        "scheme": "stratified",
        "seed": seed,
        "grouped_by": "duplicates",
        "n": 10 * n,
        "groups": {
            "n": 10 * n - 1,
            "of_several_images": 1,
            "largest": 2,
            "of_both_classes": 0,
            "in_several_subsets": 0,
        },
        "subsets": {
            subset: {**halves[subset], "n": k * n, "share": k / 10, "groups": k * n - (subset == "train")}
            for subset, k in shares.items()
        },
        "paper": {
            "train": {"down_syndrome": 1046, "healthy": 1053},
            "validation": {"down_syndrome": 307, "healthy": 297},
            "test": {"down_syndrome": 147, "healthy": 150},
        },
        "off_target": [],
        "ignoring_groups": {
            "splits": 20,
            "n_test": n,
            "leaked_test_images": {"mean": 7.05, "min": 3, "max": 12},
            "at_most_points_of_accuracy": 2.35,
        },
    }


def read(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
