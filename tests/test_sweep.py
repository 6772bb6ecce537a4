"""The search for the improved recipe: what is queued, and the table made of what came back."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from faces import sweep
from faces.cli import InputError
from faces.params import Params, load_params
from faces.sweep import Sweep, load_sweep


@pytest.fixture
def params() -> Params:
    return load_params(Path(__file__).parents[1] / "params.yaml")


def of(**variants: dict[str, Any]) -> Sweep:
    return Sweep.model_validate({"runs": ["improved", "improved-split2"], "variants": variants})


def test_every_variant_is_a_valid_recipe(params: Params) -> None:
    found = load_sweep()
    assert len(found.variants) > 1
    for name in found.variants:
        sweep.check(params, found, name)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"runs": ["improved"], "variants": {"Two words": {}}}, r"sweep\.yaml: variants\.Two words"),
        ({"runs": ["improved"], "variants": {}}, r"sweep\.yaml: variants: "),
        (
            {"runs": ["improved"], "variants": {"a": {"crop": 3}}},
            r"sweep\.yaml: variants\.a\.crop is not a known param",
        ),
        ({"variants": {"a": {}}}, r"sweep\.yaml: runs is missing"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], says: str
) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/sweep.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        load_sweep()


def test_variants_that_do_not_fit_are_named_before_anything_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = of(good={}, bad={"transforms": {"first_crop": 256}})
    monkeypatch.setattr(sweep, "load_sweep", lambda: wrong)
    monkeypatch.setattr(sweep, "execute", lambda *args, **kwargs: pytest.fail("queued"))
    with pytest.raises(InputError, match=r"sweep.variants.bad.transforms: .*first_crop must be at most crop"):
        sweep.main("queue")


def test_runs_of_another_recipe_are_refused(params: Params) -> None:
    for name in ("trial1", "none"):
        wrong = Sweep.model_validate({"runs": ["improved", name], "variants": {"plain": {}}})
        with pytest.raises(InputError, match=rf"runs: '{name}' is no run of the recipe improved"):
            sweep.check(params, wrong, "plain")


def test_the_options_are_read_by_dvc_as_they_were_meant(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    changes: dict[str, Any] = {
        "freeze": "layer2",
        "ema_decay": 0.0,
        "transforms": {"first_crop": None, "scale": [0.08, 1.0], "evaluation_flip": False},
    }
    options = sweep.overrides(of(one=changes), "one")
    assert options[::2] == ["-S"] * (len(options) // 2)
    before = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(before), encoding="utf-8")
    apply_overrides(path, options[1::2])
    after = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected = json.loads(json.dumps(before))
    expected["recipes"]["improved"] |= {"freeze": "layer2", "ema_decay": 0.0}
    expected["recipes"]["improved"]["transforms"] |= changes["transforms"]
    assert after == expected


def test_the_table_has_every_variant_best_first(params: Params) -> None:
    def facts(*right: int) -> list[dict[str, Any]]:
        return [
            {
                "source": "kaggle", "n_validation": 600, "seconds": 240 + 60 * number,
                "finished": {"val_accuracy": hits / 600, "val_loss": 0.2 + 0.1 * number},
            }
            for number, hits in enumerate(right)
        ]  # fmt: skip

    two = of(plain={}, slow={"learning_rate": 0.0001})
    page = sweep.markdown(params, two, {"plain": facts(570, 580), "slow": facts(576, 582)})
    rows = [" ".join(line.split()) for line in page.splitlines() if line.startswith(("| plain", "| slow"))]
    assert rows == [
        "| slow | learning_rate 0.0001 | 96.5% (95.3 to 97.4) | 1200 | 0.2500 | 4 |",
        "| plain | none | 95.8% (94.5 to 96.8) | 1200 | 0.2500 | 4 |",
    ]
    words = " ".join(page.split())
    assert "trained on the splits seed1 (seed 1), seed2 (seed 1)" in words
    assert "No test image was scored" in words


def test_without_a_result_the_table_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for name in ("params.yaml", "faces/sweep.yaml"):
        shutil.copyfile(name, tmp_path / name)
    command = [sys.executable, "-m", "faces.sweep", "table"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: experiment sweep-\S+ has no result \(.*\); run: make sweep", done.stderr.strip())
