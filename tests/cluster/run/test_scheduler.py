"""Runs on a local Ray: which steps are run, cached, retried and blocked."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.provenance import provenance
from cluster.run import events, scheduler
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.plan import PlanState, plan
from cluster.steps.step import Resources, Step
from cluster.store.base import Store
from cluster.store.lease import NAME, Lease, Leases, Owner, read_lease, to_json
from cluster.tracking.tracker import NullTracker, TrackedStep
from stages.common.engine import ENGINE
from tests.support.slow_readers import reader
from tests.support.steps import picture, task_name, toy

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(120)]

QUICK = RunOptions(engine=ENGINE, backoff_s=0.05, poll_s=0.05)


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A file that gets one byte for every step that runs."""
    path = tmp_path / "calls"
    path.touch()
    return path


def fan(counter: Path, **changes: dict[str, Any]) -> Step:
    """data -> three members -> ensemble. `changes` maps step names, with / as _, to changes of their config."""

    def step(name: str, value: int, **config: Any) -> Step:
        return toy(
            name, **{"value": value, "counter": str(counter), **config, **changes.get(name.replace("/", "_"), {})}
        )

    data = step("data", 1)
    members = tuple(step(f"pet/p/{index}", index, base=data) for index in (2, 0, 1))
    return step("ensemble", 100, parts=members)


def run(leaf: Step | list[Step], store: Store, options: RunOptions = QUICK) -> RunResult:
    return execute(leaf if isinstance(leaf, list) else [leaf], store, options)


def test_second_run_uses_every_cached_result(store: Store, counter: Path) -> None:
    result = run(fan(counter), store)
    assert result.ok and set(result.executed) == {"data", "pet/p/2", "pet/p/0", "pet/p/1", "ensemble"}
    ensemble = result.manifests["ensemble"].result
    # 100 + (2+1) + (0+1) + (1+1), in the order of declaration.
    assert ensemble == {"total": 106, "order": ["n2", "n0", "n1"]}
    received: list[events.Event] = []
    second = execute([fan(counter)], store, QUICK, on_event=received.append)
    assert second.executed == () and set(second.cached) == set(result.executed)
    assert second.manifests == result.manifests
    assert result.manifests["data"].provenance == provenance()
    assert len(counter.read_bytes()) == 5
    assert not any(isinstance(event, events.RayStarting | events.StepStarted) for event in received)


def test_change_reruns_only_the_steps_that_need_it(store: Store, counter: Path) -> None:
    run(fan(counter), store)
    result = run(fan(counter, pet_p_0={"value": 50}), store)
    assert set(result.executed) == {"pet/p/0", "ensemble"}
    assert result.steps["pet/p/0"].reason == "config.value: 0 -> 50"
    assert result.manifests["ensemble"].result["total"] == 156
    assert run(fan(counter), store).executed == ()


def test_failure_blocks_only_the_steps_that_need_it(store: Store, counter: Path) -> None:
    bad = fan(counter, pet_p_0={"fail": "error"})
    result = run(bad, store)
    assert not result.ok
    assert set(result.executed) == {"data", "pet/p/2", "pet/p/1"}
    assert result.failed == ("pet/p/0",)
    assert result.blocked == {"ensemble": "it needs pet/p/0, which has no result"}
    error = result.errors["pet/p/0"]
    assert str(error) == "step pet/p/0 failed: 0 is an invalid number. Use another number."
    assert "in _fail" in error.tail() and "step_worker.py" not in error.trace
    assert "value 0" in Path(error.log).read_text() and "printed by another program" in Path(error.log).read_text()
    stored = store.failure("pet/p/0", result.steps["pet/p/0"].fingerprint)
    assert stored is not None and stored.error == "0 is an invalid number."
    # After the fix only the missing results are computed.
    fixed = run(fan(counter), store)
    assert set(fixed.executed) == {"pet/p/0", "ensemble"}
    assert store.failure("pet/p/0", result.steps["pet/p/0"].fingerprint) is None


def test_steps_that_become_ready_after_a_failure_run_only_with_keep_going(store: Store, counter: Path) -> None:
    bad = toy("bad", fail="error")
    slow = toy("slow", pause_s=6.0)
    late = toy("late", base=slow)
    result = run([bad, late], store)
    assert result.executed == ("slow",)
    assert "--keep-going" in result.blocked["late"]
    result = run([bad, late], store, RunOptions(engine=ENGINE, keep_going=True, poll_s=0.05))
    assert result.executed == ("late",) and result.failed == ("bad",)


def test_only_transient_failures_are_retried(store: Store, counter: Path) -> None:
    received: list[events.Event] = []
    steps = [
        toy("flaky", fail="once connection", counter=str(counter)),
        toy("bad", 1, fail="plain"),
        toy("unreachable", 2, fail="connection", resources=Resources(max_attempts=2)),
    ]
    result = execute(steps, store, QUICK, on_event=received.append)
    assert result.executed == ("flaky",) and set(result.failed) == {"bad", "unreachable"}
    assert result.manifests["flaky"].attempt == 2
    attempts = [event.step for event in received if isinstance(event, events.StepStarted)]
    assert sorted(attempts) == ["bad", "flaky", "flaky", "unreachable", "unreachable"]
    assert result.errors["bad"].error == "RuntimeError: it broke"


def test_step_of_a_killed_worker_is_retried(store: Store) -> None:
    result = run(toy("victim", fail="once kill"), store)
    assert result.executed == ("victim",)
    assert result.manifests["victim"].attempt == 2


def test_step_that_exits_fails(store: Store) -> None:
    result = run(toy("exiting", fail="exit"), store)
    assert result.errors["exiting"].error == "SystemExit: 3"


def test_damaged_result_is_recomputed(store: Store, counter: Path) -> None:
    first = run(fan(counter), store)
    fingerprint = first.steps["pet/p/1"].fingerprint
    (store.files("pet/p/1", fingerprint) / "more" / "note.txt").write_text("short")
    second = run(fan(counter), store)
    assert second.executed == ("pet/p/1",)
    assert (store.files("pet/p/1", fingerprint) / "more" / "note.txt").read_text() == "x" * 100


def test_forced_step_with_equal_files_keeps_later_results(store: Store, counter: Path) -> None:
    run(fan(counter), store)
    result = run(fan(counter), store, RunOptions(engine=ENGINE, force=("pet/p/1",), poll_s=0.05))
    assert result.executed == ("pet/p/1",)
    assert "ensemble" in result.cached


def test_reader_of_a_step_that_another_driver_forces_sees_one_attempt(store: Store, tmp_path: Path) -> None:
    step = reader(tmp_path)
    results: list[RunResult] = []
    first = threading.Thread(target=lambda: results.append(run(step, store)))
    first.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    before = store.lookup("base", plan([step], store).keys["base"].fingerprint)
    assert before is not None
    forced = run(step, store, replace(QUICK, only=("base",), force=("base",)))
    after = forced.manifests["base"]
    assert forced.executed == ("base",) and after.result != before.result
    (tmp_path / "may_end").touch()
    first.join()
    assert results[0].executed == ("base", "reader")
    assert results[0].manifests["reader"].result == [before.result["attempt"]] * 2
    (line,) = (line for line in plan([step], store) if line.name == "reader")
    assert line.state is PlanState.RUN
    assert line.reasons == ("base was rebuilt, with other files than this result was made from",)
    assert run(step, store).manifests["reader"].result == [after.result["attempt"]] * 2


def test_selection_limits_the_steps_that_run(store: Store, counter: Path) -> None:
    leaf = fan(counter)
    blocked = run(leaf, store, RunOptions(engine=ENGINE, only=("ensemble",), poll_s=0.05))
    assert list(blocked.blocked) == ["ensemble"] and not blocked.executed
    assert run(leaf, store, RunOptions(engine=ENGINE, until=("pet/p/2",), poll_s=0.05)).executed == ("data", "pet/p/2")
    assert set(run(leaf, store, RunOptions(engine=ENGINE, from_=("pet/*",), poll_s=0.05)).executed) == {
        "pet/p/0",
        "pet/p/1",
        "ensemble",
    }


def test_max_parallel_limits_running_steps(store: Store) -> None:
    running, maximum = 0, 0

    def watch(event: events.Event) -> None:
        nonlocal running, maximum
        running += isinstance(event, events.StepStarted) - isinstance(event, events.StepFinished)
        maximum = max(maximum, running)

    steps = [toy(f"s/{index}", index, pause_s=0.1) for index in range(4)]
    assert (
        len(execute(steps, store, RunOptions(engine=ENGINE, max_parallel=1, poll_s=0.05), on_event=watch).executed) == 4
    )
    assert maximum == 1


def test_queued_step_has_neither_lease_nor_mlflow_run_until_it_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUEUED_AFTER_S", 0.2)
    started: list[str] = []
    leases: list[bool] = []
    first, second = (toy(name, index, pause_s=1.0, resources=Resources(cpus=2)) for index, name in enumerate("ab"))
    fingerprint = plan([second], store)[0].fingerprint

    class Recording(NullTracker):
        def start_step(self, step: TrackedStep, attempt: int = 1, run: str | None = None) -> None:
            started.append(step.name)

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StepQueued) and event.step == "b":
            assert event.waits_for == "2 CPUs" and "b" not in started
            leases.append(store.slot("b", fingerprint).read() is not None)

    assert execute([first, second], store, QUICK, Recording(), watch).ok  # type: ignore[arg-type]
    assert started == ["a", "b"] and leases == [False]


def test_tasks_of_one_kind_have_one_name(store: Store) -> None:
    """Ray keeps counters for each name of a task, 2 kB of the driver's memory, until the driver ends."""
    result = run([toy(f"pet/p/{index}", index, fn=task_name) for index in range(2)], store)
    assert [manifest.result for manifest in result.manifests.values()] == [{"name": "pet"}] * 2


def test_result_of_another_driver_is_used_although_the_step_was_queued(store: Store, counter: Path) -> None:
    """The other driver commits the step after this one has planned it."""
    step = toy("late", counter=str(counter))
    planned = plan([step], store)
    assert run(step, store).executed == ("late",)
    result = execute(planned, store, QUICK)
    assert result.cached == ("late",) and result.executed == ()
    assert len(counter.read_bytes()) == 1


def test_step_with_workers_of_its_own_waits_for_room_for_all_of_them(store: Store) -> None:
    long, first = toy("long", 1, pause_s=4.0), toy("first", 2, pause_s=1.0)
    shared = toy("shared", 3, base=first, resources=Resources(workers=2, strategy="stream"))
    received: list[events.Event] = []
    assert execute([long, shared], store, QUICK, on_event=received.append).ok
    names = [(type(event).__name__, event.step) for event in received if hasattr(event, "step")]
    assert names.index(("StepFinished", "long")) < names.index(("StepStarted", "shared"))


def test_interrupted_call_leaves_no_reservation(store: Store) -> None:
    from ray.util import placement_group_table

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.StepStarted):
            raise KeyboardInterrupt

    long, waits = toy("long", 1, pause_s=60.0), toy("waits", 2, resources=Resources(workers=2, strategy="stream"))
    before = placement_group_table()
    with pytest.raises(KeyboardInterrupt):
        execute([long, waits], store, QUICK, on_event=interrupt)
    groups = [group for name, group in placement_group_table().items() if name not in before]
    assert [group["state"] for group in groups] == ["REMOVED"]


def test_two_drivers_run_each_step_once(store: Store, counter: Path) -> None:
    leaf = fan(counter, pet_p_0={"pause_s": 2.0})
    results: list[RunResult] = []
    received: list[events.Event] = []
    drivers = [
        threading.Thread(target=lambda: results.append(execute([leaf], store, QUICK, on_event=received.append)))
        for _ in range(2)
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert len(counter.read_bytes()) == 5
    assert all(result.ok for result in results)
    assert sorted(name for result in results for name in result.executed) == sorted(results[0].steps)
    owners = {event.owner for event in received if isinstance(event, events.StepWaiting)}
    assert owners == {str(Owner.current())}, "the driver that waits names the other one"


def test_step_of_a_dead_driver_resumes_from_its_checkpoint(store: Store) -> None:
    step = toy("resumed", fail="once error")
    folder = store.folder("resumed", plan([step], store)[0].fingerprint)
    code = (
        "import sys; from pathlib import Path; from cluster.store.lease import FileLease, Leases; "
        "Leases().acquire(FileLease(Path(sys.argv[1])), '')"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    # With the checkpoint of the dead driver the step does not fail.
    (folder / "work").mkdir()
    (folder / "work" / "started").touch()
    (folder / "files.old.part").mkdir()
    assert run(step, store).executed == ("resumed",)
    assert sorted(item.name for item in folder.iterdir()) == [".lease.lock", "files", "manifest.json"]
    assert len(list((folder / "files").iterdir())) == 1


def test_driver_that_lost_a_lease_waits_for_the_other_driver(store: Store) -> None:
    step = toy("contested", pause_s=0.6)
    folder = store.folder("contested", plan([step], store)[0].fingerprint)
    results: list[RunResult] = []
    driver = threading.Thread(target=lambda: results.append(run(step, store)))
    driver.start()
    while read_lease(folder) is None:
        time.sleep(0.01)
    (folder / NAME).write_bytes(to_json(Lease(owner=Owner.current(), token="other")))
    time.sleep(1.2)
    assert store.lookup("contested", folder.name) is None
    assert driver.is_alive()
    (folder / "lease.json").unlink()
    driver.join()
    assert results[0].executed == ("contested",)


def test_step_that_can_never_be_placed_fails_alone(store: Store) -> None:
    short = toy("short", 2)
    two = toy("two", 3, base=short, resources=Resources(cpus=1, gpus=2))
    result = run([toy("long", 1, pause_s=1.0), two, toy("last", 4, base=two)], store)
    assert set(result.executed) == {"long", "short"}
    assert str(result.errors["two"]) == (
        "step two failed: it requests 2 GPUs, but the largest machine has 0. "
        "Request fewer in its resources, or set --address to a cluster that has them."
    )
    assert result.blocked == {"last": "it needs two, which has no result"}
    assert store.lease("two", result.steps["two"].fingerprint) is None


def test_run_continues_with_an_empty_lease_file(store: Store) -> None:
    step = toy("emptied")
    folder = store.folder("emptied", plan([step], store)[0].fingerprint)
    folder.mkdir(parents=True)
    (folder / NAME).touch()
    lease = store.lease("emptied", folder.name)
    assert lease is not None and str(lease.owner) == "a process of another version"
    options = RunOptions(engine=ENGINE, ttl_s=1.0, poll_s=0.05)
    assert set(run([step, toy("other")], store, options).executed) == {"other", "emptied"}


def test_end_of_the_heartbeats_is_reported_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[events.Event] = []
    monkeypatch.setattr(Leases, "heartbeat", lambda self: 1 / 0)
    options = RunOptions(engine=ENGINE, ttl_s=0.3, poll_s=0.05)
    assert execute([toy("slow", pause_s=1.0)], store, options, on_event=received.append).ok
    assert [event for event in received if isinstance(event, events.Warned)] == [
        events.Warned(
            "the heartbeats of the leases stopped (ZeroDivisionError: division by zero) and were started again."
        )
    ]


def test_driver_receives_progress(store: Store) -> None:
    received: list[events.Event] = []
    execute([toy("slow", pause_s=1.2)], store, QUICK, on_event=received.append)
    assert events.StepProgress("slow", 1, 2, {"phase": "adding"}) in received
    names = [type(event).__name__ for event in received]
    assert names.index("StepStarted") < names.index("StepProgress") < names.index("StepFinished")


def test_figures_can_be_recorded_without_a_tracker(store: Store) -> None:
    assert run(toy("picture", fn=picture), store).manifests["picture"].metrics == {"train/loss": 1 / 2500}
