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
    (root / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    settings = yaml.safe_load((REPOSITORY / "ci/gate.yaml").read_text())
    (root / "ci").mkdir()
    (root / "ci/gate.yaml").write_text(yaml.safe_dump({**settings, "permutations": 1000}))
    write(root, scores())
    commit(root)
    monkeypatch.chdir(root)
    return root
