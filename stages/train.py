"""Fine-tune the pretrained ResNet-34: one run of params.yaml, which is a recipe on a split with a seed."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faces.cli import InFile, InFolder, InputError, OutFile, OutFolder, run
from faces.files import write_atomically, write_json
from faces.params import load_params
from faces.training.recipe import Recipe, RunSpec, on_this_machine, resolve

if TYPE_CHECKING:
    import torch

    from faces.training.checkpoint import Checkpoint
    from faces.training.features import Images
    from faces.training.state import Epoch

HISTORY = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Outcome:
    """A trained run before it is written: the content of its files, and the checkpoint that is then of no use."""

    facts: dict[str, Any]
    model: bytes
    timing: dict[str, Any]
    checkpoint: "Checkpoint | None" = None


def main(
    name: Annotated[str, typer.Argument(metavar="RUN", help="one of params.yaml's runs, or active")],
    data: Annotated[InFolder, typer.Argument(help="folder of the images, one folder a class")],
    split: Annotated[InFile, typer.Argument(help="the split's file, named as the run's split")],
    *,
    weights: Annotated[InFolder, typer.Option(help="folder with resnet34.pth and facts.json")],
    landmarks: Annotated[InFile, typer.Option(help="the faces' landmarks, by which a recipe may align them")],
    detector: Annotated[InFolder, typer.Option(help="folder with the network that found them")],
    out: Annotated[OutFolder, typer.Option(help="folder for model.pt, run.json, timing.json and detector.onnx")],
    history: Annotated[OutFile, typer.Option(help="file for the losses and accuracies of each epoch")],
    finished: Annotated[InFolder | None, typer.Option(help="finished runs, of which the same is taken")] = None,
    validation: Annotated[OutFile | None, typer.Option(help="also write how the validation images fare")] = None,
) -> None:
    """Train a run, or take the finished one that is the same, and write its model, record and history."""
    params = load_params()
    spec = resolve(params, name)
    if split.stem != spec.split:
        raise InputError(f"{split} is not the split of the run {name}, which params.yaml calls {spec.split}")

    from faces.training import determinism, distributed

    determinism.enable()
    with distributed.processes() as device:
        recipe = on_this_machine(spec.recipe)
        train_images, validation_images = _load(data, split, recipe, landmarks)
        identity = identify(recipe, spec.seed, weights, (train_images.key, validation_images.key))
        first = distributed.rank() == 0  # the process that reads finished runs and writes this one
        outcome = take([finished / run for run in params.runs], identity) if finished and first else None
        if not distributed.broadcast(outcome is not None):
            outcome = fit(spec, recipe, identity, train_images, validation_images, weights, history, device)
        if first and outcome is not None:
            outcome.facts["detector"] = params.embed.model_dump()
            record(outcome, spec, params.data.kind, out, history, validation)
            write_atomically(out / "detector.onnx", _detector(recipe, detector))


def _load(data: Path, split: Path, recipe: Recipe, landmarks: Path) -> tuple["Images", "Images"]:
    import pandas as pd

    from faces.images.align import read_landmarks
    from faces.training import distributed
    from faces.training.features import load_subset

    table = pd.read_csv(split)
    points = read_landmarks(landmarks)
    with distributed.one_per_machine_first():
        train, validation = (
            load_subset(data, table, name, recipe.transforms, points) for name in ("train", "validation")
        )
    if not len(train.pixels) or not len(validation.pixels):
        raise InputError(f"{split}: the training or the validation subset is empty; there are too few images")
    return train, validation


def _detector(recipe: Recipe, folder: Path) -> bytes:
    """Return the network that finds faces for whoever uses the model; nothing, if the run aligned none."""
    from faces.images.yunet import YUNET

    file = folder / YUNET.name
    return file.read_bytes() if recipe.transforms.align and file.exists() else b""


def identify(recipe: Recipe, seed: int, weights: Path, images: Sequence[str]) -> dict[str, Any]:
    """Return what makes a run the one that it is: runs in which all of it is the same have the same result."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "weights": json.loads((weights / "facts.json").read_text(encoding="utf-8")),
        "images": list(images),
    }


def take(folders: Sequence[Path], identity: dict[str, Any]) -> Outcome | None:
    """Return what the first finished run with this identity left in its folder, if there is one."""
    for folder in folders:
        if not (folder / "run.json").exists():
            continue
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if all(facts.get(key) == value for key, value in identity.items()):
            print(f"the same run as {folder}, taken from there")
            timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
            return Outcome(facts, (folder / "model.pt").read_bytes(), timing)
    return None


def fit(
    spec: RunSpec,
    recipe: Recipe,
    identity: dict[str, Any],
    train: "Images",
    validation: "Images",
    weights: Path,
    history: Path,
    device: "torch.device",
) -> Outcome:
    """Train, from the checkpoint if an earlier process left one, and write the history after each epoch."""
    import torch
    from tqdm import tqdm

    from faces.training import distributed, features, finish, loop, machine, state, watch
    from faces.training.cache import code, fingerprint
    from faces.training.checkpoint import Checkpoint
    from faces.training.model import Tail, build

    watch.check()
    network = build(weights / "resnet34.pth", spec.seed)
    if distributed.world_size() > 1:
        distributed.synchronise_batch_norms(network)
    frozen = features.FrozenFeatures(network, recipe, spec.seed, device)
    tail = Tail(network, recipe.freeze, recipe.precision).to(device)
    training = state.TrainingState(tail, recipe, batches=math.ceil(len(train.pixels) / recipe.batch_size))
    processes = distributed.world_size()
    checkpoint = Checkpoint(
        fingerprint(
            identity=identity,
            features=frozen.facts,
            code=code(features, loop, state, distributed, finish),
            processes=processes,
        )
    )
    first = distributed.rank() == 0  # the process that writes
    images = 2 * len(distributed.share(torch.arange(len(train.pixels))))
    with tqdm(total=images, unit=" images", desc=f"{spec.name} epoch 1", disable=None if first else True) as bar:

        def report(epochs: "list[Epoch]") -> None:
            if first:
                _write_history(history, [asdict(epoch) for epoch in epochs])
                watch.write(spec.name, asdict(epochs[-1]))
                bar.write(f"{spec.name} {_in_words(epochs[-1])}")
                bar.reset()
                bar.set_description(f"{spec.name} epoch {len(epochs) + 1}")

        loop.fit(training, frozen, train, validation, recipe, spec.seed, checkpoint, report, bar.update)
        finished = finish.finish(tail, frozen, train, validation, recipe, spec.seed)
    computed, reused = distributed.all_reduce(torch.tensor([frozen.computed, frozen.reused], device=device)).tolist()

    buffer = io.BytesIO()
    torch.save({key: value.cpu().contiguous() for key, value in network.state_dict().items()}, buffer)
    model = buffer.getvalue()
    epochs = [asdict(epoch) for epoch in training.history]
    facts = {
        **identity,
        "n_train": len(train.pixels),
        "n_validation": len(validation.pixels),
        "stopped_epoch": len(epochs),
        "best_epoch": training.best_epoch,
        "at_best": epochs[training.best_epoch - 1],
        "at_stop": epochs[-1],
        "finished": asdict(finished),
        "unaligned": {"train": train.unaligned, "validation": validation.unaligned},
        "history": epochs,
        "device": device.type,
        "machine": machine.arithmetic(device.type, recipe.precision),
        "processes": processes,
        "model_sha256": hashlib.sha256(model).hexdigest(),
    }
    timing = {
        "seconds": round(training.seconds, 1),
        "epochs": len(epochs),
        "images_through_frozen_body": computed,
        "images_with_shared_features": reused,
        "hardware": machine.hardware(device.type),
        "versions": machine.versions(),
    }
    return Outcome(facts, model, timing, checkpoint)


def record(outcome: Outcome, spec: RunSpec, source: str, out: Path, history: Path, validation: Path | None) -> None:
    """Write what a run leaves behind, under the run's own name."""
    facts: dict[str, Any] = {"run": spec.name, "source": source, "split": spec.split}
    facts |= {key: value for key, value in outcome.facts.items() if key not in facts}
    write_atomically(out / "model.pt", outcome.model)
    write_json(out / "run.json", facts)
    write_json(out / "timing.json", outcome.timing)
    _write_history(history, facts["history"])
    if validation is not None:  # the finished model's result, which is what hyperparameters are chosen by
        write_json(
            validation,
            {
                "val_accuracy": round(facts["finished"]["val_accuracy"], 4),
                "val_loss": round(facts["finished"]["val_loss"], 4),
                "n_validation": facts["n_validation"],
                "best_epoch": facts["best_epoch"],
            },
        )
    if outcome.checkpoint is not None:
        outcome.checkpoint.remove()


def _write_history(path: Path, epochs: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: round(value, 6) for key, value in epoch.items()} for epoch in epochs)
    write_atomically(path, text.getvalue().encode())


def _in_words(epoch: "Epoch") -> str:
    return (
        f"epoch {epoch.epoch}: train loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.4f}; "
        f"validation loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.4f}"
    )


if __name__ == "__main__":
    run(main)
