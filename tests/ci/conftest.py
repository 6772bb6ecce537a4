"""A project whose results are committed."""

from pathlib import Path

import pytest
import yaml
from revisions import commit, git, scores, write

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "a project"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["gate"]["permutations"] = 1000
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    write(root, scores())
    commit(root)
    monkeypatch.chdir(root)
    return root
