"""Where a result comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.provenance import git_commit, installed_commit, provenance
from hatch_build import FILE, commit_file
from tests.support.paths import ROOT


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    process = subprocess.run(
        ["git", "-C", str(folder), *author, *arguments], capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def test_git_commit_needs_a_checkout_and_reports_changes(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None, "not a repository"
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("two")
    assert git_commit(tmp_path) == (head, False)
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == (head, True)
    inside = tmp_path / "venv"
    inside.mkdir()
    assert git_commit(inside) is None, "installed inside another project"


def test_commit_of_an_installation_from_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "installed_from_git-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-from-git\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_commit("installed-from-git") is None, "built from no checkout"
    (info / "extra_metadata").mkdir()
    (info / "extra_metadata" / "commit.json").write_text(json.dumps({"commit": "123", "is_changed": True}))
    assert installed_commit("installed-from-git") == ("123", True)
    url = {"url": "https://host/repository", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    (info / "direct_url.json").write_text(json.dumps(url))
    assert installed_commit("installed-from-git") == ("abc", False)
    assert installed_commit("not-installed") is None


def test_build_has_the_commit_of_its_checkout_or_source_distribution(tmp_path: Path) -> None:
    checkout, folder = tmp_path / "checkout", tmp_path / "folder"
    checkout.mkdir()
    folder.mkdir()
    assert commit_file(checkout, folder) is None
    git(checkout, "init")
    (checkout / "file").write_text("one")
    git(checkout, "add", "file")
    git(checkout, "commit", "-m", "first")
    file = commit_file(checkout, folder)
    assert file is not None and file.parent == folder
    assert json.loads(file.read_text()) == {"commit": git(checkout, "rev-parse", "HEAD"), "is_changed": False}
    (checkout / "file").write_text("two")
    commit_file(checkout, folder)
    assert json.loads(file.read_text())["is_changed"] is True
    inside = checkout / "inside"
    inside.mkdir()
    assert commit_file(inside, folder) is None, "unpacked inside another project"
    (inside / FILE).write_text("{}")
    assert commit_file(inside, folder) == inside / FILE


def test_provenance_names_the_command_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/clozeline", "run", "a b", "-o", "data.train=https://me:pa55@host/x"])
    provenance.cache_clear()
    origin = provenance()
    provenance.cache_clear()
    assert origin["command"] == "clozeline run 'a b' -o data.train=https://me:***@host/x"
    assert origin["host"] == os.uname().nodename
    if (ROOT / ".git").exists():
        assert origin["commit"] == git(ROOT, "rev-parse", "HEAD")
