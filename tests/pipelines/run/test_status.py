"""`gc` keeps the results of the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.errors import StoreError
from cluster.store.garbage import enter_recipe
from cluster.store.lease import Leases
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from pipelines.cli.app import app
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request
from pipelines.run.status import format_size
from stages.common.errors import InputError

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two results of `soft_labels`: one of the smoke recipe, and one with another seed."""
    for overrides in ([], ["seed=77"]):
        request = load_request("smoke", overrides, tmp_path)
        fingerprint = current(overrides, tmp_path)
        leases = Leases()
        slot = request.store.slot("soft_labels", fingerprint)
        draft = request.store.begin("soft_labels", fingerprint, leases.acquire(slot, "soft_labels"))
        (draft.out / "labels.bin").write_bytes(b"x" * 5000)
        draft.commit(
            {},
            lambda result, files, fingerprint=fingerprint: Manifest(
                step="soft_labels", fingerprint=fingerprint, key={}, files=files, upstream_digests={}, result=result
            ),
        )
        leases.release(slot)
    return tmp_path


def current(overrides: list[str], store: Path) -> str:
    """The current fingerprint of the step."""
    request = load_request("smoke", overrides, store)
    return plan_recipe(request.config, request.store).keys["soft_labels"].fingerprint


def gc(store: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["gc", *words, "--store", str(store)], catch_exceptions=False)


def enter(store: Path, name: str, overrides: list[str]) -> None:
    """Enters a recipe as a run does."""
    enter_recipe(open_store(store), name, "", {"soft_labels": current(overrides, store)})


def test_dry_run_removes_nothing(store: Path) -> None:
    enter(store, "smoke", [])
    shown = gc(store, "--dry-run")
    assert shown.exit_code == 0
    assert current(["seed=77"], store)[:12] in shown.output and current([], store)[:12] not in shown.output
    assert "1 results would be removed, 5." in shown.output
    assert len(open_store(store).fingerprints("soft_labels")) == 2


def test_gc_keeps_results_of_the_recipe(store: Path) -> None:
    enter(store, "smoke", [])
    assert "1 results removed, 5." in gc(store, "--yes").output
    assert open_store(store).fingerprints("soft_labels") == [current([], store)]
    assert "0 results removed, 0 B" in gc(store).output


def test_gc_keeps_results_of_each_recipe_until_it_is_dropped(store: Path) -> None:
    enter(store, "smoke", [])
    enter(store, "other", ["seed=77"])
    assert "0 results removed" in gc(store).output
    assert "1 results would be removed" in gc(store, "--drop", "other", "--dry-run").output
    assert "1 results removed" in gc(store, "--drop", "other", "--yes").output
    assert open_store(store).fingerprints("soft_labels") == [current([], store)]
    with pytest.raises(StoreError, match="no run has entered a recipe other"):
        gc(store, "--drop", "other")


def test_gc_requires_confirmation(store: Path) -> None:
    enter(store, "smoke", [])
    with pytest.raises(InputError, match=r"there is no terminal\. Add --yes\."):
        gc(store)
    assert len(open_store(store).fingerprints("soft_labels")) == 2


def test_gc_with_a_recipe_as_argument_names_the_option(store: Path) -> None:
    with pytest.raises(InputError, match=r"gc takes no recipes as arguments .* clozeline gc --drop smoke"):
        gc(store, "smoke")


def test_format_size_has_units() -> None:
    assert [format_size(number) for number in (0, 999, 1000, 1_234_567, 5 * 10**15)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "5000.0 TB",
    ]  # fmt: skip
