"""Which steps are so slow that a second attempt on another node is worth it (speculative execution).

Dean and Ghemawat, MapReduce (https://research.google/pubs/pub62/), section 3.6, start a second attempt of what is still
in progress at the end. Here a step must also take `factor` times as long as the median of its peers, and no waiting
step may be able to use the node.

Both attempts belong to one driver, and only one of them can commit:

- The first attempt has the lease, and does not know about the second one.
- The second attempt works under this lease, in its own folders, and starts without checkpoints: those of the first
  attempt are being written. When its files are complete, it replaces the lease by its own, with a compare-and-swap, as
  if it were another driver that takes the step over. Then it writes the manifest.
- So an attempt that comes second finds that the lease is not the one it had, or that there is a result by now. It
  discards its files and ends. The driver removes what it left, under the lease of the step.

`cluster.run.second_attempts` has the state of both attempts in the driver.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from cluster.run.capacity import Machine
from cluster.steps.step import Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Speculation:
    """When a step gets a second attempt.

    Args:
        kinds: Kinds of steps (`Step.kind`) that may get one: those of which a run has many.
        factor: A step is slow if it takes longer than this many times the median of its peers that have finished.
        min_s: No step is slow before it has run for this many seconds.
        min_finished: Number of peers that must have finished in this run.
    """

    kinds: frozenset[str]
    factor: float = 3.0
    min_s: float = 30.0
    min_finished: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTask:
    """An attempt that runs for `seconds`, on the machine `node` of Ray, of which it `needs` a part."""

    step: str
    token: str
    seconds: float
    needs: Machine
    node: str


@dataclass(frozen=True, slots=True)
class SlowTask:
    """An attempt that takes `ratio` times as long as the median of its peers."""

    task: RunningTask
    ratio: float


def peers(step: Step) -> Hashable:
    """Returns what the steps have in common that are expected to take equally long.

    Steps of one kind, function and resources, with the same data and models from outside, and as many inputs: the
    sub-models of a later generation, which read more labeled examples, also read the sub-models before them.
    """
    inputs = tuple(sorted((role, len(item) if isinstance(item, tuple) else 1) for role, item in step.inputs.items()))
    return step.kind, step.run, step.resources, inputs, tuple(sorted(step.assets.items()))


def find_slow(running: Iterable[tuple[RunningTask, Sequence[float]]], rule: Speculation) -> list[SlowTask]:
    """Returns the slow attempts, the slowest one first.

    Args:
        running: The attempts, each with the seconds that its finished peers took.
        rule: What slow means.
    """
    slow = []
    for task, finished_s in running:
        if len(finished_s) < rule.min_finished or task.seconds < rule.min_s:
            continue
        typical_s = median(finished_s)
        if task.seconds > rule.factor * typical_s:
            slow.append(SlowTask(task, task.seconds / max(typical_s, 0.001)))
    return sorted(slow, key=lambda item: -item.ratio)


def with_room(slow: Iterable[SlowTask], free: Mapping[str, Machine], queued: Sequence[Machine]) -> list[SlowTask]:
    """Returns the attempts for which another node has room that no waiting step can use.

    Args:
        slow: Slow attempts, in the order in which they get room.
        free: What no task uses, by node.
        queued: What the steps that wait request.
    """
    rooms = {node: room for node, room in free.items() if not any(room.fits(needs) for needs in queued)}
    placed = []
    for item in slow:
        needs = item.task.needs
        node = next((node for node, room in rooms.items() if node != item.task.node and room.fits(needs)), None)
        if item.task.node and node is not None:
            rooms[node] = Machine(cpus=rooms[node].cpus - needs.cpus, gpus=rooms[node].gpus - needs.gpus)
            placed.append(item)
    return placed
