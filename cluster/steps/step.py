"""A step: one function, its config, its inputs and its resources. A pipeline is a graph of steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from cluster.errors import GraphError
from cluster.store.base import FINGERPRINT, RESERVED

Upstream: TypeAlias = "Step | tuple[Step, ...]"
_SEGMENT = re.compile(r"[a-z0-9_.-]+")
_FUNCTION = re.compile(r"[\w.]+:\w+")
Strategy = Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3", "zero3_offload"]
"""How the workers of a step share the work.

single: one worker. ddp: each worker computes a part of every batch. fsdp: like ddp, and each worker stores a part of
the large weights, frozen or trained, of their gradients and of their optimizer state. zero1: like ddp, and each worker
stores a part of the optimizer state. zero2: like zero1, and of the gradients. zero3: like ddp, and each worker stores a
part of every frozen weight. zero3_offload: like zero3, with the weights in the memory of the machines or on a disk.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The resources of a step. They are never part of its key, so another machine finds the same results.

    Args:
        cpus: CPU cores per worker, and the number of its threads. A sum in another order has other last digits, so a
            step uses the same number of threads on every machine, even where fewer cores are available.
        gpus: GPUs per worker.
        max_attempts: Maximum number of attempts.
        workers: Number of workers, or the minimum and the maximum. An attempt starts with as many as fit; after a
            machine was lost, the next attempt starts with the remaining ones.
        strategy: How the workers share the work. stream: each worker takes batches of a stream, and the process of the
            step writes the results.
        timeout_s: Seconds within which all workers must reach the same point; otherwise the step is retried.
        nvme_path: A folder of every machine for the weights of zero3_offload.
    """

    cpus: float = 1
    gpus: float = 0
    max_attempts: int = 3
    workers: int | tuple[int, int] = 1
    strategy: Strategy | Literal["stream"] = "single"
    timeout_s: float = 900
    nvme_path: str | None = None

    @property
    def min_workers(self) -> int:
        """The minimum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The maximum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def is_shared(self) -> bool:
        """True if workers of Ray Train or (stream) Ray Data compute the step instead of one process."""
        return self.strategy != "single"

    @property
    def has_ranks(self) -> bool:
        """True if workers of Ray Train compute the step, each with its rank."""
        return self.strategy not in ("single", "stream")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One node of the graph.

    Args:
        name: The folder of its results in the store, such as `pet/review/0`.
        run: Its function as `module:function`, imported when the step runs: `run(config, inputs, out, recorder,
            engine)`, at the top of a module. It returns a small dataclass or pydantic model.
        config: A frozen pydantic model.
        inputs: Role -> the step, or tuple of steps, whose files it reads.
        assets: Role -> digest of data or weights that come from outside the pipeline.
        files: Name of a file or folder among the assets, such as a local path or a URL -> its digest. Compared when
            the step starts; a file that was written since then is noticed before the commit.
        resources: What it gets while it runs.
        kind: A word for what the step is, such as `probe`. The caller chooses and reads it; it is not part of the key.
        labels: Name -> text that the caller attaches to the step and reads again. They are not part of the key.

    Raises:
        GraphError: the name cannot be a path, or a worker cannot import the function.
    """

    name: str
    run: str
    config: BaseModel
    inputs: Mapping[str, Upstream] = field(default_factory=dict)
    assets: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    kind: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _is_valid_name(self.name):
            raise GraphError(
                f"{self.name!r} is not a valid name of a step.",
                "Use parts of lowercase letters, digits, _ . and -, with / between them, such as pet/review/0; "
                f"the first part must not be one of {', '.join(RESERVED)}.",
            )
        if not _FUNCTION.fullmatch(self.run) or self.run.startswith("__main__:"):
            raise GraphError(
                f"a worker cannot import {self.run!r}, the function of step {self.name}.",
                "Write module:function, with a function that `def` defines at the top of a module.",
            )

    def upstream(self) -> Iterator[Step]:
        """Yields every step that this one reads, in the order of declaration."""
        for item in self.inputs.values():
            if isinstance(item, tuple):
                yield from item
            else:
                yield item

    def upstream_by_component(self) -> dict[str, str]:
        """Returns component of the key, such as `inputs.members.0` -> name of the upstream step."""
        names: dict[str, str] = {}
        for role, item in self.inputs.items():
            if isinstance(item, tuple):
                names |= {f"inputs.{role}.{index}": one.name for index, one in enumerate(item)}
            else:
                names[f"inputs.{role}"] = item.name
        return names


def graph(leaves: Iterable[Step]) -> dict[str, Step]:
    """Returns all steps that `leaves` need, by name: upstream first, otherwise in the order of declaration.

    Raises:
        GraphError: two different steps share a name, or steps form a cycle.
    """
    nodes: dict[str, Step] = {}
    open_: dict[str, Step] = {}
    for leaf in leaves:
        # A stack instead of recursion: a chain may be longer than Python's recursion limit.
        stack: list[tuple[Step, Iterator[Step]]] = [(leaf, leaf.upstream())]
        if _seen(leaf, nodes):
            continue
        open_[leaf.name] = leaf
        while stack:
            step, rest = stack[-1]
            upstream_step = next(rest, None)
            if upstream_step is None:
                stack.pop()
                nodes[step.name] = open_.pop(step.name)
            elif upstream_step.name in open_:
                raise GraphError(
                    f"{upstream_step.name} needs itself: {' -> '.join([*open_, upstream_step.name])}.",
                    "Remove one of these inputs.",
                )
            elif not _seen(upstream_step, nodes):
                open_[upstream_step.name] = upstream_step
                stack.append((upstream_step, upstream_step.upstream()))
    return nodes


def descendants(steps: Mapping[str, Step], names: Iterable[str]) -> set[str]:
    """Returns `names` and all steps that need them. `steps` is in the order of `graph`."""
    reached = set(names)
    for name, step in steps.items():
        if any(item.name in reached for item in step.upstream()):
            reached.add(name)
    return reached


def ancestors(steps: Mapping[str, Step], names: Iterable[str]) -> set[str]:
    """Returns `names` and all steps that they need. `steps` is in the order of `graph`."""
    reached = set(names)
    for name, step in reversed(list(steps.items())):
        if name in reached:
            reached.update(item.name for item in step.upstream())
    return reached


def _is_valid_name(name: str) -> bool:
    segments = name.split("/")
    return segments[0] not in RESERVED and all(
        _SEGMENT.fullmatch(segment) and segment not in (".", "..") and not FINGERPRINT.fullmatch(segment)
        for segment in segments
    )


def _seen(step: Step, nodes: Mapping[str, Step]) -> bool:
    """Returns True if the graph has the step already.

    Upstream steps are compared by name only, because each of them was checked before.
    """
    known = nodes.get(step.name)
    if known is None or known is step:
        return known is step
    if _signature(known) != _signature(step):
        raise GraphError(
            f"two different steps are called {step.name}.",
            "Give each a different name, or use the same step in both places.",
        )
    return True


def _signature(step: Step) -> tuple[Any, ...]:
    inputs = {
        role: tuple(one.name for one in item) if isinstance(item, tuple) else item.name
        for role, item in step.inputs.items()
    }
    return step.run, step.config, inputs, dict(step.assets)
