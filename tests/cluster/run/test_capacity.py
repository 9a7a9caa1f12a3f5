"""Which steps a cluster can run, and what they wait for."""

import pytest

from cluster.errors import SessionError
from cluster.run.capacity import ADDABLE, Capacity, Machine, addable_machine
from cluster.steps.step import Resources

TWO_MACHINES = Capacity(cpus=12, gpus=1, node_cpus=8, node_gpus=1)
HEAD_ONLY = Capacity(cpus=0, gpus=0, node_cpus=0, node_gpus=0)


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (Resources(), "1 CPU"),
        (Resources(cpus=4), "4 CPUs"),
        (Resources(cpus=16), "8 CPUs"),
        (Resources(gpus=1), "1 GPU"),
        (Resources(gpus=2, cpus=4), "2 GPUs and 4 CPUs"),
        (Resources(workers=3, strategy="ddp", cpus=2), "3 workers with 2 CPUs each"),
        (Resources(workers=(1, 99), strategy="ddp", gpus=1), "1 worker with 1 GPU"),
    ],
)
def test_waits_for_names_what_a_step_requests(resources: Resources, text: str) -> None:
    assert TWO_MACHINES.waits_for(resources) == text


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        (Resources(gpus=2), "requests 2 GPUs, but the largest machine has 1"),
        (Resources(workers=5, strategy="ddp", cpus=4), "5 workers with 4 CPUs each, but the cluster has 12"),
        (Resources(workers=2, strategy="ddp"), None),
        (Resources(workers=2, strategy="stream"), None),
        (Resources(cpus=99), None),
        (Resources(gpus=1), None),
    ],
)
def test_find_missing_names_what_no_machine_has(resources: Resources, problem: str | None) -> None:
    missing = TWO_MACHINES.find_missing(resources)
    assert (missing is None) if problem is None else (missing is not None and problem in missing.problem)


def test_nothing_is_missing_while_the_first_machine_is_awaited() -> None:
    assert HEAD_ONLY.lacks_machines and HEAD_ONLY.find_missing(Resources(gpus=9)) is None
    assert HEAD_ONLY.waits_for(Resources(cpus=4)) == "4 CPUs"


def test_autoscaler_counts_with_the_machine_that_it_may_add() -> None:
    growing = HEAD_ONLY.with_addable(Machine(cpus=4, gpus=1))
    assert not growing.lacks_machines
    assert growing.find_missing(Resources(gpus=1)) is None
    assert growing.find_missing(Resources(workers=5, strategy="ddp", cpus=4)) is None
    missing = growing.find_missing(Resources(gpus=2))
    assert missing is not None and "the largest machine has 1" in missing.problem
    assert growing.per_worker(Resources(cpus=16)) == Machine(cpus=4)


@pytest.mark.parametrize(("text", "machine"), [("16,1", Machine(cpus=16, gpus=1)), ("8", Machine(cpus=8)), ("", None)])
def test_addable_machine_is_read_from_the_environment(
    text: str, machine: Machine | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDABLE, text)
    assert addable_machine() == machine


def test_malformed_machine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDABLE, "large")
    with pytest.raises(SessionError, match="'large', which is not the CPUs and GPUs"):
        addable_machine()
