"""The stages of dvc.yaml as the tests need them: expanded, with the modules each really imports and files it reads."""

import ast
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from ci.demo import overlay
from faces.images.align import COLUMNS
from faces.source import sample

READ_ONLY_PARAMETERS = {"faces/cli.py", "faces/params.py", "faces/section.py"}  # they read what DVC tracks by value


@dataclass(frozen=True)
class Stage:
    """One stage as DVC runs it."""

    name: str
    desc: str
    cmd: list[str]
    deps: list[str]
    params: list[str]
    outs: list[str]

    def lists(self, path: str) -> bool:
        """Say whether a path is one of the stage's dependencies or outputs, or lies in one."""
        return any(path == listed or path.startswith(f"{listed}/") for listed in (*self.deps, *self.outs))

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
            entries = params[body["foreach"].removeprefix("${").removesuffix("}")]
            for key, item in entries.items():
                found.append(_stage(f"{name}@{key}", _fill(body["do"], {**params, "key": key, "item": item})))
        else:
            found.append(_stage(name, _fill(body, params)))
    return found


def _fill(body: Any, values: dict[str, Any]) -> Any:
    if isinstance(body, dict):
        return {_fill(name, values): _fill(value, values) for name, value in body.items()}
    if isinstance(body, list):
        return [_fill(value, values) for value in body]
    if not isinstance(body, str):
        return body
    return re.sub(r"\$\{([\w.]+)\}", lambda found: str(reduce(getitem, found[1].split("."), values)), body)


def _stage(name: str, body: dict[str, Any]) -> Stage:
    outs = [*body.get("outs", []), *body.get("metrics", [])]
    names = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
    return Stage(name, body["desc"], shlex.split(body["cmd"]), body["deps"], body.get("params", []), names)


def training_inputs(root: Path, changes: dict[str, Any], per_class: int, train: int) -> None:
    """Write what stages.train reads: params.yaml, drawn faces in data, split/seed1.csv, weights.

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
    for folder in ("split", "weights/faces"):
        (root / folder).mkdir(parents=True)
    (root / "split/seed1.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    torch.save(resnet34(weights=None).state_dict(), root / "weights/resnet34.pth")
    no_landmarks(root)
    (root / "weights/facts.json").write_text('{"sha256": "0", "known_as": "random"}', encoding="utf-8")


def no_landmarks(root: Path) -> None:
    """Write embed/landmarks.csv as the stage embed writes it where no face is looked for."""
    (root / "embed").mkdir()
    (root / "embed/landmarks.csv").write_text(f"path,faces,score,{','.join(COLUMNS)}\n", encoding="utf-8")


def imported(file: str) -> set[str]:
    """Return the project's modules that a file imports, directly or through others, and itself.

    What READ_ONLY_PARAMETERS import is not followed: they check with it, and hand on nothing that it computes.
    """
    seen: set[str] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += [] if path in READ_ONLY_PARAMETERS else imports(path)
    return seen


def imports(path: str) -> list[str]:
    """Return the project's modules that a file names in its own import statements, those for type checkers aside."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unread = {inside for node in typing for inside in ast.walk(node)}
    names: list[str] = []
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = [name.replace(".", "/") + ".py" for name in names if re.match(r"(faces|stages|ci)\.", name)]
    return [file for file in files if Path(file).exists()]


def parameters_read(file: str) -> set[str]:
    """Return the sections of params.yaml that a stage's own file reads; `compared` is made of `compare` and `runs`."""
    sections = {
        node.attr
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("params", "load_params()")
    }
    return sections - {"compared"} | ({"compare", "runs"} if "compared" in sections else set())


_recorders: list[set[str]] = []  # an audit hook stays for ever; this says whom it tells


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _recorders or event not in ("open", "os.listdir", "os.scandir"):
        return
    path, mode = arguments[0], arguments[1] if event == "open" else "r"
    if isinstance(path, str | bytes | os.PathLike) and (mode is None or "r" in str(mode) or event != "open"):
        _recorders[-1].add(os.fsdecode(path))


@contextmanager
def recorded_reads() -> Iterator[set[str]]:
    """Record the paths that are opened for reading or listed meanwhile, by any thread of this process."""
    if not any(hook is _hook for hook in _installed):
        sys.addaudithook(_hook)
        _installed.append(_hook)
    _recorders.append(set())
    try:
        yield _recorders[-1]
    finally:
        _recorders.pop()


_installed: list[Any] = []
