"""Small Git repositories of results: made-up metrics and predictions of runs, as the pipeline would write them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ci import changes
from faces.evidence import metrics
from faces.evidence.statistics import wilson

N = 200  # test images


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


def scores(wrong: int = 20, where: int = 0, n: int = N) -> pd.DataFrame:
    """Return predictions whose test images are all right but `wrong` ones, from image `where` on."""
    tables = []
    for subset, size in (("test", n), ("validation", 20)):
        y_true = np.arange(size) % 2
        confidence = np.random.default_rng(0).uniform(0.55, 0.95, size).round(6)
        if subset == "test":
            confidence[where : where + wrong] = 1 - confidence[where : where + wrong]
        y_score = np.where(y_true == 1, confidence, 1 - confidence).round(6)
        paths = [f"{subset}/{i:03}.jpg" for i in range(size)]
        tables.append(pd.DataFrame({"path": paths, "subset": subset, "y_true": y_true, "y_score": y_score}))
    return pd.concat(tables, ignore_index=True)


def write(
    root: Path,
    predictions: pd.DataFrame,
    run: str = "trial1",
    paired: bool = True,
    source: str = "kaggle",
    machine: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write a run's metrics, and with `paired` its predictions; `more` goes into the document as it is."""
    y_true, y_score = metrics.subset(predictions, "test")
    document = {
        "source": source,
        "settings": {"confidence": 0.95},
        "metrics": {
            name: interval(name, value, y_true) for name, value in metrics.point_values(y_true, y_score).items()
        },
        "training": {"recipe": {"batch_size": 32}, "split": "seed1", "seed": 1, "machine": machine},
        "weights": {"sha256": "0ca4ef56"},
        **more,
    }
    folder = "" if run == "active" else "runs/"
    for path, text in (
        (root / f"metrics/{folder}{run}.json", json.dumps(document)),
        (root / f"predictions/{folder}{run}.csv", predictions.to_csv(index=False)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        if paired or path.suffix == ".json":
            path.write_text(text)


def interval(name: str, value: float, y_true: np.ndarray) -> dict[str, float | int]:
    """Return a metric with its interval: Wilson's of a share of right answers, a made-up one of another metric."""
    n = int(np.isin(y_true, changes.SHARES.get(name, (0, 1))).sum())
    low, high = (
        wilson(round(value * n), n, 0.95) if name in changes.SHARES else (max(0, value - 0.04), min(1, value + 0.04))
    )
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6), "n": n}


def write_spread(root: Path, recipe: str = "trial1", **sd: float) -> None:
    """Write how much runs of a recipe differ, from five of them."""
    summary = {metric: {"mean": 0.9, "sd": value, "min": 0.8, "max": 1.0, "n": 5} for metric, value in sd.items()}
    (root / "metrics").mkdir(exist_ok=True)
    (root / "metrics/seeds.json").write_text(json.dumps({"recipes": {recipe: {"metrics": summary}}}))


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "metrics")


def of_matrix(tn: int, fp: int, fn: int, tp: int, folder: str) -> pd.DataFrame:
    """Return predictions with this confusion matrix on the test images, which lie in `folder`."""
    y_true = np.repeat([0, 0, 1, 1], [tn, fp, fn, tp])
    y_pred = np.repeat([0, 1, 0, 1], [tn, fp, fn, tp])
    confidence = np.random.default_rng(sum(map(ord, folder))).uniform(0.55, 1, len(y_true))
    test = pd.DataFrame({"path": [f"{folder}/{i:03}.jpg" for i in range(len(y_true))], "subset": "test"})
    test["y_true"], test["y_score"] = y_true, np.where(y_pred == 1, confidence, 1 - confidence).round(6)
    validation = scores()
    return pd.concat([test, validation[validation["subset"] == "validation"]], ignore_index=True)


EPYC = {"processor": "AMD EPYC (family 26, model 2)", "isa": {"onednn": "AVX512_CORE_BF16"}, "threads": 2}
XEON = {"processor": "Intel Xeon (family 6, model 143)", "isa": {"onednn": "AVX512_CORE_AMX"}, "threads": 2}
