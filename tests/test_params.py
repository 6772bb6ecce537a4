"""params.yaml: the committed one is valid, and each mistake is one clear line that names the key."""

import platform
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.demo import SAMPLE, overlay
from faces import params as params_module
from faces.cli import InputError
from faces.params import load_params

COMMITTED: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))


def load(tmp_path: Path, values: Any) -> Any:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_params(path)


def test_the_committed_parameters_are_the_papers() -> None:
    params = load_params()
    hyperparameters = [
        (r.batch_size, r.learning_rate) for r in map(params.recipe, ("trials.trial1", "trials.trial2", "trials.trial3"))
    ]
    assert hyperparameters == [(32, 0.0001), (128, 0.001), (256, 0.001)]  # Table II
    assert (params.transforms.resize, params.transforms.crop, params.fit["max_epochs"]) == (224, 250, 100)
    assert params.recipe("train") == params.recipe("trials.trial2")


def test_evaluation_is_the_paper_s_unless_asked_otherwise() -> None:
    transforms = load_params().transforms
    assert (transforms.evaluation_size, transforms.evaluation_views) == (250, (False,))
    ours = load_params().transforms_of("trials.improved")
    assert (ours.crop, ours.evaluation_size, ours.evaluation_views) == (192, 224, (False, True))


@pytest.mark.parametrize(("asked", "has_bf16", "got"), [("bf16", True, "bf16"), ("bf16", False, "fp32")])
def test_bf16_where_the_machine_has_it(
    asked: str,
    has_bf16: bool,
    got: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(params_module, "has_bf16", lambda: has_bf16)
    params = load(tmp_path, overlay(COMMITTED, {"fit": {"precision": asked}}))
    assert capsys.readouterr().err == ""  # said once, by the run that it concerns
    assert params.recipe("trials.trial1").precision == got
    assert ("fp32" in capsys.readouterr().err) == (asked != got)


def test_fp32_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params_module, "has_bf16", lambda: True)
    params = load(tmp_path, overlay(COMMITTED, {"train": {"precision": "fp32"}}))
    assert params.recipe("train").precision == "fp32"


def test_emulated_bf16_is_told_by_the_processor() -> None:
    """Where /proc/cpuinfo lists the processor's instructions, they say what torch says."""
    flags = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not flags.exists():
        pytest.skip("the instructions are listed for x86-64 Linux only")
    assert params_module.has_bf16() == (" avx512bw " in flags.read_text())


def test_a_trial_overrides_what_all_share(tmp_path: Path) -> None:
    params = load(tmp_path, overlay(COMMITTED, {"trials": {"trial1": {"freeze": "layer2"}}}))
    assert params.recipe("trials.trial1").freeze == "layer2"
    assert params.recipe("trials.trial2").freeze == "layer3"


def test_a_run_lays_its_own_transforms_over_those_of_all(tmp_path: Path) -> None:
    params = load(tmp_path, overlay(COMMITTED, {"trials": {"trial1": {"transforms": {"crop": 96}}}}))
    own, shared = params.transforms_of("trials.trial1"), params.transforms_of("trials.trial2")
    assert shared == params.transforms
    assert own.model_dump() == {**shared.model_dump(), "crop": 96}
    assert params.recipe("trials.trial1") == load(tmp_path, COMMITTED).recipe("trials.trial1")


def test_the_demos_parameters_are_valid(tmp_path: Path) -> None:
    assert load(tmp_path, overlay(COMMITTED, SAMPLE)).data.kind == "sample"


def test_a_path_of_ones_own_is_neither_kaggle_nor_sample(tmp_path: Path) -> None:
    assert load(tmp_path, overlay(COMMITTED, {"data": {"source": "/somewhere"}})).data.kind == "own"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sead": 1}, "sead is not a known parameter"),
        ({"fit": {"patiense": 3}}, "train.patiense is not a known parameter"),
        ({"trials": {"trial1": {"batch_size": "32"}}}, "trials.trial1.batch_size: .*valid integer .is '32'"),
        ({"train": {"learning_rate": "1e-3"}}, "train.learning_rate: .*valid number .is '1e-3'"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate: .*greater than 0"),
        ({"fit": {"freeze": "layer9"}}, "train.freeze: .*'layer9'"),
        ({"fit": {"precision": "fp8"}}, "train.precision"),
        ({"fit": {"schedule": "cosine"}}, "train.schedule: .*'cosine'"),
        ({"fit": {"label_smoothing": 1.0}}, "train.label_smoothing: .*less than 1"),
        ({"trials": {"trial1": {"transforms": {"crop": 8}}}}, "trials.trial1.transforms.crop: .*greater than"),
        ({"trials": {"trial1": {"transforms": {"size": 8}}}}, "trials.trial1.transforms.size is not a known"),
        ({"transforms": {"first_crop": 300}}, "transforms: .*first_crop must be at most crop"),
        ({"repeats": {"split_seeds": [1, 1]}}, "repeats: .*split_seeds must differ"),
        ({"sweep": {"variants": {"Two words": {}}}}, "sweep.variants.Two words"),
        ({"train": {"transforms": 160}}, "train.transforms must be a mapping .is 160"),
        ({"split": {"test": 0.2}}, "split: .*must sum to 1"),
        ({"split": {"folds": 1}}, "split: .*folds must be 0"),
        ({"data": {"sha256": "abc"}}, "data.sha256"),
        ({"data": {"dataset": "https://kaggle.com/a/b"}}, "data.dataset"),
        ({"transforms": {"scale": [1.0, 0.08]}}, "transforms: .*scale must be"),
        ({"transforms": {"ratio": [0.75]}}, "transforms.ratio"),
        ({"evaluate": {"recall": 1.5}}, "evaluate.recall"),
        ({"seed": -1}, "seed: "),
        ({"seed": True}, "seed: "),
        ({"trials": None}, "trials"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    values = {**COMMITTED, **changes} if changes.get("trials", 1) is None else overlay(COMMITTED, changes)
    with pytest.raises(InputError, match=says) as error:
        load(tmp_path, values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["seed", "data", "fit", "trials"])
def test_a_missing_parameter_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=f"{key} is missing"):
        load(tmp_path, {name: value for name, value in COMMITTED.items() if name != key})


def test_a_missing_hyperparameter_is_named(tmp_path: Path) -> None:
    values = overlay(COMMITTED, {})
    values["trials"] = {"trial1": {"batch_size": 32}}
    with pytest.raises(InputError, match=r"trials.trial1.learning_rate is missing"):
        load(tmp_path, values)


def test_no_file_no_yaml_and_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(InputError, match=r"no run named 'trials.trial9'; there are: train, trials.trial1"):
        load_params().recipe("trials.trial9")
