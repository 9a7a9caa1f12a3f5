"""Commit and versions of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipelines.run import publication


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    process = subprocess.run(
        ["git", "-C", str(folder), *author, *arguments], capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def test_git_commit_needs_a_checkout_and_reports_changes(tmp_path: Path) -> None:
    assert publication.git_commit(tmp_path) is None, "not a repository"
    git(tmp_path, "init")
    assert publication.git_commit(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("two")
    assert publication.git_commit(tmp_path) == (head, False)
    (tmp_path / "file").write_text("two")
    assert publication.git_commit(tmp_path) == (head, True)
    inside = tmp_path / "venv"
    inside.mkdir()
    assert publication.git_commit(inside) is None, "installed inside another project"


def test_run_tags_have_versions() -> None:
    tags = publication.run_tags()
    assert tags["version.torch"].split(".")[0].isdigit()
    assert "version.python" in tags
