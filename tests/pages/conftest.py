"""What the tests of pages share."""

from pathlib import Path

import plotted
import pytest


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with results of the drawn sample."""
    root = tmp_path_factory.mktemp("origin")
    plotted.make(root)
    return root


@pytest.fixture(scope="session")
def clone(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh clone of it, after `make install`; tests that change it take a copy."""
    target = tmp_path_factory.mktemp("clone") / "clone"
    plotted.clone(origin, target)
    return target
