"""The workflows: what they run is a make target, what they use is pinned, what they may do is little."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
COMMENT = 'gh pr comment "$NUMBER"'  # the only command that is not a target: it needs the pull request's number


def load(path: Path) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load(path.read_text())
    return workflow


JOBS = {f"{path.stem}/{name}": job for path in FILES for name, job in load(path)["jobs"].items()}
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]


def test_there_are_workflows() -> None:
    assert {"ci/test", "ci/demo", "ci/gate", "ci/freshness", "ci/comment"} <= JOBS.keys()


def test_commands_are_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    commands = {(name, step["run"]) for name, step in STEPS if "run" in step}
    for name, command in commands:
        called = re.fullmatch(r'make ([a-z-]+)(?: BASE="origin/\$TARGET")?', command)
        assert (called and called[1] in targets) or (name == "ci/comment" and command.startswith(COMMENT)), command


def test_commands_have_no_expressions() -> None:
    """What GitHub pastes into a shell, a branch's name can break out of."""
    assert [step["run"] for _, step in STEPS if "${{" in step.get("run", "")] == []


def test_actions_are_pinned_by_commit() -> None:
    text = "\n".join(path.read_text() for path in FILES)
    uses = re.findall(r"uses: (.*)", text)
    assert len(uses) == sum("uses" in step for _, step in STEPS) > 0
    for line in uses:
        assert re.fullmatch(r"actions/[a-z/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    versions = {(line.split("/")[1].split("@")[0], line.split("@")[1]) for line in uses}
    assert len(versions) == len({repository for repository, _ in versions})


def test_permissions_are_the_least() -> None:
    for path in FILES:
        assert load(path)["permissions"] == {}
        triggers = load(path)[True]  # YAML reads the key `on` as true
        assert triggers.keys() <= {"push", "pull_request", "workflow_dispatch"}
    for name, job in JOBS.items():
        expected = {"pull-requests": "write"} if name == "ci/comment" else {"contents": "read"}
        assert job["permissions"] == expected, name
        assert job["timeout-minutes"] <= 30


def test_who_may_write_runs_nothing_of_the_pull_request() -> None:
    steps = JOBS["ci/comment"]["steps"]
    assert not any("checkout" in step.get("uses", "") or "make" in step.get("run", "") for step in steps)
    assert "head.repo.full_name == github.repository" in JOBS["ci/comment"]["if"]


def test_tokens_and_secrets_only_where_used() -> None:
    for name, step in STEPS:
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False, name
        tokens = [key for key, value in step.get("env", {}).items() if "token" in str(value).lower()]
        assert tokens == (["GH_TOKEN"] if name == "ci/comment" and "run" in step else [])
    assert "secrets." not in "".join(path.read_text() for path in FILES)


def test_the_gate_sees_the_target_branch() -> None:
    checkout = next(s for s in JOBS["ci/gate"]["steps"] if "actions/checkout@" in s.get("uses", ""))
    assert checkout["with"]["fetch-depth"] == 0


def test_artifacts_are_what_the_targets_write() -> None:
    """The gate's table is found under the name by which the comment takes it, and the demo's paths are outputs."""
    paths = {}
    for _, step in STEPS:
        if "actions/upload-artifact@" in step.get("uses", ""):
            assert step["with"]["include-hidden-files"] is True  # both folders are
            paths[step["with"]["name"]] = step["with"]["path"].split()
    makefile = (REPOSITORY / "Makefile").read_text()
    (gate,) = re.findall(r"--markdown (\S+)", makefile)
    ((table, written),) = re.findall(r"ci\.comment .* (\S+) (\S+)$", makefile, re.MULTILINE)
    assert table == gate
    assert paths["gate"] == [written]
    (posted,) = re.findall(r"--body-file (\S+)", JOBS["ci/comment"]["steps"][-1]["run"])
    assert f'"{posted}"' in (REPOSITORY / "ci/comment.py").read_text()

    (demo,) = re.findall(r"ci\.demo (\S+)", makefile)
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].values()
    outs = [next(iter(out)) if isinstance(out, dict) else out for s in stages for out in s.get("do", s)["outs"]]
    for path in paths["demo-${{ matrix.machine }}"]:
        inside = Path(path).relative_to(demo)
        assert any(Path(out).is_relative_to(inside) for out in outs), path


def test_every_job_takes_the_environment_that_the_tests_keep() -> None:
    """It is made for this Python and these requirements, once per job, with the CPU build; only the tests write it."""
    assert load(REPOSITORY / ".github/workflows/ci.yml")["env"] == {"TORCH": "cpu"}
    keys = set()
    for name, job in JOBS.items():
        steps = [step.get("uses", step.get("run", "")) for step in job["steps"]]
        makes = [i for i, step in enumerate(steps) if step.startswith("make ")]
        caches = [i for i, step in enumerate(steps) if step.startswith("actions/cache")]
        assert len(caches) == bool(makes), name
        for i in caches:
            assert steps[i].startswith("actions/cache@") == (name == "ci/test")
            assert steps[i - 1].startswith("actions/setup-python@")
            assert i < makes[0]
            assert job["steps"][i - 1]["id"] == "python"
            assert job["steps"][i]["with"]["path"] == ".venv"
            keys.add(job["steps"][i]["with"]["key"])
    (key,) = keys
    for part in ("runner.os", "runner.arch", "steps.python.outputs.python-version", "hashFiles('requirements*.txt')"):
        assert part in key


def test_supported_pythons_are_tested() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pythons = JOBS["ci/test"]["strategy"]["matrix"]["python"]
    assert f">={pythons[0]}" == project["requires-python"]
    assert pythons == sorted(pythons, key=lambda version: int(version.split(".")[1]))


@pytest.mark.parametrize(
    "command",
    [
        ["zizmor", "--offline", "--no-progress", "--persona=pedantic"],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command: list[str]) -> None:
    found = shutil.which(command[0], path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([found, *command[1:], *map(str, FILES)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
