"""The stages of dvc.yaml as the tests need them: expanded, with the modules each really imports."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ci.demo import overlay
from faces.source import sample

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


def training_inputs(root: Path, changes: dict[str, Any], per_class: int, train: int) -> None:
    """Write what stages.train reads: params.yaml, drawn faces in data, splits.csv, weights.pth, facts.json.

    Of each class, `per_class` faces are used, the first `train` of them for training, the others for validation.
    """
    import torch
    from torchvision.models import resnet34

    params = overlay(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")), changes)
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    sample.draw(root / "data", per_class + 10)
    rows = ["path,label,y_true,group,subset"]
    for y_true, (label, stem) in enumerate(sample.FOLDERS):
        for i in range(per_class):
            name = f"{label}/{stem}_{i + 6}.jpg"  # the first ones have duplicates, or are broken
            rows.append(f"{name},{label},{y_true},{name},{'train' if i < train else 'validation'}")
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    torch.save(resnet34(weights=None).state_dict(), root / "weights.pth")
    (root / "facts.json").write_text('{"sha256": "0", "known_as": "random"}', encoding="utf-8")


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
