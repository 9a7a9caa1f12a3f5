"""The worker of a step: threads, inputs and changed code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.code_digests import CodeDigests
from cluster.steps.plan import PlanState, plan
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.assets.cache import IDENTIFY, LOCATE, resolve, slot_of
from stages.common.assets.references import Asset
from stages.common.engine import ENGINE
from tests.support.asset_steps import RUN, AssetConfig
from tests.support.paths import ROOT
from tests.support.steps import edited, threads, toy

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(120)]


def run(leaf: Step, store: Store, **options: Any) -> RunResult:
    return execute([leaf], store, RunOptions(engine=ENGINE, backoff_s=0.05, poll_s=0.05, **options))


def test_each_step_has_its_own_number_of_threads(store: Store) -> None:
    one = toy("one", fn=threads, resources=Resources(cpus=1))
    two = toy("two", 1, fn=threads, base=one, resources=Resources(cpus=2))
    many = toy("many", 2, fn=threads, base=two, resources=Resources(cpus=3))
    result = run(many, store)
    assert [result.manifests[name].result["threads"] for name in ("one", "two", "many")] == [1, 2, 3]


def test_code_that_changes_during_a_run_is_not_committed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CodeDigests.of
    monkeypatch.setattr(CodeDigests, "of", lambda self, module: {**real(self, module), module: "older"})
    error = run(toy("edited"), store).errors["edited"]
    assert "the code of tests.support.steps changed since this run started" in error.error


def test_code_that_is_edited_and_restored_during_a_run_is_not_committed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "tests.support.programs.edited_code", str(tmp_path)]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("result "))
    found = json.loads(line.removeprefix("result "))
    assert found["unchanged"] == {"results": [{"value": 1}], "errors": []}
    values = tmp_path / "while_it_runs" / "values.py"
    assert found["while_it_runs"]["results"] == found["before_it_starts"]["results"] == []
    assert f"{values} was written while the step ran" in found["while_it_runs"]["errors"][0]
    assert "the code of before_it_starts.values changed" in found["before_it_starts"]["errors"][0]


def test_data_that_is_edited_and_restored_while_a_step_runs_is_not_committed(store: Store, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("old")
    step = edited("reads", data, "new")
    error = run(step, store).errors["reads"]
    assert data.read_text() == "old"
    assert str(error) == (
        f"step reads failed: {data} was written while the step ran, so the result was not committed. "
        "Run the pipeline again, and edit no code or data while a step reads it."
    )
    assert plan([step], store)[0].state is PlanState.RUN
    assert run(edited("reads", data), store).manifests["reads"].result == {"read": "old"}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A file that is fetched into the cache, which the workers of the session share."""
    remote = tmp_path / "remote.csv"
    remote.write_text("old")
    yield remote.as_uri()
    slot = slot_of(Asset.parse(remote.as_uri()))
    for path in (slot / "remote.csv", slot.with_name(f"{slot.name}.json"), slot.with_name(f"{slot.name}.lock")):
        path.unlink(missing_ok=True)
    slot.rmdir()


def test_asset_that_is_edited_and_restored_in_the_cache_is_not_committed(store: Store, url: str) -> None:
    cached = resolve(url)
    recipe = read_recipe(find_recipe("smoke"), PipelineConfig)
    steps = [
        make_step(recipe, "reads", kind="probe", run=RUN, config=AssetConfig(asset=url, text=text))
        for text in ("new", "")
    ]
    options = {"identify": IDENTIFY, "locate": LOCATE}
    error = run(steps[0], store, **options).errors["reads"]
    assert error.error.startswith(f"{cached} was written while the step ran")
    assert cached.read_text() == "old"
    assert run(steps[1], store, **options).manifests["reads"].result == {"read": "old"}


def test_data_that_changes_after_the_plan_is_not_read(store: Store, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("old")
    step = edited("reads", data)
    data.write_text("new")
    assert run(step, store).errors["reads"].error == f"{data} changed since this run started."


def test_inputs_must_match_the_function(store: Store) -> None:
    base = toy("base")
    step = Step(name="odd", run=base.run, config=base.config, inputs={"unknown": base})
    error = run(step, store).errors["odd"]
    assert "odd has the inputs unknown, but Inputs of tests.support.steps has the fields parts, base" in error.error
