"""Provenance of a run: versions of packages, and the commit if this project runs from a git checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster.steps.code_digests import versions

ROOT = Path(__file__).resolve().parents[2]


def git_commit(root: Path = ROOT) -> tuple[str, bool] | None:
    """Returns the commit of a checkout of this project, and True if files differ from it; else None.

    A folder inside another repository, such as an installed package, does not count.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    head = _git(root, "rev-parse", "HEAD")
    return None if head is None else (head, bool(_git(root, "status", "--porcelain", "--untracked-files=no")))


def run_tags() -> dict[str, str]:
    """Returns versions and commit as tags of a run. The commit has the name that MLflow shows."""
    tags = {f"version.{name}": value for name, value in versions().items()}
    commit = git_commit()
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit[0]
        tags["git.is_changed"] = str(commit[1]).lower()
    return tags


def _git(root: Path, *arguments: str) -> str | None:
    """Returns the output of git; None if git is not installed, fails or does not respond."""
    try:
        process = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
