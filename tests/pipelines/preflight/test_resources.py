"""`plan` names the steps that no machine can ever run, and what they lack."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import SessionError
from cluster.run.capacity import Capacity
from cluster.steps.plan import PlanState, plan
from cluster.steps.step import Resources
from cluster.store.base import Store
from pipelines.cli.app import app
from pipelines.preflight import resources
from pipelines.preflight.resources import block_impossible, known_capacity, num_local_gpus
from tests.support.steps import toy

MACHINES = Capacity(cpus=4, gpus=1, node_cpus=4, node_gpus=1)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_an_impossible_step_blocks_itself_and_those_that_need_it(store: Store) -> None:
    large = toy("large", 1, resources=Resources(gpus=2))
    steps = [toy("needs_both", parts=(large, toy("small", resources=Resources(gpus=1)))), toy("other", 2)]
    planned = block_impossible(plan(steps, store), MACHINES)
    states = {line.name: line.state for line in planned}
    assert states == {
        "large": PlanState.BLOCKED, "small": PlanState.RUN, "needs_both": PlanState.BLOCKED, "other": PlanState.RUN
    }  # fmt: skip
    reasons = {line.name: " ".join(line.reasons) for line in planned}
    assert "requests 2 GPUs, but the largest machine has 1. Request fewer" in reasons["large"]
    assert reasons["needs_both"] == "it needs large, which is blocked"


def test_plan_compares_the_recipe_with_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "gpu_sizes", lambda: (1 << 30,))
    monkeypatch.setattr(resources, "AMD_DRIVER", tmp_path / "kfd")
    monkeypatch.delenv(resources.VISIBLE_GPUS, raising=False)
    words = ["plan", "smoke", "--store", str(tmp_path / "store"), "-o", "pet.gpus=2"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
    states = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith(("RUN", "BLOCKED"))}
    assert states["pet/review/0"].startswith("BLOCKED") and "requests 2 GPUs" in states["pet/review/0"]
    assert states["report"].startswith("BLOCKED") and states["data/rotten_tomatoes"].startswith("RUN")
    result = CliRunner().invoke(app, [*words[:-1], "pet.gpus=1"], catch_exceptions=False)
    assert "BLOCKED" not in result.stdout


def test_gpus_that_this_process_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "gpu_sizes", lambda: (1, 1))
    for visible, number in ((None, 2), ("1", 1), ("", 0)):
        if visible is None:
            monkeypatch.delenv(resources.VISIBLE_GPUS, raising=False)
        else:
            monkeypatch.setenv(resources.VISIBLE_GPUS, visible)
        assert num_local_gpus() == number


def test_gpus_that_cannot_be_counted_block_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "AMD_DRIVER", tmp_path)
    assert known_capacity([toy("large", resources=Resources(gpus=2))]) is None


def test_no_cluster_is_asked_for_steps_that_run_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "session", pytest.fail)
    assert known_capacity([toy("small", resources=Resources(cpus=99))], "host:6379") is None


def test_plan_warns_of_a_cluster_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(address: str) -> None:
        raise SessionError(f"Ray cannot be reached at {address}.", "Check the address.")

    monkeypatch.setattr(resources, "session", no_answer)
    words = ["plan", "smoke", "--store", str(tmp_path), "--address", "host:6379", "-o", "pet.gpus=2"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "warning: Ray cannot be reached at host:6379." in result.stdout and "BLOCKED" not in result.stdout


def test_a_cluster_says_what_it_has(ray_session: Capacity) -> None:
    assert known_capacity([toy("large", resources=Resources(gpus=2))], "auto") == ray_session
