"""What can go wrong on a machine, and bad input: one clear line, nothing half-written, and the same command goes on.

docs/faults.md lists the outcomes. Faults of the network and of archives are in test_download.py and test_archive.py,
kill -9 in test_survival.py and ci/soak.py, a device without memory in test_loop.py.
"""

import contextlib
import errno
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml
from pipeline import no_landmarks

from ci import demo, soak
from faces import cli
from faces.source import sample

OUTPUTS = ("models/runs/trial1/model.pt", "models/runs/trial1/run.json", "plots/history/trial1.csv")
SMALL = demo.overlay(
    demo.overlay(demo.SAMPLE, {"sample": {"images_per_class": 20}}),
    demo.every_run(freeze="layer4", max_epochs=2, transforms={"resize": 32, "crop": 32}),
)
YEARS = 10 * 365 * 24 * 3600
WORDS = {  # the command lines of dvc.yaml
    "audit": "data weights/resnet34.pth --images audit/images.csv --sheet metrics/data.json",
    "split": "seed1 audit/images.csv split/seed1.csv --groups metrics/groups.csv --facts metrics/splits/seed1.json",
    "train": "trial1 data split/seed1.csv --weights weights "
    "--landmarks embed/landmarks.csv --detector weights/faces "
    "--out models/runs/trial1 --history plots/history/trial1.csv",
    "source": "downloads/source",
    "download": "downloads/source downloads/images data",
    "weights": "weights/resnet34.pth weights/facts.json",
}


def stage(name: str, words: str | None = None) -> str | None:
    """Run a stage's command line in this process; return its line on stderr if it ends with status 1, None with 0."""
    module = importlib.import_module(f"stages.{name}")
    before = sys.argv
    sys.argv = [f"stages/{name}.py", *(words or WORDS[name]).split()]
    try:
        cli.run(module.main)
    except SystemExit as end:
        if isinstance(end.code, str):  # Python prints it on stderr, and the status is 1
            return end.code
        if end.code:
            raise
    finally:
        sys.argv = before
    return None


def files(root: Path) -> dict[str, str]:
    """Return every file under a folder, those of the cache and of other tests aside, with its hash."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and "cache" not in path.relative_to(root).parts
    }


def change(root: Path, key: str, value: Any) -> None:
    """Set a parameter, or take it away (`value` None)."""
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    *sections, last = key.split(".")
    section = params
    for name in sections:
        section = section[name]
    section[last] = value
    if value is None:
        del section[last]
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project after audit and split, with a run that nothing disturbed."""
    import torch
    from torchvision.models import resnet34

    root = tmp_path_factory.mktemp("base")
    params = demo.overlay(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")), SMALL)
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    sample.draw(root / "data", 20)
    torch.manual_seed(0)
    (root / "weights/faces").mkdir(parents=True)
    no_landmarks(root)
    torch.save(resnet34(weights=None).state_dict(), root / "weights/resnet34.pth")
    (root / "weights/facts.json").write_text('{"sha256": "0", "known_as": "random"}', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("FACES_CACHE", str(root / "cache"))
        assert stage("audit") is None
        groups = pd.read_csv("audit/images.csv").rename(columns={"group": "duplicates"})
        groups[["path", "duplicates"]].to_csv("metrics/groups.csv", index=False)
        for name in ("split", "train"):
            assert stage(name) is None
    return root


@pytest.fixture
def project(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a project after audit and split, in a folder with a space and letters that are not ASCII."""
    root = tmp_path / "Ordner für 名前"
    shutil.copytree(base, root, ignore=shutil.ignore_patterns("cache", "models", "history", "resnet34.pth"))
    (root / "weights/resnet34.pth").symlink_to(base / "weights/resnet34.pth")  # 87 MB
    monkeypatch.chdir(root)
    monkeypatch.setenv("FACES_CACHE", str(root / "cache"))
    return root


def same_run(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in OUTPUTS)


def mount(folder: Path, options: str) -> None:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system, and fill it with one file."""
    disk = tmp_path / "disk"
    mount(disk, "size=1m")
    with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system that cannot be written."""
    disk = tmp_path / "disk"
    mount(disk, "ro")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


# The machine


def test_a_folder_with_a_space_and_letters_that_are_not_ascii(base: Path, project: Path) -> None:
    assert stage("train") is None
    assert same_run(project, base)


def test_a_full_disk_stops_training_before_it_begins(
    base: Path, project: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACES_CACHE", str(full_disk / "cache"))
    before = files(project)
    line = stage("train")
    assert line is not None
    assert "cannot write" in line
    assert "No space left on device" in line
    assert "\n" not in line
    assert files(project) == before
    assert not [path for path in (full_disk / "cache").rglob("*") if path.is_file()]
    (full_disk / "full").unlink()
    assert stage("train") is None
    assert same_run(project, base)


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_disk_that_fills_up_in_training(
    base: Path, project: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, full)
        line = stage("train")
    assert line is not None
    assert "No space left on device" in line
    assert files(project) == before
    assert not [path for path in (project / "cache").rglob("*") if path.is_file()]
    assert stage("train") is None
    assert same_run(project, base)


def test_a_full_disk_under_the_outputs(project: Path, full_disk: Path) -> None:
    line = stage("split", WORDS["split"].replace("split/seed1.csv", str(full_disk / "seed1.csv")))
    assert line is not None
    assert "No space left on device" in line
    assert [path.name for path in full_disk.iterdir()] == ["full"]


def test_a_read_only_cache(project: Path, read_only_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACES_CACHE", str(read_only_disk / "cache"))
    before = files(project)
    line = stage("train")
    assert line is not None
    assert str(read_only_disk / "cache") in line
    assert "Read-only file system" in line
    assert files(project) == before


def test_ctrl_c_and_a_clock_that_jumps(base: Path, project: Path) -> None:
    from faces.training import loop
    from stages import train

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_write_history", interrupt)
        assert stage("train") == "interrupted; the same command goes on from here"
    (own,) = (project / "cache/checkpoints").glob("*.pt")
    old, new = own.with_name("old.pt"), own.with_name("new.pt")
    for other in (old, new):
        other.write_bytes(b"another run's")
    for years, paths in ((-YEARS, [own, old]), (YEARS, [new, *(project / "cache/arrays").iterdir()])):
        for path in paths:
            os.utime(path, (time.time() + years, time.time() + years))

    trained: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        once = loop.train_one_epoch
        patch.setattr(loop, "train_one_epoch", lambda *args: trained.append(1) or once(*args))  # type: ignore[func-returns-value]
        assert stage("train") is None
    assert len(trained) == 1  # of two epochs: it went on from its own checkpoint, however old
    assert same_run(project, base)
    assert list(own.parent.iterdir()) == [new]


def test_an_array_cut_short_is_made_again(base: Path, project: Path) -> None:
    assert stage("train") is None
    for path in (project / "cache/arrays").iterdir():
        os.truncate(path, path.stat().st_size // 2)
    shutil.rmtree(project / "models")
    assert stage("train") is None
    assert same_run(project, base)


def test_an_image_that_changes_after_the_audit(project: Path) -> None:
    path = next(iter(sorted((project / "data/healthy").glob("*.jpg"))))
    path.write_bytes(b"gone")
    before = files(project)
    line = stage("train")
    assert line is not None
    assert f"{path.name}: not an image; run the audit again" in line
    assert files(project) == before


# Bad input


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("source", "data.sorce", "sample", "data.sorce is not a known parameter"),
        ("download", "data.max_files", None, "data.max_files is missing"),
        ("source", "data.source", "nowhere", "data.source: nowhere is neither kaggle nor sample nor a path"),
        ("split", "split.test", 0.2, "must sum to 1"),
        ("train", "recipe.batchsize", 8, "recipe.batchsize is not a known parameter"),
        (
            "train",
            "recipes.trial1.learning_rate",
            "1e-3",
            "recipes.trial1.learning_rate: Input should be a valid number",
        ),
        (
            "train",
            "train.transforms.scale",
            [1, 0.5],
            "train.transforms: Value error, scale must be [smallest, largest]",
        ),
    ],
)
def test_a_wrong_parameter(project: Path, name: str, key: str, value: Any, says: str) -> None:
    change(project, key, value)
    refused(project, name, "params.yaml", says)


def refused(project: Path, name: str, *says: str) -> None:
    before = files(project)
    line = stage(name)
    assert line is not None, "it was accepted"
    assert line.startswith("error: ")
    assert "\n" not in line
    for words in says:
        assert words in line
    assert files(project) == before


def test_parameters_that_are_no_yaml(project: Path) -> None:
    (project / "params.yaml").write_text("seed: [1\n", encoding="utf-8")
    refused(project, "train", "params.yaml is not valid YAML")


def test_a_run_that_no_parameter_names(project: Path) -> None:
    line = stage("train", WORDS["train"].replace("trial1 data", "trial9 data"))
    known = "active, improved, improved-children1, improved-split2, trial1, trial2, trial3"  # as YAML sorts them there
    assert line == f"error: params.yaml: no run is named 'trial9'; there are: {known}"


def test_an_empty_class_folder(project: Path) -> None:
    shutil.rmtree(project / "data/healthy")
    (project / "data/healthy").mkdir()
    refused(project, "audit", "data/healthy holds no images")


def test_a_missing_class(project: Path) -> None:
    shutil.rmtree(project / "data/down_syndrome")
    refused(project, "audit", "data has no folder 'down_syndrome'")


@pytest.mark.parametrize("made", ["empty folder", "one class", "text"])
def test_ones_own_data_without_images(project: Path, made: str) -> None:
    own = project / "mine"
    if made == "text":
        own.write_text("not an archive", encoding="utf-8")
    else:
        own.mkdir()
    if made == "one class":
        shutil.copytree(project / "data/healthy", own / "healthy")
    change(project, "data.source", "mine")
    says = "is not a ZIP archive" if made == "text" else "no images of the class"
    assert stage("source") is None
    refused(project, "download", "mine", says)


def test_more_unreadable_images_than_allowed(project: Path) -> None:
    (project / "data/healthy/healty_3.jpg").write_bytes(b"")
    refused(project, "audit", "2 unreadable images", "allows 1", "healthy/healty_3.jpg (empty file)")


def test_a_class_without_readable_images(project: Path) -> None:
    change(project, "audit.max_unreadable", 100)
    for path in (project / "data/healthy").iterdir():
        path.write_bytes(b"not an image")
    refused(project, "audit", "class healthy: none of its", "can be read")


def test_too_few_images(project: Path) -> None:
    table = (project / "audit/images.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    few = [line for line in table[1:] if line.startswith("healthy")][:2]
    few += [line for line in table[1:] if not line.startswith("healthy")]
    (project / "audit/images.csv").write_text("".join([table[0], *few]), encoding="utf-8")
    refused(project, "split", "class healthy: its 2 readable images leave none for the")


@pytest.mark.parametrize("name", ["weights", "train"])
def test_weights_of_another_architecture(project: Path, name: str) -> None:
    import torch
    from torchvision.models import resnet18

    (project / "downloads").mkdir()
    (project / "weights/resnet34.pth").unlink()
    for path in (project / "downloads/weights.pth", project / "weights/resnet34.pth"):
        torch.save(resnet18(weights=None).state_dict(), path)
    change(project, "weights.source", "imagenet")
    refused(project, name, ".pth: not a ResNet-34: it lacks layer1.2.conv1.weight")


def test_weights_that_are_no_weights(project: Path) -> None:
    (project / "downloads").mkdir()
    (project / "downloads/weights.pth").write_text("<html>no such file</html>", encoding="utf-8")
    change(project, "weights.source", "imagenet")
    refused(project, "weights", "downloads/weights.pth: not a file of weights that can be loaded safely")


@pytest.mark.parametrize(("locale", "says"), [("C.UTF-8", "no images of the class"), ("C", "cannot be used")])
def test_a_real_process_says_it_in_one_line_in_any_locale(project: Path, locale: str, says: str) -> None:
    (project / "bösé").mkdir()
    change(project, "data.source", "bösé")
    environment = {**os.environ, "LC_ALL": locale, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    if locale == "C":  # without these Python would take UTF-8 all the same
        environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    for name in ("source", "download"):
        command = [sys.executable, "-m", f"stages.{name}", *WORDS[name].split()]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        if done.returncode:
            break
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (project / "downloads/images").exists()


# The same through DVC, which has files and messages of its own


class Pipeline:
    """A project on the drawn sample; its stage `weights` stands for all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        demo.prepare(root, SMALL)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "FACES_CACHE": str(root / ".cache")}

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.root,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )

    def repro(self, stage: str = "weights", **environment: str) -> tuple[int, str]:
        process = self.start("repro", stage, **environment)
        said = process.communicate(timeout=300)[0]
        return process.returncode, said

    def running(self, process: "subprocess.Popen[str]") -> psutil.Process:
        """Wait for a stage's own process."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "stages.weights" in child.cmdline():
                        return child
            time.sleep(0.05)
        raise AssertionError("no stage began")

    def forget(self) -> None:
        for name in ("weights", ".dvc/cache"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "dvc.lock").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def whole_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("pipeline") / "Ordner für 名前")


@pytest.fixture
def pipeline(whole_pipeline: Pipeline) -> Pipeline:
    whole_pipeline.forget()
    return whole_pipeline


@pytest.mark.slow
def test_two_repros_at_once(pipeline: Pipeline) -> None:
    first = pipeline.start("repro", "weights")
    stage = pipeline.running(first)
    stage.suspend()  # however slow the second is to start
    status, said = pipeline.repro()
    stage.resume()
    assert status != 0
    assert "is busy, it is being blocked by" in said
    assert "Traceback" not in said
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert "up to date" in pipeline.repro()[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [".dvc/tmp/rwlock", "dvc.lock"])
def test_a_file_of_dvcs_that_a_kill_cut_short(pipeline: Pipeline, name: str) -> None:
    assert pipeline.repro()[0] == 0
    (pipeline.root / name).write_bytes(b"")
    status, said = pipeline.repro()
    assert status != 0
    assert soak.DAMAGED.search(" ".join(said.split())), said
    assert "Traceback" not in said
    (pipeline.root / name).unlink()  # as docs/faults.md says
    assert pipeline.repro()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("options", "says"), [("size=1m", "No space left"), ("ro", "Read-only file system")])
def test_dvcs_cache_on_a_disk_that_takes_nothing(pipeline: Pipeline, options: str, says: str) -> None:
    cache = pipeline.root / ".dvc/cache"
    mount(cache, options)
    try:
        status, said = pipeline.repro()
    finally:
        subprocess.run(["umount", "--lazy", str(cache)], check=True)
    assert status != 0
    assert says in said
    assert "Traceback" not in said
    assert pipeline.repro()[0] == 0


@pytest.mark.slow
def test_dvc_in_a_locale_that_is_not_utf_8(pipeline: Pipeline) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    status, said = pipeline.repro("download", **ascii_only)
    assert status != 0  # DVC cannot name a folder whose letters Python is forbidden to read
    assert "surrogates not allowed" in said
    assert "Traceback" not in said
    status, said = pipeline.repro("download", LC_ALL="C")
    assert status == 0, said
    assert (pipeline.root / "downloads/images/healthy/healty_1.jpg").is_file()


def test_every_row_of_the_page_says_what_tries_it() -> None:
    """A name is that of one test file, a path in backquotes is there, or the row says that no test tries it."""
    repository = Path(__file__).parents[1]
    tests = [path.stem.removeprefix("test_") for path in (repository / "tests").rglob("test_*.py")]
    tables, _ = (repository / "docs/faults.md").read_text(encoding="utf-8").split("\n## The soak\n")
    last = re.findall(r"^\| .* \| (.+) \|$", tables, re.MULTILINE)
    cells = [cell for cell in last if cell != "tried by"]
    assert len(cells) > 100
    for cell in cells:
        for name in re.sub(r" \([^()]*\)", "", cell).split(", "):
            if path := re.fullmatch("`(.+)`", name):
                assert (repository / path[1]).exists(), cell
            else:
                assert name in ("by hand", "not tried") or tests.count(name) == 1, cell
