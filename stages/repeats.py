"""Put one recipe's results on several splits together: spread, intervals, and the images always taken for the other."""

from pathlib import Path

from faces.cli import run
from faces.evidence.metrics import read_document, read_predictions
from faces.evidence.repeats import markdown, summarise
from faces.files import write_atomically, write_json
from faces.params import load_params


def main(metrics: Path, predictions: Path, out_json: Path, out_markdown: Path) -> None:
    """Summarise SEED.json of `metrics` and SEED.csv of `predictions`, for each seed of params.yaml: repeats."""
    params = load_params()
    seeds = params.repeats.split_seeds
    documents = {seed: read_document(metrics / f"{seed}.json") for seed in seeds}
    scores = {seed: read_predictions(predictions / f"{seed}.csv") for seed in seeds}
    summary = summarise(documents, scores, params.evaluate.confidence)
    write_json(out_json, summary)
    write_atomically(out_markdown, markdown(summary, params.evaluate.recall).encode())


if __name__ == "__main__":
    run(main)
