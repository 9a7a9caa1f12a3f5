"""Writes the commit of the checkout into wheels and source distributions, so that results of an installation name it.

An editable installation needs no such file: the commit of its checkout is read when a step runs.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "commit.json"
"""In the root of a source distribution, and among the extra metadata of a wheel."""


class CommitHook(BuildHookInterface):
    """Adds the file to what is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        file = commit_file(Path(self.root), Path(self._folder.name))
        if file is not None:
            part = "force_include" if self.target_name == "sdist" else "extra_metadata"
            build_data[part][str(file)] = FILE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called after a build."""
        if version != "editable":
            self._folder.cleanup()


def commit_file(root: Path, folder: Path) -> Path | None:
    """Returns the file that `root` has or, for a checkout, a new one in `folder`; None if the commit is unknown."""
    file = root / FILE
    if file.exists():
        return file
    top, commit = git(root, "rev-parse", "--show-toplevel"), git(root, "rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != root.resolve():
        return None
    is_changed = bool(git(root, "status", "--porcelain", "--untracked-files=no"))
    file = folder / FILE
    file.write_text(json.dumps({"commit": commit, "is_changed": is_changed}))
    return file


def git(root: Path, *arguments: str) -> str:
    """Returns the output of git; empty if it fails or is not installed."""
    try:
        process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""
