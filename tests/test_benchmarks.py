"""The speed benchmark: the contestants do the same work, and the ratios are right.

Without `make benchmark`'s packages, the tests of fastai and timm are skipped: they are no part of the project.
"""

import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torchvision.models import resnet34
from trained import recipe

from benchmarks import contestants, processors, stopping, training
from benchmarks.contestants import CONTESTANTS, Job, Result
from faces.cli import InputError
from faces.source import sample
from faces.training.model import Body

REPOSITORY = Path(__file__).parents[1]
COUNTS = {"train": 8, "validation": 4, "test": 4}
RECIPE = recipe(
    batch_size=4,
    learning_rate=0.001,
    freeze="layer3",
    max_epochs=2,
    patience=2,
    precision="fp32",
    transforms={"resize": 32, "crop": 40, "scale": (0.5, 1.0)},
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    sample.draw(root, images_per_class=12)
    return root


@pytest.fixture
def job(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    training.choose(drawn, tmp_path / "chosen", COUNTS)
    job = Job(tmp_path / "chosen", tmp_path / "random.pth", tmp_path / "cache", RECIPE, workers=0)
    contestants.random_weights(job)
    return job


def trained_part() -> int:
    """Return the weights and batch norm statistics after layer3, counted apart from the benchmark."""
    state = resnet34(num_classes=2).state_dict()
    return sum(
        value.numel()
        for key, value in state.items()
        if key.startswith(("layer4.", "fc.")) and not key.endswith("num_batches_tracked")
    )


def check(result: Result, trials: int = 1) -> None:
    assert result["trained"] == trained_part()  # so the frozen part is what it was, batch norms included
    assert len(result["trials"]) == trials
    for trial in result["trials"]:
        assert [n for n, _ in trial["epochs"]] == [8, 8]
        assert 0 < sum(seconds for _, seconds in trial["epochs"]) < trial["seconds"]
    assert result["evaluation"][0] == 4
    assert result["evaluation"][1] > 0
    assert math.isfinite(result["test_loss"])


def test_the_plain_loop_trains_what_follows_layer3(job: Job) -> None:
    check(CONTESTANTS["torchvision"](job))


def test_our_trials_do_too_and_share_the_body(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    through = []
    forward = Body.forward
    monkeypatch.setattr(Body, "forward", lambda self, x: through.append(len(x)) or forward(self, x))
    check(CONTESTANTS["ours, three trials"](job), trials=3)
    shapes = 3  # an empty picture for each trial
    assert sum(through) == shapes + 2 * 8 + 4 + 4  # the epochs' images once, validation and test once


@pytest.mark.filterwarnings("default")  # their own, of what torch will drop one day
@pytest.mark.parametrize("name", training.PACKAGES)
def test_so_do_those_that_are_packages(job: Job, name: str) -> None:
    pytest.importorskip(name)
    check(training.in_process(CONTESTANTS[name], job, name))


def test_unfrozen_batch_norms_are_seen(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count that the contestants must share is larger if something frozen moved."""
    monkeypatch.setattr(contestants, "TRAINED", ("bn1", "layer4", "fc"))
    assert contestants.torchvision_loop(job)["trained"] == trained_part() + 4 * 64


def test_a_process_of_its_own_with_workers(job: Job) -> None:
    result = training.in_process(CONTESTANTS["torchvision"], replace(job, workers=1), "torchvision")
    check(result)
    assert result["memory"] > result["anonymous"] > 50e6  # bytes


def test_a_failing_process_is_told_in_a_line(job: Job) -> None:
    with pytest.raises(InputError, match=r"ours: .*nowhere\.pth: no such weights file"):
        training.in_process(CONTESTANTS["ours"], replace(job, weights=Path("nowhere.pth")), "ours")


def test_chosen_images_are_apart_and_readable(job: Job, drawn: Path) -> None:
    links = sorted(path for path in job.folder.rglob("*") if path.is_symlink())
    assert len({link.resolve() for link in links}) == len(links) == sum(COUNTS.values())
    for subset, count in COUNTS.items():
        for label in ("healthy", "down_syndrome"):
            assert len(list((job.folder / subset / label).iterdir())) == count // 2
    truncated = drawn / "healthy" / "healty_13.jpg"
    assert truncated.exists()
    assert truncated not in {link.resolve() for link in links}
    with pytest.raises(InputError, match="healthy has fewer than 13 readable images"):
        training.choose(drawn, job.cache / "more", {"train": 26})


def entry(name: str, seconds: float, repeat: int = 1, **change: Any) -> dict[str, Any]:
    """A made-up repetition: 100 images an epoch, the second in `seconds`; 50 evaluated in half of that."""
    trials = 3 if name == "ours, three trials" else 1
    result = {
        "precision": "fp32",
        "trials": [{"seconds": 3 * seconds, "epochs": [[100, 99.0], [100, seconds]]}] * trials,
        "evaluation": [50, seconds / 2],
        "memory": 4e9,
        "anonymous": 3e9,
        "trained": 7,
        "images_trained": 200,
        "images_evaluated": 50,
        **change,
    }
    rates = {"body_flops": 6e9, "tail_flops": 2e9, "matrix_rate": {"fp32": 1e11}}
    return {"contestant": name, "repeat": repeat, "figures": training.figures(result, rates), **result}


def test_figures_leave_out_the_first_epoch() -> None:
    assert entry("torchvision", 10.0)["figures"] == {
        "training": 10.0,
        "evaluation": 10.0,
        "trial": 30.0,
        "memory": 4e9,
        "anonymous": 3e9,
        "share": 10 * 8e9 / 1e11,
    }
    assert entry("ours, three trials", 10.0)["figures"]["share"] == 10 * (2e9 + 2e9) / 1e11  # a third of the body


def test_ratios_are_paired_by_repetition() -> None:
    ours = [entry("ours", seconds, i) for i, seconds in enumerate((1.0, 2.0, 4.0))]
    plain = [entry("torchvision", seconds, i, memory=8e9) for i, seconds in enumerate((3.0, 4.0, 20.0))]
    summary = training.summarise([*plain, *ours])
    times = {"median": 3.0, "min": 2.0, "max": 5.0}  # 3/1, 4/2, 20/4; of the medians it would be 2
    assert list(summary["contestants"]) == ["ours", "torchvision"]
    assert summary["contestants"]["ours"]["training"] == {"median": 50.0, "min": 25.0, "max": 100.0}
    ratios = summary["ratios"]["ours"]["torchvision"]
    assert {figure: {k: pytest.approx(v) for k, v in ratios[figure].items()} for figure in ratios} == {
        "training": times,
        "evaluation": times,
        "trial": times,
        "memory": {"median": 0.5, "min": 0.5, "max": 0.5},
    }


@pytest.mark.parametrize("what", ["trained", "images_trained", "images_evaluated"])
def test_unequal_work_is_no_comparison(what: str) -> None:
    with pytest.raises(InputError, match=f"did not do the same work; {what}: .*'torchvision': \\[1\\]"):
        training.summarise([entry("ours", 1.0), entry("torchvision", 1.0, **{what: 1})])


def test_contestants_take_turns(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round starts with the next one, measures the matrix rate anew, and no repetition finds another's cache."""
    asked, caches = [], []

    def here(measure: Any, job: Job, name: str) -> Result:
        asked.append(name)
        caches.append(job.cache)
        made = entry("torchvision", 1.0)
        rates = {"body_flops": 6e9, "tail_flops": 2e9, "matrix_rate": {"fp32": 1e11}, "precision": "fp32"}
        if measure is contestants.matrix_rates:
            return rates
        return {key: value for key, value in made.items() if key not in ("contestant", "repeat")}

    monkeypatch.setattr(training, "in_process", here)
    raw, rates = training._rounds(job, ["ours", "torchvision", "timm"], 2)
    assert asked == ["matrix rate", "ours", "torchvision", "timm", "matrix rate", "torchvision", "timm", "ours"]
    assert [(e["contestant"], e["repeat"]) for e in raw[3:]] == [("torchvision", 2), ("timm", 2), ("ours", 2)]
    assert len(rates) == 2
    assert len(set(caches)) == 1 + 6  # the matrix rate's is of no use


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drawn: Path) -> Path:
    """A place to call main from: small images, and repetitions in this process instead of their own."""

    def here(measure: Any, job: Job, name: str) -> Result:
        monkeypatch.setenv("FACES_CACHE", str(job.cache))
        return {**measure(replace(job, workers=0)), "memory": 2e9, "anonymous": 1e9}

    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["train"]["transforms"] |= {"resize": 32, "crop": 40}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "in_process", here)
    monkeypatch.setattr(contestants, "SIDE", 64)
    return drawn


def test_command(at_once: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find(name))
    wanted = ["ours", "torchvision", "timm"]
    training.main(at_once, Path("random"), 8, 2, 1, 4, "fp32", wanted, Path("out.json"))

    told = capsys.readouterr()
    assert "error: timm is left out: it is not installed; make benchmark installs it\n" in told.err
    assert "| timm | | not installed |" in told.out
    assert re.search(r"^\| ours / torchvision \|( [\d.e+-]+ \([\d.e+-]+ to [\d.e+-]+\) \|){4}$", told.out, re.MULTILINE)

    written = json.loads(Path("out.json").read_text())
    assert written["header"]["images"] == {"train": 8, "validation": 2, "test": 2}
    assert written["header"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert written["header"]["tail_flops"] > written["header"]["body_flops"] / 10 > 0
    assert [e["contestant"] for e in written["raw"]] == ["ours", "torchvision"]
    assert {e["images_trained"] for e in written["raw"]} == {16}
    assert {e["trained"] for e in written["raw"]} == {trained_part()}
    assert list(Path("cache").iterdir()) == []  # what was measured leaves nothing behind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": 10}, "--images 10 is not a multiple of --batch-size 4"),
        ({"contestant": ["keras"]}, "no contestant 'keras'; there are: ours"),
    ],
)
def test_wrong_options(at_once: Path, change: dict[str, Any], message: str) -> None:
    options = {"images": at_once, "weights": Path("random"), "train_images": 8, "batch_size": 4}
    with pytest.raises(InputError, match=message):
        training.main(**{**options, **change})


def test_requirements_bring_the_contestants() -> None:
    text = (REPOSITORY / "benchmarks/requirements.txt").read_text()
    assert set(training.PACKAGES) <= set(re.findall(r"^([a-z-]+)==", text, re.MULTILINE))


def test_the_table_of_processors_has_each_setting_and_their_spread() -> None:
    def document(accuracy: float, epoch: int, precision: str) -> dict[str, Any]:
        metrics = {key: {"value": accuracy} for key in processors.METRICS}
        machine = {"precision": precision, "threads": 2}
        return {"n": {"test": 300}, "metrics": metrics, "training": {"stopped_epoch": epoch, "machine": machine}}

    page = processors.markdown({"AVX2": document(0.9, 12, "fp32"), "AVX512_CORE_BF16": document(0.92, 14, "bf16")})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()[2:]]
    assert rows[0] == ["AVX2", "fp32, 2", "90.0%", "90.0%", "90.0%", "12", "300"]
    assert rows[2][2:] == ["91.0", "91.0", "91.0", "13.0", "2"]
    assert rows[3][2:] == ["1.4", "1.4", "1.4", "1.4", "2"]
    assert rows[4][2:] == ["90.0 to 92.0", "90.0 to 92.0", "90.0 to 92.0", "12.0 to 14.0", "2"]


def test_a_shorter_patience_is_what_training_with_it_would_have_done() -> None:
    curve = pd.DataFrame(
        {"val_loss": [0.9, 0.5, 0.6, 0.5, 0.4, 0.7, 0.8, 0.9], "val_accuracy": [5, 6, 9, 7, 8, 4, 3, 2]}
    )
    lengths = {patience: len(stopping.stopped(curve, patience)) for patience in (1, 2, 3, 5)}
    assert lengths == {1: 3, 2: 4, 3: 8, 5: 8}  # a loss as low as the lowest is no improvement
    assert {rule: stopping.kept(curve, rule) for rule in stopping.KEPT} == {
        "lowest loss": 8,
        "highest accuracy": 9,
        "last": 2,
    }
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in stopping.markdown({"a": [curve]}).splitlines()]
    assert rows[2][:4] == ["a", "1", "2", "lowest loss"]
    assert len(rows) == 2 + len(stopping.PATIENCE) + 2
