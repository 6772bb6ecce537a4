"""What the demo prints at its end, and what it may delete."""

from pathlib import Path

import drawn_runs
import pytest

from ci import demo
from faces.cli import InputError


def test_the_table_is_short_and_has_n_and_intervals(tmp_path: Path) -> None:
    drawn_runs.make(tmp_path, source="sample", n=60)
    _, _, *rows = demo.summary(tmp_path).splitlines()
    cells = {row.split("|")[1].strip(): row for row in rows}
    assert list(cells) == ["trial1", "trial2", "trial3", "improved"]
    for name, row in cells.items():
        accuracy = drawn_runs.read(tmp_path / f"metrics/runs/{name}.json")["metrics"]["accuracy"]
        assert f"{accuracy['value']:.1%} ({100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f})" in row
        assert row.endswith(" 60 |")


def test_only_a_folder_that_the_command_made_is_deleted(tmp_path: Path) -> None:
    mark = tmp_path / "work" / demo.MARK
    demo.remove_earlier(mark.parent, mark)
    mark.parent.mkdir()
    (mark.parent / "mine").touch()
    with pytest.raises(InputError, match="is there, and this command has not made it; name another folder"):
        demo.remove_earlier(mark.parent, mark)
    assert (mark.parent / "mine").exists()
    mark.touch()
    demo.remove_earlier(mark.parent, mark)
    assert not mark.parent.exists()
