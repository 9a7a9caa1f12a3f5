"""Two attempts of one step: whose records and end count."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cluster.errors import LeaseLostError, StepFailedError
from cluster.run.capacity import Machine
from cluster.run.ray_tasks import FinishedTask
from cluster.run.second_attempts import GIVE_UP_AFTER_S, LOSER_WITHIN_S, SEARCH_EVERY_S, SecondAttempts
from cluster.run.speculation import RunningTask, Speculation
from cluster.run.state import RunState, StepState
from cluster.run.step_worker import Outcome
from cluster.steps.plan import plan
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from cluster.tracking.recorder import AttemptStart, LogBatch
from tests.support.steps import task_spec, toy

RULE = Speculation(kinds=frozenset({"pet"}), factor=3.0, min_s=30.0, min_finished=3)
STEP = replace(toy("pet/0"), kind="pet")
FIRST, SECOND = "first", "second"


class Tasks:
    """One step that runs on node a, and a free node b."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.waiting: list[Machine] = []

    def running(self) -> list[RunningTask]:
        return [RunningTask(step="pet/0", token=FIRST, seconds=self.seconds, needs=Machine(cpus=1), node="a")]

    def queued(self) -> list[Machine]:
        return self.waiting

    def free(self) -> Mapping[str, Machine]:
        return {"b": Machine(cpus=1)}


class Run:
    """A run whose step `pet/0` has two attempts; of the second one, `start` reports the start."""

    def __init__(self, store: Store) -> None:
        self.now_s = 1000.0
        self.second = SecondAttempts(RULE, clock=lambda: self.now_s)
        self.tasks = Tasks()
        self._spec = task_spec(STEP, store)
        self.steps: Mapping[str, StepState] = RunState(plan([STEP], store).lines.values()).steps

    def find(self, room: int = 1) -> list[str]:
        self.now_s += SEARCH_EVERY_S
        return [item.task.step for item in self.second.find(self.tasks, self.steps, room)]

    def double(self) -> None:
        for seconds in (20.0, 25.0, 30.0):
            self.second.add_finished(STEP, seconds)
        self.now_s += SEARCH_EVERY_S
        (slow,) = self.second.find(self.tasks, self.steps, 1)
        self.second.add(slow, SECOND)

    def start(self) -> None:
        assert not self.second.passes(LogBatch("pet/0", started=AttemptStart(2, SECOND, "log"), token=SECOND))

    def end(self, token: str, outcome: Outcome | None) -> FinishedTask:
        spec = replace(self._spec, lease=replace(self._spec.lease, token=token))
        return FinishedTask(spec, AttemptStart(1 + (token == SECOND), token, "log"), outcome)


@pytest.fixture
def run(store: Store) -> Run:
    """A run with two attempts, both of which have started."""
    run = Run(store)
    run.double()
    run.start()
    return run


def result() -> Manifest:
    return Manifest(step="pet/0", fingerprint="f" * 64, key={}, files={}, upstream_digests={}, result=None)


def failure(attempt: int) -> StepFailedError:
    return StepFailedError("pet/0", f"broke {attempt}", transient=True, attempt=attempt)


def test_only_slow_steps_of_listed_kinds_get_a_second_attempt(store: Store) -> None:
    run = Run(store)
    assert run.find() == []
    for step in (STEP, STEP, replace(STEP, kind="llm"), STEP):
        assert run.find() == [], "too few have finished"
        run.second.add_finished(step, 25.0)
    assert run.find(room=0) == [], "--max-parallel allows no further task"
    run.tasks.waiting = [Machine(cpus=1)]
    assert run.find() == [], "a waiting step can use the node"
    run.tasks.waiting = []
    assert run.find() == ["pet/0"]
    run.tasks.seconds = 50.0
    assert run.find() == []


def test_without_a_rule_nothing_is_read(store: Store) -> None:
    run = Run(store)
    run.second = SecondAttempts(None)
    run.second.add_finished(STEP, 1.0)
    assert run.find() == [] and not run.second.awaits_losers


def test_a_step_gets_one_second_attempt(run: Run) -> None:
    assert run.find() == []
    assert run.second.ratio_of(SECOND) == 4.0 and run.second.ratio_of(FIRST) is None


def test_records_of_the_second_attempt_count_if_it_wins(run: Run) -> None:
    assert run.second.passes(LogBatch("pet/0", token=FIRST))
    record = LogBatch("pet/0", progress=(1, 2, {}), token=SECOND)
    assert not run.second.passes(record)
    end = run.second.end(won := run.end(SECOND, result()))
    assert end.result is won and end.cancel == FIRST
    assert record in end.records and all(batch.started is None for batch in end.records)
    assert all(run.second.passes(batch) for batch in end.records)
    assert not run.second.passes(LogBatch("pet/0", token=FIRST)), "the first one has lost"


def test_first_attempt_may_win(run: Run) -> None:
    end = run.second.end(won := run.end(FIRST, result()))
    assert end.result is won and end.records == () and end.cancel == SECOND
    assert run.second.awaits_losers
    lost = run.end(SECOND, LeaseLostError("pet/0"))
    assert run.second.end(lost).loser is lost
    assert not run.second.awaits_losers


def test_failure_of_one_attempt_is_none_of_the_step(run: Run) -> None:
    end = run.second.end(lost := run.end(SECOND, failure(2)))
    assert end.result is None and end.loser is None and end.cancel == ""
    assert end.problem == "attempt 2 of pet/0 failed (broke 2); its attempt on another node continues."
    end = run.second.end(won := run.end(FIRST, result()))
    assert end.result is won and end.loser is lost and end.records == ()


def test_second_attempt_continues_alone(run: Run) -> None:
    run.second.passes(held := LogBatch("pet/0", progress=(1, 2, {}), token=SECOND))
    end = run.second.end(lost := run.end(FIRST, failure(1)))
    assert end.result is None and held in end.records
    assert run.second.passes(LogBatch("pet/0", token=SECOND))
    end = run.second.end(won := run.end(SECOND, result()))
    assert end.result is won and end.loser is lost and end.records == ()


def test_step_fails_if_both_attempts_fail(run: Run) -> None:
    first, second = run.end(FIRST, failure(1)), run.end(SECOND, failure(2))
    assert run.second.end(second).result is None
    end = run.second.end(first)
    assert end.result is first and end.earlier is second
    assert isinstance(first.outcome, StepFailedError) and first.outcome.attempt == 2, "the next one is the third"


def test_failure_counts_rather_than_the_lease_that_it_had_taken(run: Run) -> None:
    """The second attempt has replaced the lease, and then could not write the manifest."""
    first, second = run.end(FIRST, LeaseLostError("pet/0")), run.end(SECOND, failure(2))
    assert run.second.end(second).result is None
    end = run.second.end(first)
    assert end.result is second and end.earlier is first


def test_failed_step_is_retried_if_the_second_attempt_waits_for_room(store: Store) -> None:
    run = Run(store)
    run.double()
    end = run.second.end(failed := run.end(FIRST, failure(1)))
    assert end.result is failed and end.cancel == SECOND
    withdrawn = replace(run.end(SECOND, None), start=None)
    assert run.second.end(withdrawn).loser is withdrawn


def test_second_attempt_without_room_is_withdrawn(store: Store) -> None:
    run = Run(store)
    run.double()
    assert run.second.overdue() == []
    run.now_s += RULE.min_s + 1
    assert run.second.overdue() == [SECOND]
    end = run.second.end(replace(run.end(SECOND, None), start=None))
    assert end.result is None and end.loser is None
    assert run.find() == ["pet/0"], "it may get another one"
    assert run.second.end(won := run.end(FIRST, result())).result is won


def test_node_that_cannot_start_a_second_attempt_gets_no_other_one(store: Store) -> None:
    run = Run(store)
    run.double()
    end = run.second.end(replace(run.end(SECOND, failure(1)), start=None))
    assert end.result is None and "broke 1" in end.problem
    assert run.find() == []
    assert run.second.end(won := run.end(FIRST, result())).result is won


def test_attempt_that_does_not_end_is_killed_and_then_given_up(run: Run) -> None:
    assert run.second.overdue() == []
    run.second.end(run.end(SECOND, result()))
    assert run.second.stuck() == [] and run.second.awaits_losers
    run.now_s += LOSER_WITHIN_S + 1
    assert run.second.stuck() == [FIRST] and run.second.awaits_losers
    run.now_s += GIVE_UP_AFTER_S - LOSER_WITHIN_S
    assert not run.second.awaits_losers


def test_other_steps_are_not_affected(run: Run, store: Store) -> None:
    task = FinishedTask(task_spec(toy("pet/1"), store), None, None)
    assert run.second.end(task).result is task
    assert run.second.passes(LogBatch("pet/1", token="other"))
