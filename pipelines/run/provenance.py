"""Provenance of a run: versions of packages, and the commit if this project runs from a git checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster.steps.code_digests import versions

ROOT = Path(__file__).resolve().parents[2]


def git_commit(root: Path = ROOT) -> tuple[str, bool] | None:
    """The commit of a checkout of this project, and whether files differ from it; None where there is no checkout.

    A folder that merely lies inside another repository, as an installed package may, is none.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    head = _git(root, "rev-parse", "HEAD")
    return None if head is None else (head, bool(_git(root, "status", "--porcelain", "--untracked-files=no")))


def run_tags() -> dict[str, str]:
    """The same as tags of a run. MLflow shows a run's commit where it stands under MLflow's own name."""
    found = {f"version.{name}": value for name, value in versions().items()}
    about = git_commit()
    if about is not None:
        found["mlflow.source.git.commit"] = about[0]
        found["git.is_changed"] = str(about[1]).lower()
    return found


def _git(root: Path, *words: str) -> str | None:
    """What git says, or None: it is not installed, there is no repository, or it does not answer."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
