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
COMMIT_FILE = "extra_metadata/commit.json"
"""Among the metadata of a wheel; `hatch_build.py` writes it."""
ROOT = Path(__file__).resolve().parents[1]


@cache
def provenance() -> dict[str, Any]:
    """Returns the provenance of the results that this process orders. The commit is null if it is unknown."""
    commit, is_changed = git_commit() or installed_commit() or (None, None)
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


def installed_commit(name: str = DISTRIBUTION) -> tuple[str, bool | None] | None:
    """Returns the commit from which an installed package was built, and True if files differed from it; else None.

    pip knows the commit of a package that it installed from a repository. All others have it in their wheel.
    """
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return None
    commit = json.loads(package.read_text("direct_url.json") or "{}").get("vcs_info", {}).get("commit_id")
    if commit is not None:
        return str(commit), False
    built = json.loads(package.read_text(COMMIT_FILE) or "{}")
    return (str(built["commit"]), built["is_changed"]) if built else None


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
