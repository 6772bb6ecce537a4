"""One's own folder or archive: it lies apart from what the pipeline makes, DVC sees its changes, nothing is lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_objects.fs.utils import tmp_fname

from ci import demo, freshness
from faces.cli import InputError
from faces.source import own, sample
from faces.source.listing import list_classes
from stages import source

LINK = Path("downloads/source")


def set_source(root: Path, value: str) -> None:
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["data"]["source"] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a project with every output of the pipeline in its place, and a folder and an archive beside it."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("dvc.yaml", "data.dvc", "params.yaml"):
        (root / name).write_text(Path(name).read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("data", "downloads/images", "models/active", "plots/figures", "reports", ".git", "mine"):
        (root / name).mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(root)
    return root


def find(root: Path, value: str) -> None:
    set_source(root, value)
    source.main(LINK)


@pytest.mark.parametrize("value", ["mine", "../beside", "./mine/../mine", "{root}/mine", "~/beside"])
def test_a_source_apart_is_linked_to(project: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HOME", str(project.parent))
    find(project, value.format(root=project))
    assert LINK.is_symlink()
    assert LINK.resolve() in (project / "mine", project.parent / "beside")
    assert LINK.with_suffix(".txt").read_text() == "own\n"


def test_a_queued_experiments_copy_finds_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = project / ".dvc/tmp/exps/copy"
    copy.mkdir(parents=True)
    (copy / "params.yaml").write_text((project / "params.yaml").read_text())
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))  # as DVC does
    find(copy, "mine")
    assert (copy / LINK).resolve() == project / "mine"


@pytest.mark.parametrize("word", ["kaggle", "sample"])
def test_a_word_is_a_file_and_changes_back_and_forth(project: Path, word: str) -> None:
    for _ in range(2):
        find(project, word)
        assert LINK.read_text() == LINK.with_suffix(".txt").read_text() == f"{word}\n"
        assert not LINK.is_symlink()
        find(project, "mine")
        assert LINK.resolve() == project / "mine"
    assert list((project / "mine").iterdir()) == []


INSIDE = ["data", "data/archive.zip", "downloads", "downloads/images", "downloads/x", "models/active", "models/mine"]
INSIDE += ["plots/figures/mine", "plots", "reports/mine.zip", ".git", "{root}/data", "mine/../data"]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("value", INSIDE)
def test_a_source_in_an_output_is_refused(project: Path, value: str, linked: bool) -> None:
    path = project / value.format(root=project)
    if path.suffix:
        path.write_bytes(b"the only copy")
    else:
        path.mkdir(parents=True, exist_ok=True)
    if linked:
        (project.parent / "link").symlink_to(path)
    with pytest.raises(InputError, match=r"lies in .*, which the pipeline replaces; move it out") as refusal:
        find(project, "../link" if linked else value.format(root=project))
    assert "\n" not in str(refusal.value)
    assert path.exists()
    assert not LINK.is_symlink()


@pytest.mark.parametrize("value", [".", "..", "{root}", "/", "../link"])
def test_a_source_around_the_repository_is_refused(project: Path, value: str) -> None:
    (project.parent / "link").symlink_to(project)
    with pytest.raises(InputError, match="holds the repository; give the folder of the images alone"):
        find(project, value.format(root=project))


def test_an_output_on_another_disk_is_an_output_all_the_same(project: Path) -> None:
    disk = project.parent / "disk"
    (disk / "models/mine").mkdir(parents=True)
    (project / "models/active").rmdir()
    (project / "models").rmdir()
    (project / "models").symlink_to(disk / "models")
    with pytest.raises(InputError, match="lies in models"):
        find(project, "../disk/models/mine")
    with pytest.raises(InputError, match="holds the pipeline's own models"):
        find(project, "../disk")


def test_every_output_of_dvc_yaml_is_guarded() -> None:
    from pipeline import stages

    guarded = set(own._outputs(Path()))
    outputs = {out.split("/")[0] for stage in stages() for out in stage.outs} | {"data"}
    assert outputs <= guarded
    assert not any("$" in name for name in guarded)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nowhere", "is neither kaggle nor sample nor a path that exists"),
        ("params.yaml/x", "is neither kaggle nor sample nor a path that exists"),
        ("~no-such-user/x", "cannot be used: .*"),
        ("x" * 300, "cannot be used: .*too long"),
        ("a\0b", "cannot be used: embedded null byte"),
        ("/dev/null", "is a device, pipe or socket; give a folder or a ZIP archive"),
        ("circle", "cannot be used: .*"),
        ("new\nline", r"new\?line is neither"),
    ],
)
def test_a_source_that_is_none(project: Path, value: str, words: str) -> None:
    Path("circle").symlink_to("circle")
    with pytest.raises(InputError, match=rf"params.yaml: data.source: .*{words}") as refusal:
        own.locate(value)
    assert str(refusal.value).isprintable()


def test_what_is_in_the_links_place_is_not_replaced(project: Path) -> None:
    LINK.write_bytes(b"notes of mine")
    with pytest.raises(InputError, match="downloads/source is in the way; move it"):
        find(project, "mine")
    assert LINK.read_bytes() == b"notes of mine"
    LINK.unlink()
    LINK.mkdir()
    with pytest.raises(InputError, match="downloads/source is in the way; move it"):
        find(project, "sample")


def folder_link(folder: Path) -> None:
    (folder / "odd").symlink_to(folder.parent)


def broken_link(folder: Path) -> None:
    (folder / "odd.jpg").symlink_to("nowhere")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "odd.jpg")


def latin_1(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xe4odd.txt")).write_bytes(b"x")


def hidden(folder: Path) -> None:
    for make in (broken_link, pipe, latin_1):
        (folder / f".{make.__name__}").mkdir()
        make(folder / f".{make.__name__}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (folder_link, r"mine/healthy/odd is a link to a folder; DVC sees no change behind it: put the folder itself"),
        (broken_link, r"mine/healthy/odd\.jpg is a broken link; DVC cannot look for changes there: remove it"),
        (pipe, r"mine/healthy/odd\.jpg is a pipe, socket or device; DVC cannot look"),
        (latin_1, r"mine: the file name 'healthy/\\udce4odd\.txt' is not valid UTF-8; rename"),
    ],
)
def test_what_dvc_could_not_watch_is_refused(project: Path, make: Callable[[Path], None], words: str) -> None:
    (project / "mine/healthy").mkdir()
    make(project / "mine/healthy")
    with pytest.raises(InputError, match=words):
        find(project, "mine")


def test_hidden_files_are_left_to_dvcignore(project: Path) -> None:
    hidden(project / "mine")
    find(project, "mine")


# Through DVC


class Project:
    """A project on a folder of one's own with drawn faces; `dvc` runs DVC there and returns what it says."""

    def __init__(self, root: Path, git: bool = False) -> None:
        self.root = root
        changes: dict[str, Any] = {"data": {"source": "mine"}, "audit": {"max_unreadable": 1}}
        demo.prepare(root, demo.overlay(demo.SAMPLE, changes), git=git)
        self.mine = root / "mine"
        sample.draw(self.mine, 10)

    def dvc(self, *words: str, fails: bool = False) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=self.root,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert bool(done.returncode) == fails, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    def images(self) -> set[str]:
        return {path.name for path in (self.root / "data/healthy").iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("own") / "Ordner für 名前")
    project.dvc("repro", "data.dvc")
    return project


@pytest.mark.slow
def test_changes_are_seen_by_status_and_repro(made: Project) -> None:
    status = ("status", "source", "download", "data.dvc")
    assert "up to date" in made.dvc(*status)
    one = made.mine / "healthy/healty_3.jpg"
    for change in (
        lambda: (made.mine / "healthy/new.jpg").write_bytes(one.read_bytes()),
        lambda: (made.mine / "healthy/new.jpg").write_bytes((made.mine / "healthy/healty_4.jpg").read_bytes()),
        lambda: (made.mine / "healthy/new.jpg").unlink(),
    ):
        change()
        assert "modified:           downloads/source" in made.dvc(*status)
        made.dvc("repro", "data.dvc")
        assert made.images() == {path.name for path in (made.mine / "healthy").iterdir()}
        assert "up to date" in made.dvc(*status)
    (made.mine / "healthy/.ipynb_checkpoints").mkdir()
    (made.mine / "healthy/.ipynb_checkpoints/healty_3-checkpoint.jpg").write_bytes(one.read_bytes())
    assert "up to date" in made.dvc(*status)


@pytest.mark.slow
def test_the_only_copy_of_an_archive_kept_in_data_survives(made: Project) -> None:
    for name in ("data/archive.zip", "downloads/images/archive.zip", "plots/curves/trial1/archive.zip"):
        archive = made.root / name
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(b"the only copy")
        set_source(made.root, name)
        for words in (("repro",), ("repro", "audit"), ("repro", "--force", "data.dvc")):
            assert f"lies in {name.split('/')[0]}, which the pipeline replaces" in made.dvc(*words, fails=True)
        assert archive.read_bytes() == b"the only copy"
        archive.unlink()
    set_source(made.root, "mine")
    made.dvc("repro", "data.dvc")


@pytest.mark.slow
def test_what_a_killed_dvc_leaves_of_a_copy_is_nobodys(made: Project) -> None:
    name = tmp_fname("")
    for folder in ("data/healthy", "downloads/images/healthy"):
        (made.root / folder / name).write_bytes(b"half")
    assert "up to date" in made.dvc("status", "source", "download", "data.dvc")
    assert list_classes(made.root / "data").left_out == []
    extra = made.mine / "healthy/extra.jpg"
    extra.write_bytes((made.mine / "healthy/healty_3.jpg").read_bytes())
    made.dvc("repro", "data.dvc")
    assert made.images() == {path.name for path in (made.mine / "healthy").iterdir() if path.suffix == ".jpg"}
    extra.unlink()
    made.dvc("repro", "data.dvc")


@pytest.mark.slow
def test_a_file_put_into_data_survives(made: Project) -> None:
    file = made.root / "data/healthy/mine.jpg"
    file.write_bytes(b"the only copy")
    assert "mine.jpg' without a confirmation" in made.dvc("repro", "data.dvc", fails=True)  # DVC's own line
    extra = made.mine / "healthy/extra.jpg"
    extra.write_bytes((made.mine / "healthy/healty_3.jpg").read_bytes())
    assert "data/healthy/mine.jpg was not made by the pipeline" in made.dvc("repro", "data.dvc", fails=True)
    assert file.read_bytes() == b"the only copy"
    file.unlink()
    made.dvc("repro", "data.dvc")
    extra.unlink()
    made.dvc("repro", "data.dvc")
    assert "extra.jpg" not in made.images()


@pytest.mark.slow
def test_queued_experiments_and_freshness_see_changes_of_an_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("git") is None:
        pytest.skip("experiments need Git")
    project = Project(tmp_path / "project", git=True)
    (project.root / ".git/info/exclude").write_text("mine\n")
    project.dvc("repro", "data.dvc")
    for words in (("add", "--all"), ("commit", "--quiet", "--message=baseline")):
        subprocess.run(["git", *words], cwd=project.root, check=True)
    monkeypatch.chdir(project.root)
    assert not {"source", "download", "data.dvc"} & freshness.behind("HEAD").keys()
    temporary = ("exp", "run", "--temp", "data.dvc")
    assert "Stage 'download' didn't change" in project.dvc(*temporary, "--set-param", "evaluate.resamples=501")
    one = project.mine / "healthy/healty_3.jpg"
    (project.mine / "healthy/new.jpg").write_bytes(one.read_bytes())
    assert "Running stage 'download'" in project.dvc(*temporary, "--set-param", "evaluate.resamples=502")
    assert "new.jpg" not in project.images()  # the experiment ran in a copy
    assert freshness.behind("HEAD")["download"] == ["downloads/source is modified"]
