"""`--help` of each command: what every argument and option is, and an example in those for people."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

WITH_A_MAIN = [
    str(path.with_suffix("")).replace("/", ".")
    for folder in ("stages", "faces", "ci", "benchmarks")
    for path in sorted(Path(folder).rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
OTHERS = {"ci.install", "faces.source.kaggle_client"}  # the first has only the standard library, the second serves one
COMMANDS = [name for name in WITH_A_MAIN if name not in OTHERS]
FOR_PEOPLE = [
    "faces.predict",
    "faces.export",
    "faces.sweep",
    "faces.source.kaggle_dataset",
    "ci.gate",
    "ci.consistent",
]


def command(name: str) -> Any:
    """Return a module's command, as faces.cli.run makes it of its main."""
    source = Path(name.replace(".", "/") + ".py").read_text(encoding="utf-8")
    assert re.search(r"^    (cli\.)?run\(main\)$", source, re.MULTILINE), "it does not take its options from main"
    app = typer.Typer(add_completion=False)
    app.command()(importlib.import_module(name).main)
    return typer.main.get_command(app)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_is_explained(name: str) -> None:
    if name == "benchmarks.training":
        pytest.importorskip("torchvision")
    found = command(name)
    assert found.help
    assert [parameter.name for parameter in found.params if parameter.name != "help" and not parameter.help] == []


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_a_command_for_people_ends_its_help_with_an_example_that_it_understands(name: str) -> None:
    found = command(name)
    *_, last = found.help.splitlines()
    assert last.startswith(f"Example: python -m {name} ")
    words = shlex.split(last.removeprefix("Example: "))[3:]
    assert found.make_context(name, words).params.keys() == {parameter.name for parameter in found.params} - {"help"}


def test_the_command_that_runs_before_anything_is_installed_explains_itself() -> None:
    done = subprocess.run([sys.executable, "-m", "ci.install", "--help"], capture_output=True, text=True, check=True)
    for option in ("--dev", "--torch"):
        assert re.search(rf"^  {option}\b.* {{2,}}\w|^  {option}\b.*\n {{10,}}\w", done.stdout, re.MULTILINE), option
