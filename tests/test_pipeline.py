"""dvc.yaml against the code, and the whole pipeline on the drawn sample: complete, honest, the same twice."""

import contextlib
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from graphlib import TopologicalSorter
from operator import getitem
from pathlib import Path

import pytest
import yaml
from pipeline import READ_ONLY_PARAMETERS, Stage, imported, imports, parameters_read, recorded_reads, stages

from ci import costs, demo
from ci.soak import MEASURED

STAGES = stages()
SMALL = demo.overlay(
    demo.overlay(demo.SAMPLE, demo.every_run(max_epochs=2, freeze="layer3")),
    {"sample": {"images_per_class": 40}, "evaluate": {"resamples": 200}},
)
SMALL_STAGES = stages(SMALL)
ROOMS = sorted(str(path.parent) for path in Path("faces").glob("*/__init__.py"))
# not listed by the stages that read them: parameters are tracked by value, and the report names the state of the lock
UNLISTED = {"params.yaml", "dvc.lock"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_depends_on_the_modules_it_imports_and_on_no_others(stage: Stage) -> None:
    modules = imported(stage.file) - READ_ONLY_PARAMETERS
    assert [module for module in sorted(modules) if not stage.lists(module)] == []
    code = [dep for dep in stage.deps if dep.endswith(".py") or dep in ROOMS]
    assert [dep for dep in code if not any(m == dep or m.startswith(f"{dep}/") for m in modules)] == []


def test_imports_between_rooms_go_one_way() -> None:
    rooms: dict[str, set[str]] = {}
    for path in map(str, Path("faces").rglob("*.py")):
        room = path.split("/")[1]
        rooms.setdefault(room, set()).update({module.split("/")[1] for module in imports(path)} - {room})
    order = list(TopologicalSorter(rooms).static_order())  # raises CycleError
    assert order.index("images") < order.index("training") < order.index("evidence") < order.index("pages")
    assert not rooms["training"] & {"evidence", "pages", "source"}


def test_rooms_are_small() -> None:
    for folder in ("faces", *ROOMS, "ci", "benchmarks"):  # stages has one file for each stage
        assert len(list(Path(folder).glob("*.py"))) <= 16, folder


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_declares_the_parameters_it_reads(stage: Stage) -> None:
    declared = {param.split(".")[0] for param in stage.params}
    assert parameters_read(stage.file) <= declared
    assert stage.desc


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_command_names_its_inputs_and_outputs(stage: Stage) -> None:
    command = [Path(word) for word in stage.cmd[3:]]
    data = [Path(dep) for dep in stage.deps if not dep.endswith(".py") and dep not in ROOMS]
    for path in [*data, *map(Path, stage.outs)]:
        assert any(word == path or word in path.parents or word == path.with_suffix("") for word in command), path
    assert stage.cmd[:2] == ["python", "-m"]


def test_stages_never_import_stages() -> None:
    for stage in STAGES:
        assert {module for module in imported(stage.file) if module.startswith("stages/")} == {stage.file}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which `dvc repro` has rebuilt everything from the drawn sample."""
    target = tmp_path_factory.mktemp("sample with a space") / "project"
    before = results_in_git()
    demo.prepare(target, SMALL)
    demo.reproduce(target)
    assert results_in_git() == before, "the demo wrote into the repository"
    return target


def results_in_git() -> dict[str, bytes]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.lock", "*.dvc", "*.yaml", "metrics", "plots"], capture_output=True
    )
    return {
        name: Path(name).read_bytes() for name in listed.stdout.decode().split("\0") if name and Path(name).exists()
    }


def digests(root: Path) -> dict[str, str]:
    found = {}
    for stage in SMALL_STAGES:
        for out in stage.outs:
            path = root / out
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and file.name not in MEASURED:
                    found[file.relative_to(root).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def test_the_sample_pipeline_writes_every_output(sample: Path) -> None:
    for stage in SMALL_STAGES:
        for out in stage.outs:
            assert (sample / out).exists(), out
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=sample, check=True, capture_output=True, text=True
    )
    assert "up to date" in status.stdout


def test_every_result_of_the_sample_says_so(sample: Path) -> None:
    for path in [*(sample / "metrics/runs").glob("*.json"), sample / "metrics/active.json"]:
        assert json.loads(path.read_text(encoding="utf-8"))["source"] == "sample"
    for name in ("comparison.md", "data.md", "splits.md", "probes.md"):
        assert "sample" in (sample / "metrics" / name).read_text(encoding="utf-8").lower(), name
    assert "sample" in (sample / "MODEL_CARD.md").read_text(encoding="utf-8").lower()
    assert "sample" in (sample / "reports/index.html").read_text(encoding="utf-8").lower()
    comparison = json.loads((sample / "metrics/comparison.json").read_text(encoding="utf-8"))
    assert all(claim["verdict"] is None for claim in comparison["claims"])


def test_the_page_leads_to_the_several_splits(sample: Path) -> None:
    page = (sample / "reports/index.html").read_text(encoding="utf-8")
    link, section, heading = (page.index(text) for text in ('href="#repeats"', 'id="repeats"', "improved on 2 splits"))
    assert link < section < heading


def test_the_active_run_is_the_trial_it_equals(sample: Path) -> None:
    trial, active = sample / "models/runs/trial2", sample / "models/active"
    assert (trial / "model.pt").read_bytes() == (active / "model.pt").read_bytes()
    facts = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (trial, active)]
    assert facts[1] == {**facts[0], "run": "active"}


def test_no_image_of_a_duplicate_group_is_on_two_sides(sample: Path) -> None:
    split = json.loads((sample / "metrics/splits/seed1.json").read_text(encoding="utf-8"))
    assert split["groups"]["of_several_images"] >= 2  # the planted exact and near duplicates
    assert split["groups"]["in_several_subsets"] == 0


def test_dvc_status_names_each_stage_whose_module_has_changed(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    used = {stage.name: imported(stage.file) - READ_ONLY_PARAMETERS for stage in SMALL_STAGES}
    monkeypatch.chdir(sample)
    with Repo(".") as repo:
        own = {stage.addressing: stage for stage in repo.index.stages if stage.addressing in used}
        assert own.keys() == used.keys()
        code = {name: [dep for dep in stage.deps if dep.def_path.startswith(("faces/", "stages/"))]
                for name, stage in own.items()}  # fmt: skip
        for module in sorted(set().union(*used.values())):
            with changed(Path(module)):
                named = {name for name, deps in code.items() if any(dep.status() for dep in deps)}
            assert {name for name, modules in used.items() if module in modules} <= named, module
        assert not any(dep.status() for deps in code.values() for dep in deps)
    with changed(Path("faces/training/loop.py")):
        command = [sys.executable, "-m", "dvc", "status", "--json"]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert {name for name, modules in used.items() if "faces/training/loop.py" in modules} <= said.keys()
    assert not said.keys() & {"plot", "report", "compare", "split@seed1", "download"}


def test_dvc_status_names_the_stages_that_the_table_of_costs_says(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(sample)
    path = Path("params.yaml")
    before = path.read_text(encoding="utf-8")
    known = costs.read_stages()
    try:
        for key, value in {
            "launch": "python -B",
            "audit.max_pixels": 119000000,
            "splits.children1.seed": 2,
            "recipes.improved.batch_size": 8,
            "train.split": "seed2",
            "model": "trial1",
            "evaluate.recall": 0.97,
        }.items():
            params = yaml.safe_load(before)
            *sections, name = key.split(".")
            reduce(getitem, sections, params)[name] = value
            path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
            with Repo(".") as repo:
                said = repo.status()
            assert said.keys() == costs.runs_again(known, key)[0], key
    finally:
        path.write_text(before, encoding="utf-8")


def test_dvc_metrics_show_the_useful_ones_first_and_the_model_beside_the_active_run(sample: Path) -> None:
    command = [sys.executable, "-m", "dvc", "metrics", "show", "--json"]
    said = json.loads(subprocess.run(command, cwd=sample, check=True, capture_output=True, text=True).stdout)
    active, validation, model = (entry["data"] for entry in said[""]["data"].values())
    assert [*active][:4] == ["accuracy", "recall", "specificity", "auroc"]
    assert [*validation][:2] == ["val_accuracy", "val_loss"]
    assert [*model] == ["improved"]
    assert [*model["improved"]] == [*active]  # the same metrics


@contextlib.contextmanager
def changed(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(before + b"# changed\n")
    try:
        yield
    finally:
        path.write_bytes(before)


def unlisted(stage: Stage, reads: set[str], root: Path) -> list[str]:
    """Return what a stage read of the project, code and the cache of training aside, without listing it."""
    paths = {os.path.relpath(root / path, root) for path in reads}  # an absolute path replaces the root
    own = {
        path for path in paths if not path.startswith(("..", ".cache", ".git")) and not path.endswith((".py", ".pyc"))
    }
    above = {str(parent) for listed in (*stage.deps, *stage.outs) for parent in Path(listed).parents}
    # what is not there was opened below a folder's own handle, or written aside and renamed
    return sorted(path for path in own - UNLISTED - above if (root / path).exists() and not stage.lists(path))


def test_the_same_bytes_a_second_time_and_nothing_read_that_is_not_listed(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.prepare(tmp_path / "again", SMALL)
    monkeypatch.chdir(tmp_path / "again")
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    for stage in SMALL_STAGES:
        monkeypatch.setattr(sys, "argv", stage.cmd[2:])
        sys.modules.pop(stage.cmd[2], None)  # as in a process of its own
        with recorded_reads() as reads, contextlib.suppress(SystemExit):
            runpy.run_module(stage.cmd[2], run_name="__main__")
        assert unlisted(stage, reads, tmp_path / "again") == []
        if stage.name == "download":
            shutil.copytree("downloads/images", "data")  # data.dvc
    assert digests(tmp_path / "again") == digests(sample)
