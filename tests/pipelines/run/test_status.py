"""`gc` keeps the results of the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from cluster.store.lease import Leases
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from pipelines.cli.app import app
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request
from pipelines.run.status import format_size
from pipelines.schema.loader import find_recipe
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


def test_dry_run_removes_nothing(store: Path) -> None:
    shown = gc(store, "smoke", "--dry-run")
    assert shown.exit_code == 0
    assert current(["seed=77"], store)[:12] in shown.output and current([], store)[:12] not in shown.output
    assert "1 results would be removed, 5." in shown.output
    assert len(open_store(store).fingerprints("soft_labels")) == 2


def test_gc_keeps_results_of_the_recipe(store: Path) -> None:
    assert "1 results removed, 5." in gc(store, "smoke").output
    assert open_store(store).fingerprints("soft_labels") == [current([], store)]
    assert "0 results removed, 0 B" in gc(store, "smoke").output


def test_gc_keeps_results_of_each_recipe(store: Path, tmp_path: Path) -> None:
    other = yaml.safe_load(find_recipe("smoke").read_text())
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump({**other, "seed": 77}, sort_keys=False))
    assert "0 results removed" in gc(store, "smoke", str(path)).output
    assert len(open_store(store).fingerprints("soft_labels")) == 2


def test_gc_fails_if_data_are_missing(store: Path, tmp_path: Path) -> None:
    """Otherwise a disk that is not mounted would remove all results."""
    other = yaml.safe_load(find_recipe("smoke").read_text())
    other["data"]["pool"]["asset"] = str(tmp_path / "unmounted" / "data.jsonl")
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(other, sort_keys=False))
    with pytest.raises(InputError, match="is missing"):
        gc(store, str(path))
    assert len(open_store(store).fingerprints("soft_labels")) == 2


def test_format_size_has_units() -> None:
    assert [format_size(number) for number in (0, 999, 1000, 1_234_567, 5 * 10**15)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "5000.0 TB",
    ]  # fmt: skip
