"""TensorBoard's events: off by default, one curve for each column of the history, and a word where it is missing."""

import importlib.util
from pathlib import Path

import pytest

from faces.cli import InputError
from faces.training import watch

EPOCHS = [{"epoch": 1, "train_loss": 0.5, "val_loss": 0.75}, {"epoch": 2, "train_loss": 0.25, "val_loss": 0.5}]


def test_off_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(watch.VARIABLE, raising=False)
    watch.check()
    watch.write("trial1", EPOCHS[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_history_as_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv(watch.VARIABLE, str(tmp_path))
    for epoch in EPOCHS:
        watch.write("trial1", epoch)
    events = EventAccumulator(str(tmp_path / "trial1")).Reload()
    assert events.Tags()["scalars"] == ["train_loss", "val_loss"]
    assert [(event.step, event.value) for event in events.Scalars("val_loss")] == [(1, 0.75), (2, 0.5)]


def test_without_the_package_one_line_says_so_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    watch.check()
    monkeypatch.setenv(watch.VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="needs the package tensorboard"):
        watch.check()
