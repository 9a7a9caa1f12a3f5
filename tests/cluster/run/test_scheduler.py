"""Runs on a real Ray: what is run, taken, retried, blocked, and in which order it is put together."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.run import events
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.plan import plan
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from cluster.store.lease import Owner, _write, read_lease
from tests.support.steps import picture, threads, toy

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(120)]

QUICK = RunOptions(backoff_s=0.05, poll_s=0.05)


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A file with one byte for every call of a toy."""
    path = tmp_path / "calls"
    path.touch()
    return path


def fan(counter: Path, **changes: dict[str, Any]) -> Step:
    """data -> three members -> ensemble. `changes` go to the steps of that name, with / as _."""

    def step(name: str, value: int, **about: Any) -> Step:
        return toy(
            name, **{"value": value, "counter": str(counter), **about, **changes.get(name.replace("/", "_"), {})}
        )

    data = step("data", 1)
    members = tuple(step(f"pet/p/{index}", index, base=data) for index in (2, 0, 1))
    return step("ensemble", 100, parts=members)


def run(leaf: Step | list[Step], store: Store, options: RunOptions = QUICK) -> RunResult:
    return execute(leaf if isinstance(leaf, list) else [leaf], store, options)


def test_first_run_executes_and_second_takes_every_result(store: Store, counter: Path) -> None:
    outcome = run(fan(counter), store)
    assert outcome.ok and set(outcome.executed) == {"data", "pet/p/2", "pet/p/0", "pet/p/1", "ensemble"}
    result = outcome.manifests["ensemble"].result
    # 100 + (2+1) + (0+1) + (1+1), in the order of declaration and not of the end.
    assert result == {"total": 106, "order": ["n2", "n0", "n1"]}
    seen: list[events.Event] = []
    again = execute([fan(counter)], store, QUICK, on_event=seen.append)
    assert again.executed == () and set(again.cached) == set(outcome.executed)
    assert again.manifests == outcome.manifests
    assert len(counter.read_bytes()) == 5
    assert not any(isinstance(event, events.RayStarting | events.StepStarted) for event in seen)


def test_change_runs_only_what_it_reaches(store: Store, counter: Path) -> None:
    run(fan(counter), store)
    outcome = run(fan(counter, pet_p_0={"value": 50}), store)
    assert set(outcome.executed) == {"pet/p/0", "ensemble"}
    assert outcome.steps["pet/p/0"].reason == "config.value: 0 -> 50"
    assert outcome.manifests["ensemble"].result["total"] == 156
    assert run(fan(counter), store).executed == ()


def test_failure_leaves_siblings_and_blocks_what_needs_it(store: Store, counter: Path) -> None:
    bad = fan(counter, pet_p_0={"fail": "error"})
    outcome = run(bad, store)
    assert not outcome.ok
    assert set(outcome.executed) == {"data", "pet/p/2", "pet/p/1"}
    assert outcome.failed == ("pet/p/0",)
    assert outcome.blocked == {"ensemble": "it needs pet/p/0, which has no result"}
    error = outcome.errors["pet/p/0"]
    assert str(error) == "step pet/p/0 failed: 0 is a bad number. Give a better number."
    assert "in _fail" in error.tail() and "worker.py" not in error.trace
    assert "value 0" in Path(error.log).read_text() and "printed by another program" in Path(error.log).read_text()
    kept = store.failure("pet/p/0", outcome.steps["pet/p/0"].fingerprint)
    assert kept is not None and kept.error == "0 is a bad number."
    # Mended, only what was missing runs.
    mended = run(fan(counter), store)
    assert set(mended.executed) == {"pet/p/0", "ensemble"}
    assert store.failure("pet/p/0", outcome.steps["pet/p/0"].fingerprint) is None


def test_keep_going_decides_on_what_becomes_ready_after_a_failure(store: Store, counter: Path) -> None:
    bad = toy("bad", fail="error")
    slow = toy("slow", pause_s=3.0)
    late = toy("late", base=slow)
    outcome = run([bad, late], store)
    assert outcome.executed == ("slow",)
    assert "--keep-going" in outcome.blocked["late"]
    outcome = run([bad, late], store, RunOptions(keep_going=True, poll_s=0.05))
    assert outcome.executed == ("late",) and outcome.failed == ("bad",)


def test_passing_failure_is_tried_again_and_bad_input_is_not(store: Store, counter: Path) -> None:
    seen: list[events.Event] = []
    steps = [
        toy("flaky", fail="once connection", counter=str(counter)),
        toy("bad", 1, fail="plain"),
        toy("hopeless", 2, fail="connection", resources=Resources(max_attempts=2)),
    ]
    outcome = execute(steps, store, QUICK, on_event=seen.append)
    assert outcome.executed == ("flaky",) and set(outcome.failed) == {"bad", "hopeless"}
    assert outcome.manifests["flaky"].attempt == 2
    tries = [event.step for event in seen if isinstance(event, events.StepStarted)]
    assert sorted(tries) == ["bad", "flaky", "flaky", "hopeless", "hopeless"]
    assert outcome.errors["bad"].error == "RuntimeError: it broke"


def test_killed_worker_is_tried_again(store: Store) -> None:
    outcome = run(toy("victim", fail="once kill"), store)
    assert outcome.executed == ("victim",)
    assert outcome.manifests["victim"].attempt == 2


def test_step_that_exits_has_failed(store: Store) -> None:
    outcome = run(toy("leaver", fail="nan"), store)
    assert outcome.errors["leaver"].error == "SystemExit: 3"


def test_damaged_files_are_made_anew(store: Store, counter: Path) -> None:
    first = run(fan(counter), store)
    damaged = store.files("pet/p/1", first.steps["pet/p/1"].fingerprint) / "more" / "note.txt"
    damaged.write_text("short")
    second = run(fan(counter), store)
    assert second.executed == ("pet/p/1",)
    assert damaged.read_text() == "x" * 100


def test_force_runs_again_and_equal_files_keep_what_follows(store: Store, counter: Path) -> None:
    run(fan(counter), store)
    outcome = run(fan(counter), store, RunOptions(force=("pet/p/1",), poll_s=0.05))
    assert outcome.executed == ("pet/p/1",)
    assert "ensemble" in outcome.cached


def test_selection_of_steps(store: Store, counter: Path) -> None:
    leaf = fan(counter)
    blocked = run(leaf, store, RunOptions(only=("ensemble",), poll_s=0.05))
    assert list(blocked.blocked) == ["ensemble"] and not blocked.executed
    assert run(leaf, store, RunOptions(until=("pet/p/2",), poll_s=0.05)).executed == ("data", "pet/p/2")
    assert set(run(leaf, store, RunOptions(from_=("pet/*",), poll_s=0.05)).executed) == {
        "pet/p/0",
        "pet/p/1",
        "ensemble",
    }


def test_no_more_than_max_parallel_at_a_time(store: Store) -> None:
    running, most = 0, 0

    def watch(event: events.Event) -> None:
        nonlocal running, most
        running += isinstance(event, events.StepStarted) - isinstance(event, events.StepFinished)
        most = max(most, running)

    steps = [toy(f"s/{index}", index, pause_s=0.1) for index in range(4)]
    assert len(execute(steps, store, RunOptions(max_parallel=1, poll_s=0.05), on_event=watch).executed) == 4
    assert most == 1


def test_two_drivers_run_each_step_once(store: Store, counter: Path) -> None:
    leaf = fan(counter, pet_p_0={"pause_s": 0.5})
    outcomes: list[RunResult] = []
    seen: list[events.Event] = []
    drivers = [
        threading.Thread(target=lambda: outcomes.append(execute([leaf], store, QUICK, on_event=seen.append)))
        for _ in range(2)
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert len(counter.read_bytes()) == 5
    assert all(outcome.ok for outcome in outcomes)
    assert sorted(name for outcome in outcomes for name in outcome.executed) == sorted(outcomes[0].steps)
    assert any(isinstance(event, events.StepWaiting) for event in seen)


def test_lease_of_a_dead_driver_is_taken_over_with_its_checkpoint(store: Store) -> None:
    step = toy("resumed", fail="once error")
    place = store.folder("resumed", plan([step], store)[0].fingerprint)
    code = (
        "import sys; from pathlib import Path; from cluster.store.lease import Leases; "
        "Leases().acquire(Path(sys.argv[1]), '')"
    )
    subprocess.run([sys.executable, "-c", code, str(place)], check=True)
    # The dead driver left a checkpoint, with which the toy does not fail.
    (place / "work").mkdir()
    (place / "work" / "been here").touch()
    (place / "files.old.part").mkdir()
    assert run(step, store).executed == ("resumed",)
    assert sorted(item.name for item in place.iterdir()) == [".lease.lock", "files", "manifest.json"]


def test_result_is_refused_if_the_lease_was_lost_and_the_other_drivers_is_awaited(store: Store) -> None:
    step = toy("contested", pause_s=0.6)
    place = store.folder("contested", plan([step], store)[0].fingerprint)
    outcomes: list[RunResult] = []
    driver = threading.Thread(target=lambda: outcomes.append(run(step, store)))
    driver.start()
    while (lease := read_lease(place)) is None:
        time.sleep(0.01)
    _write(place, type(lease)(owner=Owner.current(), token="thief"))
    time.sleep(1.2)
    assert store.lookup("contested", place.name) is None
    assert driver.is_alive()
    (place / "lease.json").unlink()
    driver.join()
    assert outcomes[0].executed == ("contested",)


def test_threads_are_the_steps_own_in_a_worker_that_is_used_again(store: Store) -> None:
    one = toy("one", fn=threads, resources=Resources(cpus=1))
    two = toy("two", 1, fn=threads, base=one, resources=Resources(cpus=2))
    many = toy("many", 2, fn=threads, base=two, resources=Resources(cpus=3))
    outcome = run(many, store)
    assert [outcome.manifests[name].result[threads] for name in ("one", "two", "many")] == [1, 2, 3]


def test_inputs_must_fit_the_function(store: Store) -> None:
    base = toy("base")
    step = Step(name="odd", run=base.run, config=base.config, inputs={"nonsense": base})
    error = run(step, store).errors["odd"]
    assert "odd has the inputs nonsense, and Inputs of tests.support.steps wants parts, base" in error.error


def test_code_edited_while_the_pipeline_runs_is_not_committed_under_the_old_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.steps.code_digests import CodeDigests

    real = CodeDigests.of
    monkeypatch.setattr(CodeDigests, "of", lambda self, module: {**real(self, module), module: "older"})
    error = run(toy("edited"), store).errors["edited"]
    assert "the code of tests.support.steps changed since this run began" in error.error


def test_progress_reaches_the_driver(store: Store) -> None:
    seen: list[events.Event] = []
    execute([toy("slow", pause_s=1.2)], store, QUICK, on_event=seen.append)
    assert events.StepProgress("slow", 1, 2, {"phase": "adding"}) in seen
    kinds = [type(event).__name__ for event in seen]
    assert kinds.index("StepStarted") < kinds.index("StepProgress") < kinds.index("StepFinished")


def test_recorded_pictures_do_not_need_a_tracker(store: Store) -> None:
    assert run(toy("picture", fn=picture), store).manifests[picture].metrics == {"train/loss": 1 / 2500}
