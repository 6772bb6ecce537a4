"""The contestants of benchmarks/training.py: each takes a job, trains and evaluates, and returns what it took.

They import what they need before their clock starts. `_fit` is the plain loop of the torchvision and timm contestants.
"""

import contextlib
import io
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faces.naming import LABELS
from faces.source.listing import list_classes
from faces.training import machine
from faces.training.recipe import Recipe, on_this_machine

SEED = 1
TRAINED = ("layer4", "fc")  # the rest of the network is frozen
SIDE = 2048  # of the square matrices whose product is the machine's rate

Result = dict[str, Any]
Laps = list[tuple[int, float]]  # images and seconds of each epoch's training


@dataclass(frozen=True)
class Job:
    """What every contestant is given; `folder` holds train, validation and test, each with the class folders."""

    folder: Path
    weights: Path
    cache: Path
    recipe: Recipe  # its precision concerns ours alone
    workers: int


def ours(job: Job, rates: tuple[float, ...] = (1.0,)) -> Result:
    """This project's own path, as stages/train.py goes it; one trial for each factor of the learning rate."""
    import pandas as pd
    import torch

    from faces.training import determinism, loop
    from faces.training.cache import fingerprint
    from faces.training.checkpoint import Checkpoint
    from faces.training.features import FrozenFeatures, load_subset
    from faces.training.inference import Classifier
    from faces.training.model import Tail, build
    from faces.training.state import TrainingState

    determinism.enable()
    device = _device()
    trials = []
    for rate in rates:
        recipe = job.recipe.model_copy(update={"learning_rate": job.recipe.learning_rate * rate})
        started = _now()
        rows = [
            {"path": f"{subset}/{path}", "subset": subset, "y_true": LABELS.index(path.split("/")[0])}
            for subset in ("train", "validation", "test")
            for path in list_classes(job.folder / subset).images
        ]
        table = pd.DataFrame(rows)
        train, validation = (
            load_subset(job.folder, table, name, job.recipe.transforms) for name in ("train", "validation")
        )
        network = build(job.weights, SEED)
        frozen = FrozenFeatures(network, recipe, SEED, device)
        tail = Tail(network, recipe.freeze, recipe.precision).to(device)
        state = TrainingState(tail, recipe, batches=math.ceil(len(train.pixels) / recipe.batch_size))
        laps = _Laps(len(train.pixels))
        checkpoint = Checkpoint(fingerprint(recipe=recipe.model_dump(mode="json"), features=frozen.facts))
        loop.fit(state, frozen, train, validation, recipe, SEED, checkpoint, laps.report, laps.progress)
        checkpoint.remove()
        trials.append((laps.laps, _now() - started))

    classifier = Classifier(network, job.recipe).to(device)
    started = _now()
    test = load_subset(job.folder, table, "test", job.recipe.transforms)
    y_score = torch.from_numpy(classifier.predict_proba(test.pixels))
    loss = torch.nn.functional.binary_cross_entropy(y_score, test.y_true.double()).item()
    accuracy = ((y_score >= 0.5).long() == test.y_true).double().mean().item()
    evaluation = (len(test.pixels), _now() - started)
    return _result(job, network, trials, evaluation, loss, accuracy, job.recipe.precision)


class _Laps:
    """Takes the time of each epoch's training from what loop.fit tells: 2n images (body, then tail), then a report."""

    def __init__(self, n: int) -> None:
        self.n, self.done, self.laps = n, 0, Laps()
        self.started = _now()

    def progress(self, more: int) -> None:
        self.done += more
        if self.done == 2 * self.n:
            self.laps.append((self.n, _now() - self.started))

    def report(self, history: Any) -> None:
        self.done, self.started = 0, _now()


def ours_three_trials(job: Job) -> Result:
    """Three learning rates, one after the other, that share the frozen body's output."""
    return ours(job, (1.0, 0.3, 0.1))


def torchvision_loop(job: Job) -> Result:
    """ImageFolder, transforms image by image, DataLoader, fp32: what one writes first."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    from faces.training.model import build
    from faces.training.transforms import IMAGENET_MEAN, IMAGENET_STD

    device, t = _device(), job.recipe.transforms
    started = _now()
    end = [T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    resize = T.Resize((t.resize, t.resize))
    crop = T.RandomResizedCrop(t.crop, scale=t.scale, ratio=t.ratio)
    augmented = T.Compose([resize, crop, T.RandomHorizontalFlip(t.flip), *end])
    plain = T.Compose([resize, T.Resize((t.crop, t.crop)), *end])

    def load(subset: str) -> DataLoader[Any]:
        training = subset == "train"
        return DataLoader(
            ImageFolder(str(job.folder / subset), augmented if training else plain),
            batch_size=job.recipe.batch_size,
            shuffle=training,
            num_workers=job.workers,
            pin_memory=device.type == "cuda",
        )

    network = _freeze(build(job.weights, SEED)).to(device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.recipe.learning_rate, weight_decay=job.recipe.weight_decay)
    laps = _fit(network, optimizer, load("train"), load("validation"), job.recipe.max_epochs, device)
    seconds = _now() - started

    started = _now()
    n, loss, accuracy = _evaluate(network, load("test"), device)
    return _result(job, network, [(laps, seconds)], (n, _now() - started), loss, accuracy)


def timm_loop(job: Job) -> Result:
    """timm's model, transforms, loader (with its prefetcher) and optimizer, in a plain loop as in its documentation."""
    warnings.simplefilter("ignore")  # timm's own, of what torch will drop one day
    import timm
    import timm.data
    import timm.optim
    from torchvision import transforms as T

    from faces.training.model import build

    device, t = _device(), job.recipe.transforms
    started = _now()

    def load(subset: str) -> Any:
        training = subset == "train"
        loader = timm.data.create_loader(
            timm.data.ImageDataset(str(job.folder / subset)),
            input_size=(3, t.crop, t.crop),
            batch_size=job.recipe.batch_size,
            is_training=training,
            scale=t.scale,
            ratio=t.ratio,
            hflip=t.flip,
            color_jitter=None,
            interpolation="bilinear",
            crop_pct=1.0,
            num_workers=job.workers,
            pin_memory=device.type == "cuda",
            device=device,
        )
        loader.dataset.transform = T.Compose([T.Resize((t.resize, t.resize)), loader.dataset.transform])
        return loader

    network = timm.create_model("resnet34", num_classes=2)
    network.load_state_dict(build(job.weights, SEED).state_dict())
    network = _freeze(network).to(device)
    optimizer = timm.optim.create_optimizer_v2(
        network, opt="adamw", lr=job.recipe.learning_rate, weight_decay=job.recipe.weight_decay
    )
    laps = _fit(network, optimizer, load("train"), load("validation"), job.recipe.max_epochs, device)
    seconds = _now() - started

    started = _now()
    n, loss, accuracy = _evaluate(network, load("test"), device)
    return _result(job, network, [(laps, seconds)], (n, _now() - started), loss, accuracy)


def fastai_learner(job: Job) -> Result:
    """fastai's `vision_learner`: its own loaders, transforms, loop and Adam (with decoupled weight decay, so AdamW)."""
    warnings.simplefilter("ignore")  # fastai's own, of what torch and pandas will drop one day
    from fastai.callback.training import BnFreeze
    from fastai.vision import all as fv
    from torch import nn
    from torchvision.models import resnet34

    from faces.training.model import build

    class Clock(fv.Callback):  # type: ignore[misc, name-defined]
        laps: Laps = []  # noqa: RUF012

        def before_train(self) -> None:
            self.n, self.since = 0, _now()

        def after_batch(self) -> None:
            self.n += len(self.yb[0])

        def after_train(self) -> None:
            self.laps.append((self.n, _now() - self.since))

    t = job.recipe.transforms
    started = _now()
    dls = fv.ImageDataLoaders.from_folder(
        job.folder,
        train="train",
        valid="validation",
        item_tfms=[
            fv.Resize(t.resize, method=fv.ResizeMethod.Squish),
            fv.RandomResizedCrop(t.crop, min_scale=t.scale[0], max_scale=t.scale[1], ratio=t.ratio, val_xtra=0),
            fv.FlipItem(t.flip),
        ],
        batch_tfms=fv.Normalize.from_stats(*fv.imagenet_stats),
        bs=job.recipe.batch_size,
        num_workers=job.workers,
    )
    network = build(job.weights, SEED)
    clock = Clock()
    learn = fv.vision_learner(
        dls,
        resnet34,
        pretrained=False,  # no download: the same weights as the others', right below
        custom_head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.fc),
        init=None,
        splitter=lambda m: [fv.params(m[0][:7]), fv.params(m[0][7:]) + fv.params(m[1])],  # after layer3
        train_bn=False,
        wd=job.recipe.weight_decay,
        metrics=fv.accuracy,
        cbs=[BnFreeze(), clock],
    )
    learn.model[0].load_state_dict(nn.Sequential(*list(network.children())[:-2]).state_dict())
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit(job.recipe.max_epochs, lr=job.recipe.learning_rate)
        seconds = _now() - started

        started = _now()
        test = dls.test_dl(fv.get_image_files(job.folder / "test"), with_labels=True)
        loss, accuracy = learn.validate(dl=test)
    evaluation = (len(test.dataset), _now() - started)
    return _result(job, learn.model, [(clock.laps, seconds)], evaluation, loss, accuracy)


CONTESTANTS: dict[str, Callable[[Job], Result]] = {
    "ours": ours,
    "ours, three trials": ours_three_trials,
    "torchvision": torchvision_loop,
    "fastai": fastai_learner,
    "timm": timm_loop,
}


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _now() -> float:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _freeze(network: Any) -> Any:
    for name, child in network.named_children():
        child.requires_grad_(name in TRAINED)
    return network


def _fit(network: Any, optimizer: Any, train: Any, validation: Any, epochs: int, device: Any) -> Laps:
    from torch import nn

    criterion = nn.CrossEntropyLoss()
    laps = Laps()
    for _ in range(epochs):
        started, n, loss_sum = _now(), 0, 0.0
        network.train()
        for name, child in network.named_children():
            child.train(name in TRAINED)  # frozen batch norms stay in evaluation mode
        for x, y in train:
            x, y = x.to(device), y.to(device)
            loss = criterion(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(y)
            n += len(y)
        laps.append((n, _now() - started))
        _evaluate(network, validation, device)
    return laps


def _evaluate(network: Any, loader: Any, device: Any) -> tuple[int, float, float]:
    import torch

    network.eval()
    n, loss, right = 0, 0.0, 0
    with torch.inference_mode():
        for x, y in loader:
            logits, y = network(x.to(device)), y.to(device)
            loss += torch.nn.functional.cross_entropy(logits, y, reduction="sum").item()
            right += int((logits.argmax(dim=1) == y).sum())
            n += len(y)
    return n, loss / n, right / n


def _result(
    job: Job,
    network: Any,
    trials: list[tuple[Laps, float]],
    evaluation: tuple[int, float],
    loss: float,
    accuracy: float,
    precision: str = "fp32",
) -> Result:
    return {
        "precision": precision,
        "device": _device().type,
        "trials": [{"seconds": seconds, "epochs": [list(lap) for lap in laps]} for laps, seconds in trials],
        "evaluation": list(evaluation),
        "trained": _trained(job, network),
        "test_loss": loss,
        "test_accuracy": accuracy,
    }


def _trained(job: Job, network: Any) -> int:
    """Return how many weights and batch norm statistics are no longer what they were when training began."""
    from faces.training.model import build

    before, after = (
        [value.cpu() for value in model.state_dict().values() if value.is_floating_point()]
        for model in (build(job.weights, SEED), network)
    )
    return sum(a.numel() for a, b in zip(after, before, strict=True) if not a.equal(b))


def matrix_rates(job: Job) -> Result:
    """Return the machine's rate at matrix products and the work of a training image, in floating-point operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from faces.training.model import Body, Tail, build

    device = _device()
    dtypes = {"fp32": torch.float32}
    with contextlib.redirect_stderr(io.StringIO()):  # only asked, not wanted: no word on what takes its place
        if on_this_machine(job.recipe.model_copy(update={"precision": "bf16"})).precision == "bf16":
            dtypes["bf16"] = torch.bfloat16
    rates = {}
    for name, dtype in dtypes.items():
        a, b = torch.rand(2, SIDE, SIDE, device=device, dtype=dtype)
        seconds = []
        for _ in range(6):
            started = _now()
            a @ b
            seconds.append(_now() - started)
        rates[name] = 2 * SIDE**3 / statistics.median(seconds[1:])

    network, n, side = build(job.weights, SEED), 4, job.recipe.transforms.crop
    body, tail = Body(network, job.recipe.freeze, "fp32"), Tail(network, job.recipe.freeze, "fp32")
    with FlopCounterMode(display=False) as of_body:
        features = body(torch.zeros(n, 3, side, side, dtype=torch.uint8))
    with FlopCounterMode(display=False) as of_tail:
        tail(features).sum().backward()
    return {
        "hardware": machine.hardware(device.type),
        "precision": on_this_machine(job.recipe).precision,
        "matrix_rate": rates,
        "body_flops": of_body.get_total_flops() / n,
        "tail_flops": of_tail.get_total_flops() / n,
    }


def random_weights(job: Job) -> Result:
    """Write the weights of an untrained ResNet-34."""
    import torch
    from torchvision.models import resnet34

    torch.manual_seed(SEED)
    torch.save(resnet34(weights=None).state_dict(), job.weights)
    return {}
