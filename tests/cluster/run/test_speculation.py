"""Which running steps get a second attempt."""

from dataclasses import replace

import pytest

from cluster.run.capacity import Machine
from cluster.run.speculation import RunningTask, SlowTask, Speculation, find_slow, peers, with_room
from cluster.steps.step import Resources
from tests.support.steps import toy

RULE = Speculation(kinds=frozenset({"pet"}), factor=3.0, min_s=30.0, min_finished=3)
CORE = Machine(cpus=1)


def task(step: str = "pet/0", seconds: float = 100.0, needs: Machine = CORE, node: str = "a") -> RunningTask:
    return RunningTask(step=step, token=step, seconds=seconds, needs=needs, node=node)


def slow(*tasks: RunningTask) -> list[SlowTask]:
    return [SlowTask(item, 4.0) for item in tasks]


@pytest.mark.parametrize(
    ("seconds", "finished_s", "ratio"),
    [
        (100.0, [20.0, 25.0, 30.0], 4.0),
        (76.0, [20.0, 25.0, 600.0], 3.04),  # the median ignores one that was slow, too
        (75.0, [20.0, 25.0, 30.0], None),  # not longer than 3 times the median
        (29.0, [1.0, 1.0, 1.0], None),  # shorter than the minimum
        (31.0, [1.0, 1.0, 1.0], 31.0),
        (1000.0, [20.0, 25.0], None),  # too few have finished
        (1000.0, [], None),
    ],
)
def test_step_is_slow_compared_with_the_median_of_its_peers(
    seconds: float, finished_s: list[float], ratio: float | None
) -> None:
    found = find_slow([(task(seconds=seconds), finished_s)], RULE)
    assert [item.ratio for item in found] == ([] if ratio is None else [pytest.approx(ratio)])


def test_slowest_step_is_first() -> None:
    finished_s = [10.0, 10.0, 10.0]
    running = [(task(f"pet/{seconds}", seconds), finished_s) for seconds in (40.0, 90.0, 60.0)]
    assert [item.task.step for item in find_slow(running, RULE)] == ["pet/90.0", "pet/60.0", "pet/40.0"]


def test_second_attempt_needs_room_on_another_node() -> None:
    items = slow(task())
    assert with_room(items, {"a": Machine(cpus=8), "b": CORE}, []) == items
    assert with_room(items, {"a": Machine(cpus=8)}, []) == [], "with one node only it would be as slow"
    assert with_room(items, {"a": Machine(cpus=8), "b": Machine(cpus=0.5)}, []) == []
    assert with_room(slow(task(node="")), {"a": CORE, "b": CORE}, []) == [], "its node is unknown"


def test_second_attempt_needs_a_gpu_if_the_step_does() -> None:
    items = slow(task(needs=Machine(cpus=1, gpus=1)))
    assert with_room(items, {"b": Machine(cpus=8)}, []) == []
    assert with_room(items, {"b": Machine(cpus=8, gpus=1)}, []) == items


def test_waiting_step_keeps_the_node_that_it_can_use() -> None:
    items, free = slow(task()), {"b": Machine(cpus=2)}
    assert with_room(items, free, [CORE]) == []
    assert with_room(items, free, [Machine(cpus=1, gpus=1), Machine(cpus=4)]) == items


def test_each_core_is_given_once() -> None:
    items = slow(task("pet/0"), task("pet/1", node="b"), task("pet/2"))
    placed = with_room(items, {"a": CORE, "b": CORE}, [])
    assert [item.task.step for item in placed] == ["pet/0", "pet/1"]


def test_peers_read_the_same_kinds_of_inputs() -> None:
    data = toy("data")
    first = replace(toy("pet/0", 1, base=data, assets={"backbone": "x"}), kind="pet")
    assert peers(first) == peers(replace(toy("pet/1", 2, base=data, assets={"backbone": "x"}), kind="pet"))
    others = [
        toy("pet/1", base=data, assets={"backbone": "y"}),
        toy("pet/1", base=data, assets={"backbone": "x"}, parts=(toy("pet/0/0"),)),
        toy("pet/1", base=data, assets={"backbone": "x"}, resources=Resources(cpus=2)),
    ]
    assert all(peers(first) != peers(replace(other, kind="pet")) for other in others)
    assert peers(first) != peers(replace(first, kind="prompts"))
