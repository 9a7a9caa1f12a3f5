"""`clozeline accept`, `plan` and `status` on results that were committed by hand for `smoke`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.errors import AcceptError
from cluster.steps.code_digests import versions
from cluster.store.lease import Leases
from cluster.store.local import LocalStore
from cluster.store.manifest import Manifest
from pipelines.cli.app import app
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request

STEP = "data/rotten_tomatoes"
CODE = "code.stages.splits.stage"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store with a result of STEP that other code and another version of torch made."""
    request = load_request("smoke", [], tmp_path / "store")
    assert isinstance(request.store, LocalStore)
    key = plan_recipe(request.config, request.store).keys[STEP]
    assert CODE in key.components
    store, leases, fingerprint = request.store, Leases(), "f" * 64
    slot = store.slot(STEP, fingerprint)
    staged = store.begin(STEP, fingerprint, leases.acquire(slot, STEP))
    staged.commit(
        {},
        lambda result, files: Manifest(
            step=STEP,
            fingerprint=fingerprint,
            key={**key.components, CODE: "0" * 64},
            files=files,
            upstream_digests={},
            result=result,
            versions={"torch": "0.1", "clozeline": "0.0.1"},
        ),
    )
    leases.release(slot)
    return store


def clozeline(*words: str) -> Result:
    return CliRunner().invoke(app, [*words], env={"COLUMNS": "300"})


def test_accept_makes_the_step_cached_and_plan_shows_it(store: LocalStore) -> None:
    done = clozeline("accept", "smoke", STEP, "--store", store.url)
    assert done.exit_code == 0
    assert f"accepted  {STEP}  the code of stages.splits.stage changed" in done.output
    request = load_request("smoke", [], store.url)
    line = plan_recipe(request.config, store).lines[STEP]
    assert line.manifest is not None
    assert line.notes[0].startswith("accepted by ")
    assert line.notes[1].startswith("made with torch 0.1, now ")
    status = clozeline("status", "smoke", "--store", store.url)
    assert "accepted by " in status.output and "made with torch 0.1, now " in status.output


def test_accept_rejects_another_config(store: LocalStore) -> None:
    done = clozeline("accept", "smoke", STEP, "-o", "data.shots=4", "--store", store.url)
    assert isinstance(done.exception, AcceptError)
    assert "config.data.shots: 8 -> 4" in str(done.exception)


def test_acceptance_is_kept_in_the_manifest(store: LocalStore) -> None:
    clozeline("accept", "smoke", STEP, "--store", store.url)
    (accepted,) = [
        content
        for path in (store.root / STEP).glob("*/manifest.json")
        if (content := json.loads(path.read_text()))["fingerprint"] != "f" * 64
    ]
    (acceptance,) = accepted["acceptances"]
    assert acceptance["fingerprint"] == "f" * 64 and "@" in acceptance["user"]
    assert acceptance["changes"] == ["the code of stages.splits.stage changed"]


def test_plan_says_what_changed_code_makes_a_run_do_and_what_accept_would_do(store: LocalStore) -> None:
    done = clozeline("plan", "smoke", "--store", store.url)
    current = versions()["clozeline"]
    assert f"1 step would rerun because stages/splits/stage.py changed in clozeline {current}." in done.output
    command = f"clozeline accept smoke {STEP}"
    assert f"If the change does not affect results: {command} keeps 1 result." in done.output
    assert clozeline(*command.split()[1:], "--store", store.url).exit_code == 0
    assert "would rerun" not in clozeline("plan", "smoke", "--store", store.url).output
