"""The pull request's comment shows the changed figures from Git, and every plot of both revisions goes beside it."""

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import plotted
import pytest

from ci import comment
from faces.cli import InputError

ADDRESS = "https://github.com/someone/faces"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository whose branch `change` changes, adds and removes a figure, merged with `base`."""
    root = tmp_path_factory.mktemp("repository")
    plotted.make(root)
    plotted.execute(root, "git", "branch", "base")
    plotted.execute(root, "git", "switch", "--quiet", "--create", "change")
    figures = root / "plots/figures"
    (figures / "roc.png").write_bytes((figures / "calibration.png").read_bytes())
    (figures / "calibration.png").rename(figures / "calibration_again.png")
    (root / "plots/active/curves/roc.csv").write_text("fpr,tpr\n0,0\n0,1\n1,1\n")
    plotted.execute(root, "git", "commit", "--quiet", "--all", "--message=change")
    plotted.execute(root, "git", "add", "--all")
    plotted.execute(root, "git", "commit", "--quiet", "--message=change")
    plotted.execute(root, "git", "switch", "--quiet", "--detach", "base")
    plotted.execute(root, "git", "merge", "--quiet", "--no-ff", "--message=as GitHub checks it out", "change")
    (root / "gate.md").write_text("### Metrics\n\n| run |\n|---|\n| trial1 |\n")
    return root


def write(repository: Path, monkeypatch: pytest.MonkeyPatch, base: str = "base") -> str:
    head = plotted.execute(repository, "git", "rev-parse", "change").strip()
    event = repository / "event.json"
    event.write_text(json.dumps({"pull_request": {"head": {"sha": head}}}))
    monkeypatch.chdir(repository)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    comment.main(base, Path("gate.md"), Path("out"), "someone/faces", run_id="7", event=event)
    return (repository / "out/comment.md").read_text()


def test_comment_has_the_changed_figures_as_they_are_in_git_and_all_plots_beside_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write(repository, monkeypatch)
    assert text.startswith("### Metrics\n\n| run |\n|---|\n| trial1 |\n\n### Curves\n")
    before, after = (plotted.execute(repository, "git", "rev-parse", name).strip() for name in ("base", "change"))
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "<img" in line]
    addresses = {row[0]: re.findall(r'src="([^"]+)"', " ".join(row)) for row in rows}
    assert addresses == {
        "roc": [f"{ADDRESS}/raw/{commit}/plots/figures/roc.png" for commit in (before, after)],
        "calibration": [f"{ADDRESS}/raw/{before}/plots/figures/calibration.png"],
        "calibration_again": [f"{ADDRESS}/raw/{after}/plots/figures/calibration_again.png"],
    }
    for address in itertools.chain(*addresses.values()):  # what GitHub serves there is in that commit
        commit, path = re.fullmatch(f"{ADDRESS}/raw/([0-9a-f]{{40}})/(.+)", address).groups()
        plotted.execute(repository, "git", "cat-file", "-e", f"{commit}:{path}")
    assert all(re.search(r'alt="\w+ at [0-9a-f]{7}"', line) for line in text.splitlines() if "<img" in line)
    assert f"({ADDRESS}/actions/runs/7#artifacts)" in text

    files = list((repository / "out/curves").iterdir())
    assert f"the same axes: {len(files)} plots as SVG" in text
    assert len(files) == 12
    roc = "".join(ElementTree.parse(repository / "out/curves/active_roc.svg").getroot().itertext())
    assert "active run, workspace" in roc
    assert "active run, base" in roc
    assert "cannot be read" not in text


def test_what_cannot_be_read_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "plots/compared/roc.csv"
    plotted.execute(repository, "git", "rm", "--quiet", path)
    text = write(repository, monkeypatch)
    assert "12 plots as SVG" in text
    assert f"cannot be read: `{path}` in workspace." in text

    plotted.execute(repository, "git", "commit", "--quiet", "--message=gone")
    text = write(repository, monkeypatch, base="HEAD")
    plotted.execute(repository, "git", "reset", "--quiet", "--hard", "HEAD~1")
    assert "11 plots as SVG" in text
    assert f"cannot be read: `{path}` in HEAD, `{path}` in workspace." in text


def test_nothing_changed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert comment.figures("raw", comment.commit("HEAD"), "after") == ["No figure changes."]


def test_an_unknown_revision_is_one_clear_line(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot see the revision 'nowhere'"):
        write(repository, monkeypatch, base="nowhere")
