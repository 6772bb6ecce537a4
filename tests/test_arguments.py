"""Every path that any command takes, given wrong: one line on stderr, nothing written, before the work begins.

The commands are found by themselves, and so are their paths: each says in the signature what is done with it
(`faces.cli.PathRole`). What may lie in the files is for the tests of each command.
"""

import functools
import importlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pipeline
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faces import cli
from faces.cli import PathRole

ROOT = Path(__file__).parents[1]
FOLDERS = ("stages", "faces", "ci", "benchmarks")
NO_TYPER = {
    "ci.install": "runs before anything is installed",
    "faces.source.kaggle_client": "is started by the download, with a folder of its own",
}
OWN_ROWS = {("faces.predict", "paths"): "each path that cannot be read is a row of its own (tests/test_predict.py)"}


def _commands() -> dict[str, Any]:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path, text in texts.items()
        if re.search(r'^if __name__ == "__main__":$', text, re.MULTILINE)
    }
    return {name: importlib.import_module(name) for name in sorted(names - NO_TYPER.keys())}


COMMANDS = _commands()


def wrong_ways(role: PathRole) -> list[str]:
    """Return what can be wrong with a path of this role: words that `place` knows."""
    link_to_read = role.kind == "link" and not role.written  # looked at only where data.source is a path
    ways = {
        "a circle": role.kind != "link",
        "a device": not (role.through or link_to_read),
        "a file": role.kind == "folder",
        "a folder": role.kind != "folder" and not link_to_read,
        "a full device": role.through,
        "a full disk": role.written and not role.read,
        "a pipe": not (role.through or link_to_read),
        "in a file": not link_to_read,
        "missing": role.read,
        "no permission": os.geteuid() != 0,  # root may read and write everywhere
        "not UTF-8": True,
        "too long": True,
    }
    return [way for way, possible in ways.items() if possible]


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a folder on a file system that one file fills; None where only root could mount one."""
    folder = tmp_path_factory.mktemp("disk") / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        with (folder / "fills it").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(autouse=True)
def nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GITHUB_")]:
        monkeypatch.delenv(name)


def good(role: PathRole, name: str) -> str:
    """Make a path right for its role, and return it."""
    path = Path(name)
    if role.kind == "link":
        path.symlink_to("somewhere")
    elif role.read and role.kind == "folder":
        path.mkdir()
    elif role.read:
        path.write_text("mine", encoding="utf-8")
    return name


def place(wrong: str, role: PathRole, full_disk: Path | None) -> str | None:
    """Make a path wrong for its role, and return it; None where only root could make it."""
    path = Path("wrong")
    match wrong:
        case "a file":
            path.write_text("mine", encoding="utf-8")
        case "a folder":
            path.mkdir()
        case "in a file":
            path.write_text("mine", encoding="utf-8")
            return "wrong/inside"
        case "a circle":
            path.symlink_to("wrong")
        case "not UTF-8":
            return os.fsdecode(b"K\xf6ln")
        case "too long":
            return "x" * 300
        case "a pipe":
            os.mkfifo(path)
        case "a device" | "a full device":
            return str(path) if device(path, 7 if "full" in wrong else 3) else None
        case "a full disk":
            return None if full_disk is None else str(full_disk / "wrong")
        case "no permission":
            good(role, "wrong")
            (Path("wrong") if path.exists() else Path()).chmod(0)
    return str(path)


def device(path: Path, minor: int) -> bool:
    """Make a device of the kind of /dev/null (3) or /dev/full (7), if one may; the machine's own are not at risk."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        path.open("rb").close()
    except PermissionError:
        path.unlink(missing_ok=True)
        return False
    return True


def command_line(name: str, wrong: dict[str, str]) -> list[str]:
    """Return arguments that are right but for the paths in `wrong`, by the names of the parameters."""
    main = COMMANDS[name].main
    roles, hints = cli.path_roles(main), get_type_hints(main)
    words, options = [], []
    for parameter in parameters(main):
        if parameter.name in roles:
            value = wrong.get(parameter.name) or good(roles[parameter.name], f"good-{parameter.name}")
        elif not parameter.required:
            continue
        else:
            hint = hints[parameter.name]
            value = str(get_args(hint)[0]) if get_origin(hint) is Literal else "1"
        if parameter.param_type_name == "option":
            options += [parameter.opts[0], value]
        else:
            words.append(value)
    return [*options, "--", *words]


def parameters(main: Callable[..., Any]) -> list[Any]:
    """Return a command's parameters as typer makes them of its signature."""
    app = typer.Typer(add_completion=False)
    app.command()(main)
    return [parameter for parameter in typer.main.get_command(app).params if parameter.name != "help"]


def call(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str | int | None]:
    """Call a command as `python -m` does; return whether its work began, and what it gave to sys.exit."""
    began: list[bool] = []
    main = COMMANDS[name].main

    @functools.wraps(main)
    def work(*arguments: Any, **options: Any) -> None:
        began.append(True)

    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as end:
        cli.run(work)
    return bool(began), end.value.code


def seen(root: Path) -> dict[str, bytes | None]:
    """Return all that lies below a folder: regular files with their content, of others only that they are there."""
    found = {}
    for path in sorted(root.rglob("*")):
        regular = stat.S_ISREG(path.lstat().st_mode)
        found[str(path)] = path.read_bytes() if regular and os.access(path, os.R_OK) else None
    return found


def test_every_command_is_called_the_same_way() -> None:
    """So that one place checks its paths and puts faults into one line."""
    for module in COMMANDS.values():
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert re.search(r'^if __name__ == "__main__":\n    (cli\.)?run\(main\)\n\Z', text, re.MULTILINE), (
            module.__name__
        )
    assert len(COMMANDS) > 30
    assert "typer" not in Path("ci/install.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_path_says_what_is_done_with_it(name: str) -> None:
    main = COMMANDS[name].main
    paths = {parameter for parameter, hint in get_type_hints(main).items() if "Path" in str(hint)}
    assert paths - {parameter for command, parameter in OWN_ROWS if command == name} == cli.path_roles(main).keys()


def test_what_is_done_agrees_with_the_pipeline() -> None:
    """What a stage lists as a dependency is read, what it lists as an output is written."""
    for stage in pipeline.stages():
        if "stages" not in " ".join(stage.cmd):
            continue
        module = COMMANDS[stage.file.removesuffix(".py").replace("/", ".")]
        after = stage.cmd[stage.cmd.index(module.__name__) + 1 :]
        roles = cli.path_roles(module.main)
        for parameter, value in _given(module.main, after).items():
            if parameter not in roles:
                continue
            role = roles[parameter]
            if value in stage.deps:
                assert role.read or role.kind == "link", (stage.name, parameter)
            if value in stage.outs:
                assert role.written, (stage.name, parameter)
                assert role.kind == ("folder" if not Path(value).suffix else "file"), (stage.name, parameter)


def _given(main: Callable[..., Any], words: list[str]) -> dict[str, str]:
    """Return what a command line gives to the parameters of a command, by their names."""
    found: dict[str, str] = {}

    @functools.wraps(main)
    def record(**options: Any) -> None:
        found.update({name: str(value) for name, value in options.items() if value is not None})

    app = typer.Typer(add_completion=False)
    app.command()(record)
    app(words, standalone_mode=False)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_right_begins(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the refusals below could have any reason."""
    monkeypatch.chdir(tmp_path)
    arguments = command_line(name, {})
    before = seen(tmp_path)
    assert call(name, arguments, monkeypatch) == (True, 0)
    assert seen(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if cli.path_roles(COMMANDS[name].main)])
def test_what_is_wrong_is_told_in_one_line(
    name: str,
    tmp_path: Path,
    full_disk: Path | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for parameter, role in cli.path_roles(COMMANDS[name].main).items():
        for way in wrong_ways(role):
            here = tmp_path / f"{parameter}, {way}"
            here.mkdir()
            monkeypatch.chdir(here)
            path = place(way, role, full_disk)
            if path is None:
                continue
            arguments = command_line(name, {parameter: path})
            before = seen(here)
            began, line = call(name, arguments, monkeypatch)
            assert not began, (here.name, arguments)
            assert isinstance(line, str)  # Python prints it on stderr, and the status is 1
            assert line.startswith("error: "), line
            assert "\n" not in line
            assert ascii(path)[1:-1].split("\\")[0] in line  # which path it is
            assert capsys.readouterr() == ("", "")
            assert seen(here) == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_several_wrong_paths_at_once(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any paths of any command, of which some are wrong: still one line, and nothing written."""
    name = data.draw(st.sampled_from([name for name in COMMANDS if cli.path_roles(COMMANDS[name].main)]))
    roles = cli.path_roles(COMMANDS[name].main)
    chosen = data.draw(st.sets(st.sampled_from(sorted(roles)), min_size=1))
    names = st.lists(st.sampled_from([n for n in range(1, 256) if n != ord("/")]), min_size=256, max_size=300)
    letters = names.map(lambda name: os.fsdecode(bytes(name)))
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = command_line(name, {parameter: data.draw(letters) for parameter in chosen})
        before = seen(folder)
        began, line = call(name, arguments, patch)
        assert not began
        assert isinstance(line, str)
        assert line.startswith("error: ")
        assert line.isprintable()  # whatever letters are in a name
        assert seen(folder) == before


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    from faces import files

    if not device(tmp_path / "device", 3):
        pytest.skip("only root can make a device")
    with pytest.raises(cli.InputError, match="is a device, pipe or socket; name a file"):
        files.write_json(tmp_path / "device", {})
    assert stat.S_ISCHR((tmp_path / "device").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["device"]


def test_the_queue_without_git(tmp_path: Path) -> None:
    """What another program says is told in one line, too."""
    (tmp_path / "faces").mkdir()
    for name in ("params.yaml", "faces/sweep.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "faces.sweep", "queue"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: dvc exp list -A --name-only failed: ")
    assert done.stderr.count("\n") == 1


def test_a_program_that_is_not_installed() -> None:
    with pytest.raises(cli.InputError, match=r"^no-such-program is needed, and is not installed$"):
        cli.execute("no-such-program")
