"""Weights, and the cut into a frozen body and a trained tail, against torchvision's own forward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18, resnet34

from faces.cli import InputError
from faces.training import model
from faces.training.recipe import FROZEN_LAYERS
from faces.training.transforms import normalise


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = resnet34(weights=None)
    for module in network.modules():  # running statistics that matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    path = tmp_path_factory.mktemp("weights") / "resnet34.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("freeze", FROZEN_LAYERS)
def test_body_and_tail_make_the_whole_network(weights: Path, freeze: str) -> None:
    network = model.build(weights, seed=1)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network.eval()(normalise(images))
    body = model.Body(network, freeze, "fp32")
    tail = model.Tail(network, freeze, "fp32").eval()
    with torch.inference_mode():
        torch.testing.assert_close(tail(body(images)), expected, atol=1e-4, rtol=1e-4)


def test_bf16_stays_near_fp32(weights: Path) -> None:
    network = model.build(weights, seed=1)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    exact, rounded = (model.Body(network, "layer3", precision)(images).float() for precision in ("fp32", "bf16"))
    assert rounded.dtype == torch.float32
    assert (exact - rounded).norm() / exact.norm() < 0.03


def test_only_the_tail_is_trained(weights: Path) -> None:
    network = model.build(weights, seed=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    body, tail = model.Body(network, "layer3", "fp32"), model.Tail(network, "layer3", "fp32").train()
    optimizer = torch.optim.AdamW(tail.parameters(), lr=0.01)
    loss = tail(body(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))).square().sum()
    loss.backward()
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert {key.split(".")[0] for key in changed} == {"layer4", "fc"}
    assert any("running_mean" in key for key in changed)


def test_the_head_follows_the_seed(weights: Path) -> None:
    first, again, other = (model.build(weights, seed).fc.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_body_without_head_in_float16_is_read(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    half = {key: value.half() for key, value in state.items() if not key.startswith("fc.")}
    torch.save(half, tmp_path / "half.pth")
    loaded = model.build(tmp_path / "half.pth", seed=1).conv1.weight
    assert torch.equal(loaded, state["conv1.weight"].half().float())


def broken(state: dict[str, Any], how: str) -> Any:
    match how:
        case "architecture":
            return resnet18(weights=None).state_dict()
        case "key":
            return {key: value for key, value in state.items() if key != "layer2.0.conv1.weight"}
        case "shape":
            return {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}
        case "dtype":
            return {**state, "bn1.weight": torch.ones(64, dtype=torch.float64)}
        case "nan":
            return {**state, "bn1.weight": torch.full((64,), float("nan"))}
        case "extra":
            return {**state, "classifier.weight": torch.zeros(2)}
        case _:
            return [1, 2, 3]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("architecture", "lacks layer1.2.conv1.weight"),
        ("key", "lacks layer2.0.conv1.weight"),
        ("shape", r"conv1.weight has shape \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)"),
        ("dtype", "bn1.weight is torch.float64"),
        ("nan", "bn1.weight holds values that are not finite"),
        ("extra", "it has classifier.weight"),
        ("list", "not a state dict"),
    ],
)
def test_wrong_weights_are_one_clear_line(weights: Path, tmp_path: Path, how: str, says: str) -> None:
    torch.save(broken(torch.load(weights, weights_only=True), how), tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=says) as error:
        model.read_state_dict(tmp_path / "wrong.pth")
    assert "\n" not in str(error.value)


def test_no_weights_and_no_torch_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights file"):
        model.read_state_dict(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a pickle")
    with pytest.raises(InputError, match="not a file of weights"):
        model.read_state_dict(tmp_path / "text.pth")


class RunsCode:
    """What a pickle makes by calling a function when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": RunsCode(tmp_path / "has run")}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="not a file of weights that can be loaded safely"):
        model.read_state_dict(tmp_path / "weights.pth")
    assert not (tmp_path / "has run").exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert (tmp_path / "has run").exists()  # read otherwise, it would have been


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("... can't allocate memory ..."), OSError(12, "no")])
def test_too_little_memory_is_not_the_files_fault(
    weights: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(InputError, match="the memory does not hold it"):
        model.read_state_dict(weights)


def test_a_body_is_no_trained_model(weights: Path) -> None:
    with pytest.raises(InputError, match="no trained two-class model"):
        model.load_model(weights)


@pytest.mark.parametrize(
    ("sha256", "says"),
    [
        ("b627a593" + "0" * 56, "IMAGENET1K_V1"),
        ("0ca4ef562a1a9d9c7138b6c81ce7054f" + "0" * 32, "statistics estimated again"),
        ("0" * 64, "unknown"),
    ],
)
def test_what_is_known_of_a_file(sha256: str, says: str) -> None:
    assert says in model.known_as(sha256)
