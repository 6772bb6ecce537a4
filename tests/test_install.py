"""The install, from a package index on this machine that holds tiny packages; licence, requirements and Makefile."""

import base64
import functools
import hashlib
import http.server
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
DVC = "import subprocess\ndef main(): subprocess.run('python -c \"import sys; print(sys.prefix)\"', shell=True)\n"


def names(file: str) -> list[str]:
    return re.findall(r"^([a-z0-9.-]+)==", (REPOSITORY / file).read_text(encoding="utf-8"), re.MULTILINE)


def asked(group: list[str]) -> set[str]:
    return {re.match(r"[a-z0-9-]+", requirement)[0] for requirement in group}  # type: ignore[index]


# The files of a repository that strangers meet


def test_licence_and_citation() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (REPOSITORY / "LICENSE").read_text()
    for what in ("photographs", "paper", "weights"):  # not ours to license
        assert what in (REPOSITORY / "NOTICE").read_text()
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["project"]["version"], "Apache-2.0")
    paper = yaml.safe_load((REPOSITORY / "paper.yaml").read_text(encoding="utf-8"))
    assert paper["title"].startswith(citation["references"][0]["title"])
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    done = subprocess.run([*check, str(REPOSITORY / "CITATION.cff")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_clone_has_the_same_bytes_whatever_autocrlf_says(tmp_path: Path) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a Git repository")
    clone = ["git", "-c", "core.autocrlf=true", "clone", "--quiet", "--config", "core.autocrlf=true"]
    subprocess.run([*clone, str(REPOSITORY), str(tmp_path / "clone")], check=True)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path / "clone", capture_output=True, text=True)
    assert (status.stdout, status.stderr) == ("", "")
    assert b"\r" not in (tmp_path / "clone/dvc.yaml").read_bytes()


def test_each_requirement_is_pinned_once_with_hashes() -> None:
    files = {"requirements.txt": PROJECT["project"]["dependencies"]}
    files["requirements-dev.txt"] = PROJECT["dependency-groups"]["dev"]
    files["benchmarks/requirements.txt"] = PROJECT["dependency-groups"]["benchmark"]
    seen: set[str] = set()
    for file, group in files.items():
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        assert "://" not in text  # no index
        assert all("--hash=sha256:" in pin for pin in re.split(r"\n(?=\S)", text.strip()))
        assert not seen & set(names(file)), file
        seen |= set(names(file))
        assert asked(group) <= seen, file
    assert asked(PROJECT["dependency-groups"]["benchmark"]) == set(names("benchmarks/requirements.txt"))


def test_hooks_run_what_make_check_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe
    checks = [command.replace(" --check", "").removesuffix(" .") for command in recipe[1].strip().split("\n\t")]
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == [f".venv/bin/{command}" for command in checks]


# The install


def make(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    without = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "TORCH", "VIRTUAL_"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env={**without, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Index(http.server.ThreadingHTTPServer):
    """A package index on this machine: a folder for each package, and what was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def add(self, index: str, name: str, version: str, files: dict[str, bytes], *requires: str) -> str:
        """Add a wheel; return its line for a requirements file."""
        folder = f"{name.replace('-', '_')}-{version}"
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        about += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        files = {
            **{name.replace("INFO", f"{folder}.dist-info"): content for name, content in files.items()},
            f"{folder}.dist-info/METADATA": about.encode(),
            f"{folder}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = f"{folder}.dist-info/RECORD"
        digests = {file: base64.urlsafe_b64encode(hashlib.sha256(content).digest()) for file, content in files.items()}
        lines = [f"{file},sha256={digests[file].decode().rstrip('=')},{len(files[file])}\n" for file in files]
        files[record] = "".join([*lines, f"{record},,\n"]).encode()
        path = self.root / index / name / f"{folder}-py3-none-any.whl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for file, content in files.items():
                member = zipfile.ZipInfo(file)
                member.external_attr = (0o100755 if "/scripts/" in file else 0o100644) << 16
                archive.writestr(member, content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return f"{name}=={version} \\\n    --hash=sha256:{digest}\n"


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with Index(tmp_path_factory.mktemp("index")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def environment(index: Index) -> dict[str, str]:
    """Return the variables that lead pip and uv to the index, and others that would lead packages astray."""
    return {
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": index.url("pypi"),
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(index.root / "cache"),
        "UV_DEFAULT_INDEX": index.url("pypi"),
        "TORCH_INDEX": index.url("cpu"),
        "VIRTUAL_ENV": str(index.root / "another"),
        "CONDA_PREFIX": str(index.root / "another"),
        "PIP_TARGET": str(index.root / "another"),
        "PIP_USER": "1",
    }


@pytest.fixture(scope="module")
def installed(index: Index, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which `make install` has been run."""
    root = tmp_path_factory.mktemp("install") / "project"
    (root / "ci").mkdir(parents=True)
    for name in ("Makefile", "ci/__init__.py", "ci/install.py"):
        shutil.copy(REPOSITORY / name, root / name)
    uv = importlib.metadata.distribution("uv")
    module = [file for file in uv.files or [] if file.parts[0] == "uv"]
    files = {str(file): Path(str(uv.locate_file(file))).read_bytes() for file in module}
    files[f"uv-{uv.version}.data/scripts/uv"] = Path(sys.executable).with_name("uv").read_bytes()
    script = b"[console_scripts]\ndvc = dvc:main\n"
    pins = [
        index.add("pypi", "dvc", "1.0", {"dvc.py": DVC.encode(), "INFO/entry_points.txt": script}),
        index.add("pypi", "nvidia-cublas", "1.0", {"nvidia.py": b""}),
        index.add("pypi", "pip", "99.0", {"pip.py": b""}),
        index.add("pypi", "torch", "2.0", {"torch.py": b"build = 'cuda'\n"}, "nvidia-cublas", "triton"),
        index.add("pypi", "torchvision", "0.2", {"torchvision.py": b""}, "torch"),
        index.add("pypi", "triton", "1.0", {"triton.py": b""}),
        index.add("pypi", "uv", uv.version, files),
    ]
    (root / "requirements.txt").write_text("".join(pins), encoding="utf-8")
    (root / "requirements-dev.txt").write_text(index.add("pypi", "pytest", "1.0", {"pytest.py": b""}), encoding="utf-8")
    index.add("cpu", "torch", "2.0+cpu", {"torch.py": b"build = 'cpu'\n"})
    index.add("cpu", "torchvision", "0.2+cpu", {"torchvision.py": b""}, "torch==2.0")
    (root / "ci/vega.py").write_text("open('.venv/vega.js', 'w').close()\n", encoding="utf-8")
    done = make(root, "install", **environment)
    assert done.returncode == 0, done.stdout
    return root


@pytest.fixture
def project(installed: Path, index: Index, tmp_path: Path) -> Path:
    """Return a copy of the project, which `.venv` bears, and forget what was asked of the index."""
    shutil.copytree(installed, tmp_path / "copy", symlinks=True)
    index.asked.clear()
    return tmp_path / "copy"


def packages(project: Path) -> set[str]:
    (site,) = (project / ".venv/lib").glob("python*/site-packages")
    return {path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info")}


def test_only_dot_venv_is_written(installed: Path, index: Index) -> None:
    assert not (index.root / "another").exists()
    assert {"torch-2.0", "nvidia_cublas-1.0", "triton-1.0", "pip-99.0", "dvc-1.0"} <= packages(installed)
    assert not any(name.startswith("pytest") for name in packages(installed))
    assert (installed / ".venv/vega.js").exists()


def test_an_install_that_is_there_needs_no_network(installed: Path, index: Index, environment: dict[str, str]) -> None:
    index.asked.clear()
    assert make(installed, "install", **environment).stdout == ""
    assert index.asked == []


def test_the_cpu_build_and_back(project: Path, index: Index, environment: dict[str, str]) -> None:
    assert make(project, "install", "TORCH=cpu", **environment).returncode == 0
    assert any(path.startswith("/cpu/torch/") for path in index.asked)
    assert not any(path.startswith("/pypi/") for path in index.asked)
    cpu = {"torch-2.0+cpu", "torchvision-0.2+cpu"}
    assert cpu <= packages(project)
    assert not {"torch-2.0", "nvidia_cublas-1.0", "triton-1.0"} & packages(project)

    done = make(project, "develop", **environment)
    assert done.returncode == 0, done.stdout
    assert cpu | {"pytest-1.0"} <= packages(project)  # the choice stays
    assert not {"nvidia_cublas-1.0", "triton-1.0"} & packages(project)

    assert make(project, "install", "TORCH=default", **environment).returncode == 0
    assert {"torch-2.0", "nvidia_cublas-1.0", "triton-1.0"} <= packages(project)
    assert not cpu & packages(project)

    done = make(project, "install", "TORCH=rocm", **environment)
    assert done.returncode == 2
    assert "invalid choice: 'rocm'" in done.stdout


def test_an_interrupted_install_goes_on_with_the_same_build(project: Path, environment: dict[str, str]) -> None:
    unreachable = {**environment, "TORCH_INDEX": "http://127.0.0.1:9"}
    assert make(project, "install", "TORCH=cpu", **unreachable).returncode == 2
    assert not {"torch-2.0", "torch-2.0+cpu"} & packages(project)
    assert make(project, "install", **environment).returncode == 0
    assert {"torch-2.0+cpu", "torchvision-0.2+cpu"} <= packages(project)
    assert not {"nvidia_cublas-1.0", "triton-1.0"} & packages(project)


def test_a_moved_folder(project: Path, index: Index, environment: dict[str, str]) -> None:
    """Its commands work at once; the rest is mended by the next target, without a network."""
    moved = project.rename(project.with_name("elsewhere, renamed"))
    done = subprocess.run([moved / ".venv/bin/dvc"], capture_output=True, text=True)
    assert done.stdout.strip() == str(moved / ".venv")
    done = make(moved, "install", **environment)
    assert done.returncode == 0, done.stdout
    assert index.asked == []
    for shell in filter(shutil.which, ("dash", "bash", "zsh")):
        activate = [shell, "-c", ". .venv/bin/activate; command -v dvc"]
        done = subprocess.run(activate, cwd=moved, capture_output=True, text=True)
        assert done.stdout.strip() == str(moved / ".venv/bin/dvc"), shell
    assert json.loads((moved / ".venv/.installed").read_text())["folder"] == str(moved)


def test_a_command_called_by_its_path_finds_the_stages_python(project: Path, environment: dict[str, str]) -> None:
    """DVC runs `python -m stages...`, with the caller's PATH."""
    for path in ("/usr/bin:/bin", f"{Path(sys.executable).parent}:/usr/bin:/bin"):
        done = subprocess.run([project / ".venv/bin/dvc"], env={"PATH": path}, capture_output=True, text=True)
        assert done.stdout.strip() == str(project / ".venv"), done.stderr


def test_a_python_that_is_gone(project: Path, environment: dict[str, str]) -> None:
    assert make(project, "develop", "TORCH=cpu", **environment).returncode == 0
    (project / ".venv/bin/python").unlink()
    (project / ".venv/bin/python").symlink_to("/nowhere/python3")
    (project / ".venv/old").touch()
    done = make(project, "install", **environment)
    assert done.returncode == 0, done.stdout
    assert "making it anew" in done.stdout
    assert not (project / ".venv/old").exists()
    assert {"dvc-1.0", "torch-2.0+cpu"} <= packages(project)
    assert make(project, "develop", **environment).returncode == 0
    assert "pytest-1.0" in packages(project)


def test_a_venv_of_somebody_else_that_does_not_run(project: Path, environment: dict[str, str]) -> None:
    shutil.rmtree(project / ".venv")
    (project / ".venv").mkdir()
    (project / ".venv/precious.txt").touch()
    done = make(project, "install", **environment)
    assert done.returncode == 2
    assert done.stdout.startswith("error: .venv has no Python 3.11 or newer that runs, and make did not make it")
    assert [path.name for path in (project / ".venv").iterdir()] == ["precious.txt"]


def test_an_attempt_without_ensurepip(project: Path, environment: dict[str, str]) -> None:
    """Debian without python3-venv leaves this behind; with it, the same command goes on."""
    shutil.rmtree(project / ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    (project / ".venv/.made").touch()
    done = make(project, "install", **environment)
    assert done.returncode == 0, done.stdout
    assert "dvc-1.0" in packages(project)


def test_a_package_with_other_bytes_is_refused(project: Path, index: Index, environment: dict[str, str]) -> None:
    pins = (project / "requirements.txt").read_text(encoding="utf-8")
    index.add("pypi", "dvc", "2.0", {"dvc.py": b"print('not what was pinned')\n"})
    (project / "requirements.txt").write_text(pins.replace("dvc==1.0", "dvc==2.0"), encoding="utf-8")
    done = make(project, "install", **environment)
    assert done.returncode == 2
    assert "Hash mismatch" in done.stdout
    assert "dvc-1.0" in packages(project)
    (project / "requirements.txt").write_text(pins, encoding="utf-8")
    assert make(project, "install", **environment).returncode == 0
