"""What the tests of pages share."""

from pathlib import Path

import plotted
import pytest


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh clone, after `make install`, of a repository with results of the drawn sample."""
    target = tmp_path_factory.mktemp("clone") / "clone"
    plotted.make(tmp_path_factory.mktemp("origin"), target)
    return target
