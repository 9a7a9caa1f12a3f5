"""`accept` keeps results under a new key. These tests write the step functions, so that their code can change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import AcceptError, GraphError
from cluster.steps.accept import accept
from cluster.steps.fingerprint import KeyOptions
from cluster.steps.plan import Plan, PlanState
from cluster.store.lease import Leases
from cluster.store.local import LocalStore
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from tests.support.code_project import Project
from tests.support.s3_helpers import URL, Proxy
from tests.support.steps import Config

USER = "ann@laptop"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A committed project in a store on a disk."""
    monkeypatch.syspath_prepend(tmp_path)
    project = Project(tmp_path, LocalStore(tmp_path / "store"))
    project.commit(project.plan())
    return project


@pytest.fixture
def changed(project: Project) -> Project:
    """The same after a change of the code of `pet`."""
    project.write("pet", "return 1 + 0")
    return project


def test_accept_keeps_the_step_and_its_descendants(changed: Project) -> None:
    before = changed.plan()
    assert changed.states() == {"data": "CACHED", "pet": "RUN", "student": "RUN"}
    kept = accept(before, changed.store, ["pet"], USER)
    assert [(item.manifest.step, item.is_named) for item in kept] == [("pet", True), ("student", False)]
    after = changed.plan()
    assert {line.state for line in after} == {PlanState.CACHED}
    (acceptance,) = after.manifests["pet"].acceptances
    assert acceptance.user == USER
    assert acceptance.changes == (f"the code of {changed.package}.pet changed",)
    assert after.manifests["student"].acceptances[0].changes == ("inputs.base changed",)
    assert after.lines["pet"].notes[0].startswith("accepted by ann@laptop on 20")
    assert after.lines["data"].notes == ()


class ExtendedConfig(Config):
    """A config with a setting that a later version of the code added."""

    momentum: float = 0.9


def test_accept_keeps_a_result_that_lacks_a_new_setting_with_its_default(project: Project) -> None:
    project.config = ExtendedConfig
    assert set(project.states().values()) == {"RUN"}
    kept = accept(project.plan(), project.store, ["*"], USER)
    assert kept[0].changes == ("config.momentum: nothing -> 0.9",)
    assert set(project.states().values()) == {"CACHED"}
    with pytest.raises(AcceptError, match=r"config\.value: 0 -> 3"):
        accept(project.plan(pet=3), project.store, ["pet"], USER)


def test_accepted_files_are_links_and_outlive_the_old_result(changed: Project) -> None:
    old = next(iter(changed.store.results("pet")))
    (kept, _) = accept(changed.plan(), changed.store, ["pet"], USER)
    file = changed.store.files("pet", kept.manifest.fingerprint) / "part" / "file.txt"
    assert file.stat().st_nlink == 2
    changed.store.delete("pet", old.fingerprint)
    assert file.read_text() == "pet"
    assert changed.store.inspect("pet", kept.manifest.fingerprint, verify=True).manifest is not None


def test_accept_in_an_s3_store_copies_on_the_server(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    project = Project(tmp_path, open_store(URL))
    project.commit(project.plan())
    project.write("pet", "return 1 + 0")
    old = next(iter(project.store.results("pet")))
    kept = accept(project.plan(), project.store, ["pet"], USER)
    assert [item.manifest.step for item in kept] == ["pet", "student"]
    project.store.delete("pet", old.fingerprint)
    assert set(project.states().values()) == {"CACHED"}
    files = project.store.files("pet", kept[0].manifest.fingerprint)
    assert (files / "part" / "file.txt").read_text() == "pet"


def test_rerun_removes_the_acceptance(changed: Project) -> None:
    accept(changed.plan(), changed.store, ["pet"], USER)
    changed.write("pet", "return 1 + 0 + 0")
    changed.commit(changed.plan())
    assert changed.plan().lines["pet"].notes == ()


def test_second_acceptance_keeps_the_first(changed: Project) -> None:
    accept(changed.plan(), changed.store, ["pet"], USER)
    changed.write("pet", "return 1 + 0 + 0")
    accept(changed.plan(), changed.store, ["pet"], "bob@server")
    planned = changed.plan()
    assert [item.user for item in planned.manifests["pet"].acceptances] == [USER, "bob@server"]
    assert planned.lines["student"].state is PlanState.CACHED


def test_descendant_with_another_change_is_not_kept(changed: Project) -> None:
    changed.write("student", "return 2")
    kept = accept(changed.plan(), changed.store, ["pet"], USER)
    assert [item.manifest.step for item in kept] == ["pet"]
    assert changed.states()["student"] == "RUN"
    accept(changed.plan(), changed.store, ["student"], USER)
    assert changed.states()["student"] == "CACHED"


@pytest.mark.parametrize(
    ("change", "step", "error"),
    [
        (lambda project: project.plan(pet=3), "pet", r"cannot accept step pet: config.value: 0 -> 3\."),
        (lambda project: project.plan(data=3), "pet", r"cannot accept step pet: inputs.base changed\."),
        (lambda project: project.plan(), "data", r"data: already cached\."),
    ],
)
def test_accept_rejects_other_changes(
    changed: Project, change: Callable[[Project], Plan], step: str, error: str
) -> None:
    with pytest.raises(AcceptError, match=error):
        accept(change(changed), changed.store, [step], USER)
    assert changed.states() == {"data": "CACHED", "pet": "RUN", "student": "RUN"}


def test_accept_rejects_a_step_without_a_result(changed: Project) -> None:
    for item in list(changed.store.results("pet")):
        changed.store.delete("pet", item.fingerprint)
    with pytest.raises(AcceptError, match="pet has no committed result"):
        accept(changed.plan(), changed.store, ["pet"], USER)
    with pytest.raises(GraphError, match="no step is called pte"):
        accept(changed.plan(), changed.store, ["pte"], USER)


def test_accept_rejects_a_result_from_other_upstream_files(changed: Project) -> None:
    """`data` was rebuilt with other bytes under the same key, so `pet` has to run."""
    planned = changed.plan()
    changed.store.delete("data", planned.lines["data"].fingerprint)
    leases = Leases()
    line = changed.plan().lines["data"]
    slot = changed.store.slot("data", line.fingerprint)
    staged = changed.store.begin("data", line.fingerprint, leases.acquire(slot, "data"))
    (staged.out / "other.txt").write_text("other")
    staged.commit(
        {},
        lambda result, files: Manifest(
            step="data",
            fingerprint=line.fingerprint,
            key=line.key.components,
            files=files,
            upstream_digests={},
            result=result,
        ),
    )
    leases.release(slot)
    with pytest.raises(AcceptError, match="it was made from other files of data"):
        accept(changed.plan(), changed.store, ["pet"], USER)


def test_accept_keeps_an_upstream_step_and_a_changed_descendant_together(changed: Project) -> None:
    changed.write("data", "return 7")
    planned = changed.plan()
    with pytest.raises(AcceptError, match=r"inputs\.base changed"):
        accept(planned, changed.store, ["pet"], USER)
    accept(planned, changed.store, ["data", "pet"], USER)
    assert set(changed.states().values()) == {"CACHED"}


def test_library_versions_in_the_key_can_be_accepted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    options = KeyOptions(has_versions=True)
    with_versions = project.plan(options)
    assert {line.state for line in with_versions} == {PlanState.RUN}
    project.commit(with_versions)
    monkeypatch.setattr("cluster.steps.fingerprint.versions", lambda: {"torch": "9.9"})
    planned = project.plan(options)
    reasons = "; ".join(planned.lines["data"].reasons)
    assert "made with torch " in reasons and ", now 9.9" in reasons
    accept(planned, project.store, ["data"], USER)
    assert project.plan(options).lines["data"].state is PlanState.CACHED


def test_plan_notes_library_versions_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    project = Project(tmp_path, LocalStore(tmp_path / "store"))
    project.commit(project.plan(), torch="2.12", numpy="2.0")
    monkeypatch.setattr("cluster.steps.plan.versions", lambda: {"torch": "2.13", "numpy": "2.0", "new": "1"})
    line = project.plan().lines["data"]
    assert line.state is PlanState.CACHED
    assert line.notes == ("made with torch 2.12, now 2.13",)
