"""Does the committed dvc.lock match the committed code, parameters and dvc.yaml?

    python -m ci.freshness [REVISION]

Asked in a fresh clone that has neither data nor cache, so it takes no GPU and no download. Exit status: 0 it does,
1 some stages would run (they are named), 2 DVC or Git could not say.
"""

import os
import re
import subprocess
import sys
import tempfile
from typing import NoReturn

# a stage that would run, and one whose inputs DVC wants to see because it would run (these are not in the clone)
WOULD_RUN = re.compile(r"^(?:Running stage|ERROR: failed to reproduce) '(.+?)'", re.MULTILINE)


def stale_stages(revision: str) -> list[str]:
    """Return the stages that `dvc repro` would run at a revision of this repository, as far as DVC can tell."""
    with tempfile.TemporaryDirectory(prefix="freshness-") as clone:
        commit = _run("git", "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").stdout.strip()
        _run("git", "clone", "--quiet", "--no-checkout", os.curdir, clone)
        _run("git", "-C", clone, "checkout", "--quiet", "--detach", commit)
        # DVC's exit status alone does not say: it is 0 also when stages would run
        dry = _run(sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", cwd=clone, check=False)
        stale = WOULD_RUN.findall(dry.stdout + dry.stderr)
        if dry.returncode and not stale:
            _give_up(dry)
        return stale


def _run(*command: str, cwd: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if check and done.returncode:
        _give_up(done)
    return done


def _give_up(done: subprocess.CompletedProcess[str]) -> NoReturn:
    reason = done.stderr.strip() or done.stdout.strip() or "no reason given"
    print(f"error: {' '.join(done.args)}: {reason.splitlines()[0]}", file=sys.stderr)
    sys.exit(2)


def main(revision: str = "HEAD") -> int:
    """Print what is stale and return the exit status."""
    stale = stale_stages(revision)
    if stale:
        print(f"dvc.lock is behind: {', '.join(stale)} would run (and what follows); run `dvc repro` and commit")
        return 1
    print(f"dvc.lock matches code and parameters at {revision}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
