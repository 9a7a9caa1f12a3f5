"""Where a result comes from: the commit of the code, the command, the user and the machine of the driver."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from cluster.redaction import redact

DISTRIBUTION = "clozeline"
ROOT = Path(__file__).resolve().parents[1]


@cache
def provenance() -> dict[str, Any]:
    """Returns the provenance of the results that this process orders. The commit is null if it is unknown."""
    commit, is_changed = git_commit() or (installed_commit(), None)
    return {
        "commit": commit,
        "is_changed": is_changed,
        "command": redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "user": user(),
        "host": os.uname().nodename,
    }


def git_commit(root: Path = ROOT) -> tuple[str, bool] | None:
    """Returns the commit of a checkout of this project, and True if files differ from it; else None.

    A folder inside another repository, such as an installed package, does not count.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    head = _git(root, "rev-parse", "HEAD")
    return None if head is None else (head, bool(_git(root, "status", "--porcelain", "--untracked-files=no")))


def installed_commit(name: str = DISTRIBUTION) -> str | None:
    """Returns the commit from which pip installed a package, if it did so from a repository."""
    try:
        text = distribution(name).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return None if commit is None else str(commit)


def user() -> str:
    """Returns the name of the user, or "unknown" for a process without one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str | None:
    """Returns the output of git; None if git is not installed, fails or does not respond."""
    try:
        process = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
