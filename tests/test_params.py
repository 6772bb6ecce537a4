"""params.yaml: the committed one is valid, and each mistake is one clear line that names the key."""

import platform
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.demo import SAMPLE, overlay
from faces.cli import InputError
from faces.params import load_params
from faces.training import recipe as recipe_module
from faces.training.recipe import evaluation_size, evaluation_views, on_this_machine, resolve

COMMITTED: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))


def load(tmp_path: Path, values: Any) -> Any:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_params(path)


def test_the_committed_parameters_are_the_papers() -> None:
    params = load_params()
    trials = [resolve(params, name).recipe for name in ("trial1", "trial2", "trial3")]
    assert [(trial.batch_size, trial.learning_rate) for trial in trials] == [
        (32, 0.0001), (128, 0.001), (256, 0.001),
    ]  # Table II  # fmt: skip
    for trial in trials:
        assert (trial.transforms.resize, trial.transforms.crop, trial.max_epochs) == (224, 250, 100)


def test_the_active_run_starts_as_trial_2() -> None:
    params = load_params()
    active, trial = resolve(params, "active"), resolve(params, "trial2")
    assert (active.recipe, active.split, active.seed) == (trial.recipe, trial.split, trial.seed)


def test_every_key_that_may_be_varied_is_there() -> None:
    assert list(COMMITTED["train"]["transforms"]) == list(COMMITTED["recipe"]["transforms"])
    assert set(COMMITTED["train"]) == {*COMMITTED["recipe"], "batch_size", "learning_rate", "split", "seed"}


def test_dvc_changes_one_line_for_one_value(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    before = Path("params.yaml").read_text(encoding="utf-8")
    path.write_text(before, encoding="utf-8")
    apply_overrides(path, ["train.batch_size=64"])
    after = path.read_text(encoding="utf-8")
    lines = list(zip(before.splitlines(), after.splitlines(), strict=True))
    assert [pair for pair in lines if pair[0] != pair[1]] == [("  batch_size: 128", "  batch_size: 64")]


def test_evaluation_is_the_paper_s_unless_asked_otherwise() -> None:
    transforms = resolve(load_params(), "trial1").recipe.transforms
    assert (evaluation_size(transforms), evaluation_views(transforms)) == (250, (False,))
    ours = resolve(load_params(), "improved").recipe.transforms
    assert (ours.crop, evaluation_size(ours), evaluation_views(ours)) == (160, 160, (False, True))


@pytest.mark.parametrize(("asked", "has_bf16", "got"), [("bf16", True, "bf16"), ("bf16", False, "fp32")])
def test_bf16_where_the_machine_has_it(
    asked: str,
    has_bf16: bool,
    got: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recipe_module, "has_bf16", lambda: has_bf16)
    params = load(tmp_path, overlay(COMMITTED, {"recipe": {"precision": asked}}))
    recipe = resolve(params, "trial1").recipe
    assert capsys.readouterr().err == ""  # said once, by the run that it concerns
    assert on_this_machine(recipe).precision == got
    assert ("fp32" in capsys.readouterr().err) == (asked != got)


def test_fp32_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "has_bf16", lambda: True)
    params = load(tmp_path, overlay(COMMITTED, {"train": {"precision": "fp32"}}))
    assert on_this_machine(resolve(params, "active").recipe).precision == "fp32"


def test_emulated_bf16_is_told_by_the_processor() -> None:
    """Where /proc/cpuinfo lists the processor's instructions, they say what torch says."""
    flags = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not flags.exists():
        pytest.skip("the instructions are listed for x86-64 Linux only")
    assert recipe_module.has_bf16() == (" avx512bw " in flags.read_text())


def test_a_recipe_overrides_what_all_share_and_a_run_its_recipe(tmp_path: Path) -> None:
    changes = {"recipes": {"trial1": {"freeze": "layer2"}}}
    run = {"recipe": "trial1", "split": "seed2", "seed": 7, "change": {"batch_size": 64, "transforms": {"crop": 96}}}
    values = overlay(COMMITTED, changes)
    values["runs"] = {**COMMITTED["runs"], "trial4": run}
    params = load(tmp_path, values)
    first, second, fourth = (resolve(params, name) for name in ("trial1", "trial2", "trial4"))
    assert (first.recipe.freeze, second.recipe.freeze, fourth.recipe.freeze) == ("layer2", "layer3", "layer2")
    assert (fourth.split, fourth.seed) == ("seed2", 7)
    assert fourth.recipe == first.recipe.model_copy(
        update={"batch_size": 64, "transforms": first.recipe.transforms.model_copy(update={"crop": 96})}
    )


def test_an_empty_value_takes_away_what_a_layer_below_has_given(tmp_path: Path) -> None:
    values = overlay(COMMITTED, {})
    values["runs"] = {"improved": {**COMMITTED["runs"]["improved"], "change": {"transforms": {"first_crop": None}}}}
    transforms = resolve(load(tmp_path, values), "improved").recipe.transforms
    assert (transforms.first_crop, transforms.crop) == (None, 160)


def test_the_demos_parameters_are_valid(tmp_path: Path) -> None:
    assert load(tmp_path, overlay(COMMITTED, SAMPLE)).data.kind == "sample"


def test_a_path_of_ones_own_is_neither_kaggle_nor_sample(tmp_path: Path) -> None:
    assert load(tmp_path, overlay(COMMITTED, {"data": {"source": "/somewhere"}})).data.kind == "own"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sead": 1}, "sead is not a known parameter"),
        ({"recipe": {"patiense": 3}}, "recipe.patiense is not a known parameter"),
        ({"recipes": {"trial1": {"batch_size": "32"}}}, "recipes.trial1.batch_size: .*valid integer .is '32'"),
        ({"train": {"learning_rate": "1e-3"}}, "train.learning_rate: .*valid number .is '1e-3'"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate: .*greater than 0"),
        ({"recipe": {"freeze": "layer9"}}, "recipe.freeze: .*'layer9'"),
        ({"recipe": {"precision": "fp8"}}, "recipe.precision"),
        ({"recipe": {"schedule": "cosine"}}, "recipe.schedule: .*'cosine'"),
        ({"recipe": {"label_smoothing": 1.0}}, "recipe.label_smoothing: .*less than 1"),
        ({"recipes": {"trial1": {"transforms": {"crop": 8}}}}, "recipes.trial1.transforms.crop: .*greater than"),
        ({"recipes": {"trial1": {"transforms": {"size": 8}}}}, "recipes.trial1.transforms.size is not a known"),
        ({"train": {"transforms": {"first_crop": 300}}}, "train.transforms: .*first_crop must be at most crop"),
        ({"runs": {"a": {"recipe": "trial1", "split": "seed1"}}}, "runs.a.seed is missing"),
        ({"runs": {"a": {"recipe": "trial9", "split": "seed1", "seed": 1}}}, "runs.a.recipe: no recipe .*'trial9'"),
        ({"runs": {"a": {"recipe": "trial1", "split": "seed9", "seed": 1}}}, "runs.a.split: no split .*'seed9'"),
        ({"runs": {"active": {"recipe": "trial1", "split": "seed1", "seed": 1}}}, "runs.active: .*choose another"),
        ({"runs": {"A b": {"recipe": "trial1", "split": "seed1", "seed": 1}}}, "runs.A b"),
        ({"train": {"split": "seed9"}}, "train.split: no split .*'seed9'; there are: .*seed1, seed2"),
        ({"group": {"strict": {"healthy": 0.9}}}, r"strict \(0.9\) joins more than children \(0.5642\)"),
        ({"group": {"floor": 0.6}}, r"strict \(0.553\) .* at least floor \(0.6\)"),
        ({"group": {"across": 0.4}}, r"across \(0.4\) must be at least floor \(0.5\)"),
        ({"networks": {"source": "elsewhere"}}, "networks.source: .*'elsewhere'"),
        ({"compare": {"split": "seed9"}}, "compare.split: no split .*'seed9'"),
        ({"model": "trial9"}, "model: no run .*'trial9'"),
        ({"train": {"transforms": 160}}, "train.transforms: .*is 160"),
        ({"split": {"test": 0.2}}, "split: .*must sum to 1"),
        ({"split": {"folds": 1}}, "split: .*folds must be 0"),
        ({"data": {"sha256": "abc"}}, "data.sha256"),
        ({"data": {"dataset": "https://kaggle.com/a/b"}}, "data.dataset"),
        ({"train": {"transforms": {"scale": [1.0, 0.08]}}}, "train.transforms: .*scale must be"),
        ({"recipe": {"transforms": {"ratio": [0.75]}}}, "recipe.transforms.ratio"),
        ({"evaluate": {"recall": 1.5}}, "evaluate.recall"),
        ({"train": {"seed": -1}}, "train.seed: "),
        ({"evaluate": {"seed": True}}, "evaluate.seed: "),
        ({"runs": None}, "runs"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    values = {**COMMITTED, **changes} if changes.get("runs", 1) is None else overlay(COMMITTED, changes)
    with pytest.raises(InputError, match=says) as error:
        load(tmp_path, values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["launch", "data", "recipe", "runs"])
def test_a_missing_parameter_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=f"{key} is missing"):
        load(tmp_path, {name: value for name, value in COMMITTED.items() if name != key})


def test_a_missing_hyperparameter_is_named(tmp_path: Path) -> None:
    values = overlay(COMMITTED, {})
    values["recipes"] = {**COMMITTED["recipes"], "trial1": {"batch_size": 32}}
    with pytest.raises(InputError, match=r"runs.trial1.learning_rate is missing"):
        load(tmp_path, values)


def test_layers_that_do_not_go_together_are_refused_before_training(tmp_path: Path) -> None:
    values = overlay(COMMITTED, {"recipes": {"improved": {"transforms": {"crop": 96}}}})  # first_crop is larger
    with pytest.raises(InputError, match=r"runs.improved.transforms: .*first_crop must be at most crop"):
        load(tmp_path, values)


def test_no_file_no_yaml_and_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(InputError, match=r"no run is named 'trial9'; there are: active, trial1"):
        resolve(load_params(), "trial9")
