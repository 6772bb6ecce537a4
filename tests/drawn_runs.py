"""A made-up set of finished runs, in the pipeline's own layout and from its own code, to draw and report on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from faces.evidence import comparison
from faces.evidence.metrics import curves, evaluate_predictions
from faces.evidence.paper import load_paper
from faces.params import Evaluate

REPOSITORY = Path(__file__).parents[1]

TRIALS = {"trial1": 1.6, "trial2": 2.2, "trial3": 1.5, "improved": 2.0}  # how far the two classes' scores lie apart
EPOCHS = {"trial1": 9, "trial2": 23, "trial3": 17, "improved": 16}
EVALUATE = Evaluate(confidence=0.95, resamples=200, seed=1, recall=0.95)


def make(root: Path, source: str = "kaggle", n: int = 300) -> None:
    """Write params.yaml, models/, metrics/ and plots/<run>/ below `root`."""
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    paper = load_paper(REPOSITORY / "paper.yaml")
    documents, predictions = {}, {}
    for seed, trial in enumerate(TRIALS):
        documents[trial], predictions[trial] = _run(root, trial, source, n, seed)
        _write(root / "metrics" / "trials" / f"{trial}.json", documents[trial])
    _write(root / "metrics" / "active.json", {**documents["trial2"], "run": "train"})
    shutil.copytree(root / "models" / "trial2", root / "models" / "active")
    shutil.copytree(root / "plots" / "trial2", root / "plots" / "active")
    compared = comparison.compare(paper, documents, predictions, EVALUATE)
    _write(root / "metrics" / "comparison.json", compared)
    (root / "metrics" / "comparison.md").write_text(comparison.markdown(compared, paper), encoding="utf-8")
    (root / "metrics" / "data.md").write_text("# Data sheet\n\n| a | b |\n|---|---|\n| <b>1</b> | 2 |\n")


def _run(root: Path, trial: str, source: str, n: int, seed: int) -> tuple[dict[str, Any], pd.DataFrame]:
    rng = np.random.default_rng(seed)
    rows = []
    for subset, size in (("test", n), ("validation", 2 * n)):
        y_true = np.arange(size) % 2
        logit = TRIALS[trial] * (2 * y_true - 1) + rng.normal(0, 1.3, size)
        names = [f"{subset}_{i:04}.jpg" for i in range(size)]
        rows.append(
            pd.DataFrame(
                {
                    "path": names,
                    "subset": subset,
                    "y_true": y_true,
                    "y_score": (1 / (1 + np.exp(-logit))).round(6),
                }
            )
        )
    predictions = pd.concat(rows, ignore_index=True)
    history = _history(EPOCHS[trial], rng)
    best = int(history["val_loss"].idxmin())
    facts = {
        "run": f"trials.{trial}",
        "source": source,
        "recipe": {
            "batch_size": 32 * 2**seed,
            "learning_rate": 0.001,
            "freeze": "layer3",
            "max_epochs": 100,
            "patience": 10,
            "weight_decay": 0.01,
            "schedule": "constant",
            "label_smoothing": 0.0,
            "ema_decay": 0.0,
            "precision": "bf16",
        },
        "seed": 1,
        "transforms": {
            "resize": 224,
            "crop": 250,
            "scale": [0.08, 1.0],
            "ratio": [0.75, 1.3333333333333333],
            "flip": 0.5,
            "first_crop": None,
            "evaluation_crop": None,
            "evaluation_flip": False,
        },
        "stopped_epoch": len(history),
        "best_epoch": best + 1,
        "n_train": 7 * n,
        "n_validation": 2 * n,
        "weights": {"sha256": "0123456789abcdef" * 4, "known_as": "made-up weights"},
        "model_sha256": f"{seed:064x}",
        "device": "cpu",
        "at_best": history.drop(columns="epoch").iloc[best].to_dict(),
        "at_stop": history.drop(columns="epoch").iloc[-1].to_dict(),
    }
    folder = root / "models" / trial
    _write(folder / "run.json", facts)
    timing = {"seconds": 1500.0 + 60 * seed, "epochs": len(history), "hardware": "a made-up CPU, 2 cores"}
    _write(folder / "timing.json", {**timing, "versions": {"python": "3.11.9", "torch": "2.14.1"}})
    history.to_csv(folder / "history.csv", index=False)
    for name, curve in curves(predictions, EVALUATE.confidence).items():
        path = root / "plots" / trial / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        curve.to_csv(path, index=False)
    return evaluate_predictions(predictions, EVALUATE, facts), predictions


def _history(epochs: int, rng: np.random.Generator) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    fall = np.exp(-epoch / 4)
    noise = rng.normal(0, 0.008, (4, epochs))
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": (0.08 + 0.6 * fall + noise[0]).round(6),
            "train_accuracy": (0.975 - 0.35 * fall + noise[1]).clip(0, 1).round(6),
            "val_loss": (0.24 + 0.4 * fall + 0.004 * epoch + noise[2]).round(6),
            "val_accuracy": (0.92 - 0.3 * fall + noise[3]).clip(0, 1).round(6),
        }
    )


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
