"""What changed code makes a plan do. These tests write the step functions, so that their code can change."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.steps.code_changes import find_code_changes
from cluster.steps.code_digests import versions
from cluster.store.local import LocalStore
from tests.support.code_project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that is committed by another version of the program."""
    monkeypatch.syspath_prepend(tmp_path)
    project = Project(tmp_path, LocalStore(tmp_path / "store"))
    project.commit(project.plan(), clozeline="0.0.1")
    return project


def test_changed_code_counts_the_step_and_its_descendants(project: Project) -> None:
    assert find_code_changes(project.plan(), project.store) is None
    project.write("pet", "return 1 + 0")
    changes = find_code_changes(project.plan(), project.store)
    assert changes is not None
    assert (changes.steps, changes.named, changes.globs) == (("pet", "student"), ("pet",), ("pet",))
    assert changes.changed == (f"{project.package}.pet",)
    assert changes.version == versions()["clozeline"]
    assert changes.num_acceptable == 2


def test_step_with_another_change_is_not_counted(project: Project) -> None:
    project.write("pet", "return 1 + 0")
    changes = find_code_changes(project.plan(student=3), project.store)
    assert changes is not None and changes.steps == ("pet",) and changes.num_acceptable == 1
    assert find_code_changes(project.plan(data=3), project.store) is None, "it would run anyway"


def test_result_of_the_same_version_names_no_version(project: Project, tmp_path: Path) -> None:
    project.store = LocalStore(tmp_path / "other")
    project.commit(project.plan(), clozeline=versions()["clozeline"])
    project.write("pet", "return 1 + 0")
    changes = find_code_changes(project.plan(), project.store)
    assert changes is not None and changes.version == ""
