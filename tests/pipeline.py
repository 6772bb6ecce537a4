"""The stages of dvc.yaml as the tests need them: expanded, with the modules each really imports."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ci.demo import overlay

READ_ONLY_PARAMETERS = {"faces/cli.py", "faces/params.py"}  # they read what DVC tracks by value


@dataclass(frozen=True)
class Stage:
    """One stage as DVC runs it."""

    name: str
    desc: str
    cmd: list[str]
    deps: list[str]
    params: list[str]
    outs: list[str]

    @property
    def file(self) -> str:
        """The stage's own source file."""
        return self.cmd[2].replace(".", "/") + ".py"


def stages(changes: dict[str, Any] | None = None) -> list[Stage]:
    """Return the stages of dvc.yaml in their order, each `foreach` expanded; `changes` are laid over params.yaml."""
    found = []
    params = overlay(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")), changes or {})
    for name, body in yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        if "foreach" in body:
            over: Any = params
            for part in body["foreach"].removeprefix("${").removesuffix("}").split("."):
                over = over[part]
            word = "key" if isinstance(over, dict) else "item"
            found += [_stage(f"{name}@{one}", _fill(body["do"], {word: one, **params})) for one in over]
        else:
            found.append(_stage(name, _fill(body, params)))
    return found


def _fill(body: Any, values: dict[str, Any]) -> Any:
    if isinstance(body, dict):
        return {_fill(name, values): _fill(value, values) for name, value in body.items()}
    if isinstance(body, list):
        return [_fill(value, values) for value in body]
    return re.sub(r"\$\{(\w+)\}", lambda found: str(values[found[1]]), body) if isinstance(body, str) else body


def _stage(name: str, body: dict[str, Any]) -> Stage:
    outs = [*body.get("outs", []), *body.get("metrics", [])]
    names = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
    return Stage(name, body["desc"], shlex.split(body["cmd"]), body["deps"], body.get("params", []), names)


def imported(file: str) -> set[str]:
    """Return the project's modules that a file imports, directly or through others, and itself."""
    seen: set[str] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += _imports(path)
    return seen


def _imports(path: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = [name.replace(".", "/") + ".py" for name in names if re.match(r"(faces|stages|ci)\.", name)]
    return [file for file in files if Path(file).exists()]


def parameters_read(file: str) -> set[str]:
    """Return the sections of params.yaml that a stage's own file reads; a recipe comes from `fit` and an override."""
    sections = {
        node.attr
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("params", "load_params()")
    }
    return {{"recipe": "fit", "transforms_of": "transforms"}.get(section, section) for section in sections}
