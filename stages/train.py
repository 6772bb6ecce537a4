"""Fine-tune the pretrained ResNet-34 with one run's hyperparameters: a trial's, or those of the active run."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faces.cli import InputError, run
from faces.files import file_sha256, write_atomically, write_json
from faces.params import load_params

if TYPE_CHECKING:
    from torchvision.models import ResNet

    from faces.training.loop import Epoch

HISTORY = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


def main(
    data: Path,
    splits: Path,
    weights: Path,
    weights_facts: Path,
    run_name: str,
    out: Path,
    reuse: Annotated[list[Path] | None, typer.Option(help="a finished run to take if it is the same")] = None,
    validation_metrics: Annotated[Path | None, typer.Option(help="also write how the validation images fare")] = None,
) -> None:
    """Train the run `run_name` (train, or trials.<name>) and write its model, history and facts into `out`."""
    params = load_params()
    recipe, transforms = params.recipe(run_name), params.transforms_of(run_name)

    import pandas as pd
    import torch
    from tqdm import tqdm

    from faces.training import determinism, distributed, loop, machine
    from faces.training.cache import fingerprint
    from faces.training.checkpoint import Checkpoint
    from faces.training.features import FrozenFeatures, load_subset
    from faces.training.model import Tail, build

    determinism.enable()
    table = pd.read_csv(splits)
    with distributed.processes() as device:
        with distributed.one_per_machine_first():
            train, validation = (load_subset(data, table, name, transforms.resize) for name in ("train", "validation"))
        if not len(train.pixels) or not len(validation.pixels):
            raise InputError(f"{splits}: the training or the validation subset is empty; there are too few images")

        identity = {
            "recipe": recipe.model_dump(mode="json"),
            "transforms": transforms.model_dump(mode="json"),
            "seed": params.seed,
            "weights": json.loads(weights_facts.read_text(encoding="utf-8")),
            "images": [train.key, validation.key],
        }
        first = distributed.rank() == 0  # the process that writes
        finished = _find(reuse or [], identity)
        if finished is not None:
            if first:
                facts = _take(finished, run_name, out)
                if validation_metrics is not None:
                    write_json(validation_metrics, _validation(facts))
                print(f"{run_name}: the same run as {finished}, taken from there")
            return

        network = build(weights, params.seed)
        if distributed.world_size() > 1:
            distributed.synchronise_batch_norms(network)
        frozen = FrozenFeatures(network, recipe, transforms, params.seed, device)
        tail = Tail(network, recipe.freeze, recipe.precision).to(device)
        code = [file_sha256(Path(file)) for file in (__file__, loop.__file__, distributed.__file__)]
        processes = distributed.world_size()
        checkpoint = Checkpoint(fingerprint(identity=identity, features=frozen.facts, code=code, processes=processes))
        images = 2 * len(distributed.share(torch.arange(len(train.pixels))))
        with tqdm(total=images, unit=" images", desc=f"{run_name} epoch 1", disable=None if first else True) as bar:

            def report(history: list[loop.Epoch]) -> None:
                if first:
                    _write_history(out / "history.csv", history)
                    bar.write(f"{run_name} {_in_words(history[-1])}")
                    bar.reset()
                    bar.set_description(f"{run_name} epoch {len(history) + 1}")

            fit = loop.fit(tail, frozen, train, validation, recipe, params.seed, checkpoint, report, bar.update)
        computed, reused = distributed.total(torch.tensor([frozen.computed, frozen.reused], device=device)).tolist()
        if not first:
            return

    _write_model(out / "model.pt", network)
    facts = {
        "run": run_name,
        "source": params.data.kind,
        **identity,
        "n_train": len(train.pixels),
        "n_validation": len(validation.pixels),
        "stopped_epoch": len(fit.history),
        "best_epoch": fit.best_epoch,
        "at_best": asdict(fit.history[fit.best_epoch - 1]),
        "at_stop": asdict(fit.history[-1]),
        "device": device.type,
        "processes": processes,
        "model_sha256": file_sha256(out / "model.pt"),
    }
    write_json(out / "run.json", facts)
    if validation_metrics is not None:
        write_json(validation_metrics, _validation(facts))
    write_json(
        out / "timing.json",
        {
            "seconds": round(fit.seconds, 1),
            "epochs": len(fit.history),
            "images_through_frozen_body": computed,
            "images_with_shared_features": reused,
            "hardware": machine.hardware(device.type),
            "versions": machine.versions(),
        },
    )
    checkpoint.remove()


def _find(reuse: list[Path], identity: dict[str, Any]) -> Path | None:
    for folder in reuse:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if all(facts[key] == value for key, value in identity.items()):
            return folder
    return None


def _take(finished: Path, run_name: str, out: Path) -> dict[str, Any]:
    for name in ("model.pt", "history.csv", "timing.json"):
        write_atomically(out / name, (finished / name).read_bytes())
    facts = {**json.loads((finished / "run.json").read_text(encoding="utf-8")), "run": run_name}
    write_json(out / "run.json", facts)
    return facts


def _validation(facts: dict[str, Any]) -> dict[str, float | int]:
    """Return the kept epoch's result on the validation subset, which is what hyperparameters are chosen by."""
    return {
        "val_accuracy": round(facts["at_best"]["val_accuracy"], 4),
        "val_loss": round(facts["at_best"]["val_loss"], 4),
        "val_n": facts["n_validation"],
        "val_epoch": facts["best_epoch"],
    }


def _write_history(path: Path, history: list["Epoch"]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    for epoch in history:
        writer.writerow({key: round(value, 6) for key, value in asdict(epoch).items()})
    write_atomically(path, text.getvalue().encode())


def _in_words(epoch: "Epoch") -> str:
    return (
        f"epoch {epoch.epoch}: train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.4f}; "
        f"validation loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.4f}"
    )


def _write_model(path: Path, network: "ResNet") -> None:
    import torch

    buffer = io.BytesIO()
    torch.save({key: value.cpu().contiguous() for key, value in network.state_dict().items()}, buffer)
    write_atomically(path, buffer.getbuffer())


if __name__ == "__main__":
    run(main)
