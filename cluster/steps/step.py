"""A step: one function, its config, its inputs and its resources. A pipeline is a graph of steps."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from cluster.errors import GraphError

Upstream: TypeAlias = "Step | tuple[Step, ...]"
_SEGMENT = re.compile(r"[a-z0-9_.-]+")
_FUNCTION = re.compile(r"[\w.]+:\w+")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
# Names that the store keeps for itself.
_RESERVED = ("logs", "reports", "cache", "mlartifacts", "mlflow.db")
Strategy = Literal["single", "ddp", "zero2", "zero3", "zero3_offload"]
"""How the workers of a step share it. single: there is one; ddp: a part of every batch each; zero2: also of the summed
gradients and of the optimizer's moments; zero3: instead, of every frozen weight; zero3_offload: the
same, and the weights lie in the machines' memory, or on a disk.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a step gets while it runs. Never part of its identity, so that another machine finds the same results.

    `cpus` and `gpus` are those of each of its `workers`. `cpus` is the number of threads too: sums in another order
    give other last digits, so a step keeps its number of threads on every machine, even where it has to share fewer
    cores. `workers` may be the fewest and the most: an attempt starts with as many as there is room for, and
    the next one, after a machine was lost, with those that are left. `timeout_s`: within so many seconds all workers
    come to the same point, or the step is tried again. `stream`: workers take batches of a stream, and the step's own
    process writes what they made. `nvme_path`: a folder of every machine, for the weights of zero3_offload.
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
        """The fewest that it can start with."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The most that it takes."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def is_shared(self) -> bool:
        """Whether workers of Ray Train or (stream) of Ray Data compute it, and not one process."""
        return self.strategy != "single"


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
    resources: Resources = field(default_factory=Resources)
    kind: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _usable(self.name):
            raise GraphError(
                f"{self.name!r} cannot be the name of a step.",
                "Use parts of small letters, digits, _ . and -, with / between them, such as pet/review/0; "
                f"the first part is none of {', '.join(_RESERVED)}.",
            )
        if not _FUNCTION.fullmatch(self.run) or self.run.startswith("__main__:"):
            raise GraphError(
                f"step {self.name} names {self.run!r}, which a worker cannot import.",
                "Write module:function, with a function that `def` defines at the top of a module.",
            )

    def upstream(self) -> Iterator[Step]:
        """Every step that this one reads, in the order they were declared."""
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


def function_name(function: Callable[..., Any]) -> str:
    """Returns `module:function` of a function, as `Step.run` has it."""
    return f"{function.__module__}:{function.__qualname__}"


def resolve(name: str) -> Any:
    """Imports what `module:attribute` names. The only place where a module is imported by its name.

    Raises:
        GraphError: the module or the attribute does not exist.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise GraphError(f"cannot import {name}: {error}.", "Correct the name, or install the module.") from error


def graph(leaves: Iterable[Step]) -> dict[str, Step]:
    """All steps that `leaves` need, by name: each after its upstream, else in the order of declaration.

    Raises:
        GraphError: two different steps share a name, or steps need each other.
    """
    found: dict[str, Step] = {}
    open_: dict[str, Step] = {}
    for leaf in leaves:
        # A stack instead of recursion: a chain may be longer than Python's recursion limit.
        stack: list[tuple[Step, Iterator[Step]]] = [(leaf, leaf.upstream())]
        if _seen(leaf, found):
            continue
        open_[leaf.name] = leaf
        while stack:
            step, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                found[step.name] = open_.pop(step.name)
            elif following.name in open_:
                raise GraphError(
                    f"{following.name} needs itself: {' -> '.join([*open_, following.name])}.",
                    "Take one of these inputs away.",
                )
            elif not _seen(following, found):
                open_[following.name] = following
                stack.append((following, following.upstream()))
    return found


def descendants(steps: Mapping[str, Step], names: Iterable[str]) -> set[str]:
    """`names` and everything that needs them. `steps` is in the order of `graph`."""
    reached = set(names)
    for name, step in steps.items():
        if any(item.name in reached for item in step.upstream()):
            reached.add(name)
    return reached


def ancestors(steps: Mapping[str, Step], names: Iterable[str]) -> set[str]:
    """`names` and everything that they need. `steps` is in the order of `graph`."""
    reached = set(names)
    for name, step in reversed(list(steps.items())):
        if name in reached:
            reached.update(item.name for item in step.upstream())
    return reached


def _usable(name: str) -> bool:
    segments = name.split("/")
    return segments[0] not in _RESERVED and all(
        _SEGMENT.fullmatch(segment) and segment not in (".", "..") and not _FINGERPRINT.fullmatch(segment)
        for segment in segments
    )


def _seen(step: Step, found: Mapping[str, Step]) -> bool:
    """Whether the step is known.

    Upstream steps are compared by name only: they were checked themselves.
    """
    known = found.get(step.name)
    if known is None or known is step:
        return known is step
    if _signature(known) != _signature(step):
        raise GraphError(
            f"two different steps are called {step.name}.",
            "Give each its own name, or use the same step in both places.",
        )
    return True


def _signature(step: Step) -> tuple[Any, ...]:
    inputs = {
        role: tuple(one.name for one in item) if isinstance(item, tuple) else item.name
        for role, item in step.inputs.items()
    }
    return step.run, step.config, inputs, dict(step.assets)
