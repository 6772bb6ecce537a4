"""Make `.venv`, or mend it, and bring its packages to what requirements.txt pins.

    python3 -m ci.install [--dev] [--torch cpu]

Only `.venv` is written, whichever environment is active. It is mended when its Python is gone, when the folder was
moved, and when an earlier attempt did not end. Standard library only: this runs before anything is installed.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(".venv")
PYTHON = ENVIRONMENT / "bin/python"
UV = ENVIRONMENT / "bin/uv"
MADE = ENVIRONMENT / ".made"  # by this command, which may therefore make it anew
RECORD = ENVIRONMENT / ".installed"  # JSON: where .venv is, with which build of torch; when it is whole, from what

RUNTIME, DEVELOPMENT = "requirements.txt", "requirements-dev.txt"
HASHED = ("--require-hashes", "--build-constraint", RUNTIME)  # what a package is built with is pinned, too
TORCH = re.compile(r"torch|torchvision")
CUDA = re.compile(r"triton|nvidia-.*|cuda-.*")  # what the CPU build does without
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # or a copy of it: TORCH_INDEX in the environment

# What an active environment or the user's settings hold, and would lead packages elsewhere
ELSEWHERE = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER"}
INDEXES = {"UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX", "UV_INDEX_URL"}

# Run by every Python of .venv as it starts: `.venv/bin/dvc`, called by its path, then finds the stages' `python`
FIND_PYTHON = (
    "import os, sys; here = os.path.join(sys.prefix, 'bin'); path = os.environ.get('PATH', os.defpath); "
    "here in path.split(os.pathsep) or os.environ.update(PATH=here + os.pathsep + path)\n"
)


def main(dev: bool, torch: str | None) -> None:
    """Do what is missing; nothing, and without the network, if all is there."""
    record = read_record()
    before = record.get("torch", "default")
    torch = torch or before
    wanted = {"folder": str(Path.cwd()), "torch": torch}
    for file in [RUNTIME, *([DEVELOPMENT] if dev else []), "ci/install.py", "ci/vega.py"]:
        wanted[file] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if wanted.items() <= record.items() and works(PYTHON):
        return
    make_environment(moved=record.get("folder", wanted["folder"]) != wanted["folder"])
    record = read_record()  # nothing, if .venv was made anew
    pins = read_pins(Path(RUNTIME))
    cuda = {name: pin for name, pin in pins.items() if TORCH.fullmatch(name) or CUDA.fullmatch(name)}
    if not record:
        announce(torch)
    if before != torch:
        uv("uninstall", *cuda)
    write_record(
        {"folder": wanted["folder"], "torch": torch}
    )  # so that an install that is interrupted goes on with the same build
    if torch == "cpu":
        rest = "".join(pins[name] for name in pins.keys() - cuda.keys())
        uv("install", *HASHED, "--no-deps", "-r", "-", text=rest)
        install_cpu_build([version(pins[name]) for name in ("torch", "torchvision")])
    else:
        uv("install", *HASHED, "-r", RUNTIME)
    if dev:
        uv("install", *HASHED, "--no-deps", "-r", DEVELOPMENT)
    complete()
    write_record(record | wanted)  # what check and test need is still there


def make_environment(moved: bool) -> None:
    """Leave a `.venv` whose Python runs, that holds uv, and whose commands do not name the folder they lie in."""
    if ENVIRONMENT.exists() and not works(PYTHON):
        if not MADE.exists():
            sys.exit("error: .venv has no Python 3.11 or newer that runs, and make did not make it; move it away")
        print(".venv has no Python that runs: making it anew", flush=True)
        shutil.rmtree(ENVIRONMENT)
    if not ENVIRONMENT.exists():
        ENVIRONMENT.mkdir()
        MADE.touch()
    python = PYTHON if works(PYTHON) else Path(sys.executable)
    if not UV.exists():
        if not works(PYTHON, "import pip"):
            run(python, "-m", "venv", ENVIRONMENT)
        pip = (PYTHON, "-m", "pip", "install", "--quiet", "--no-user", "--no-deps", "--require-hashes")
        run(*pip, "-r", "/dev/stdin", text=read_pins(Path(RUNTIME))["uv"])
        uv("uninstall", "pip")  # its commands name the folder; uv's pinned one comes with the rest
    elif moved:
        run(python, "-m", "venv", "--without-pip", ENVIRONMENT)  # bin/activate names the folder
    settings = ENVIRONMENT / "pyvenv.cfg"
    text = settings.read_text(encoding="utf-8")
    if "relocatable" not in text:  # uv then writes commands that bear a move
        settings.write_text(f"{text.rstrip()}\nrelocatable = true\n", encoding="utf-8")


def works(python: Path, code: str = "import sys; sys.exit(sys.version_info < (3, 11))") -> bool:
    """Return whether a Python runs this code to its end; by default, whether it is new enough."""
    try:
        return subprocess.run([python, "-c", code], env=environment(), stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def install_cpu_build(pins: list[str]) -> None:
    """Install torch and torchvision from PyTorch's own index alone; of the CPU build no hashes are known here."""
    index = os.environ.get("TORCH_INDEX") or CPU_INDEX
    uv("install", "--no-deps", "--default-index", index, *pins, without=ELSEWHERE | INDEXES)


def complete() -> None:
    """Write what DVC finds in `.venv` beside the packages: the stages' Python, and the JavaScript of its plots."""
    folder = output(PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(folder, "find_python.pth").write_text(FIND_PYTHON, encoding="utf-8")
    run(PYTHON, "-m", "ci.vega")


def announce(torch: str) -> None:
    """Say what the first install does, and on a machine that needs less, which one is smaller."""
    print(f"installing {RUNTIME} into {ENVIRONMENT}", flush=True)
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    if torch == "default" and sys.platform == "linux" and not driver:
        print("no NVIDIA driver here: make install TORCH=cpu takes less than a third of the space", flush=True)


def read_pins(path: Path) -> dict[str, str]:
    """Return a package's lines (one pin for each range of Pythons, with hashes) by its name."""
    pins: dict[str, str] = {}
    for pin in re.split(r"^(?=\w)", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        name = pin.partition("==")[0]
        if name:
            pins[name] = pins.get(name, "") + pin
    return pins


def version(pin: str) -> str:
    """Return `name==version` of a package's lines."""
    return pin.split(maxsplit=1)[0]


def uv(command: str, *arguments: str, text: str | None = None, without: set[str] = ELSEWHERE) -> None:
    """Run `uv pip` on `.venv`; an install shows its progress on a terminal."""
    install = command == "install"
    options = ["--compile-bytecode"] if install else []  # later, it would be done again by whoever may not write here
    options += [] if install and sys.stderr.isatty() else ["--quiet"]
    run(UV, "pip", command, "--python", PYTHON, *options, *arguments, text=text, without=without)


def run(*command: str | Path, text: str | None = None, without: set[str] = ELSEWHERE) -> None:
    """Run a command, its input `text`; where it fails, it has said why, and this command ends with its status."""
    if status := subprocess.run(command, input=text, text=True, env=environment(without)).returncode:
        sys.exit(status)


def output(*command: str | Path) -> str:
    """Return what a command prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment(), check=True).stdout


def environment(without: set[str] = ELSEWHERE) -> dict[str, str]:
    """Return the environment without some variables."""
    return {name: value for name, value in os.environ.items() if name not in without}


def read_record() -> dict[str, str]:
    """Return what the last install that ended wrote; nothing if there was none."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(record: dict[str, str]) -> None:
    """Write what is installed, whole or not at all."""
    new = RECORD.with_name(".installed.new")
    new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    new.replace(RECORD)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make .venv, or mend it.")
    parser.add_argument("--dev", action="store_true", help="what make check and make test need, too")
    parser.add_argument("--torch", choices=["default", "cpu"], help="the build of torch; without it, the last choice")
    options = parser.parse_args()
    try:
        main(options.dev, options.torch)
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)
