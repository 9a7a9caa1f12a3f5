"""Everything that a worker needs to run a step, and how the step receives its inputs."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import GraphError
from cluster.steps.step import Resources, Step
from cluster.store.lease import TTL_S
from cluster.store.manifest import Key


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """All that a worker needs of a step. `roles` gives, for each input, the places of its upstream in the arguments."""

    step: str
    run: str
    config: Any
    roles: Mapping[str, int | tuple[int, ...]]
    key: Key
    store: str
    token: str
    resources: Resources
    attempt: int
    run_id: str | None
    ttl_s: float = TTL_S
    engine: str = ""


def input_indices(step: Step, upstream: tuple[str, ...]) -> Mapping[str, int | tuple[int, ...]]:
    """For each input, where its upstream stands among the arguments of the task."""
    return {
        role: tuple(upstream.index(one.name) for one in item) if isinstance(item, tuple) else upstream.index(item.name)
        for role, item in step.inputs.items()
    }


def build_inputs(
    fn: Callable[..., Any], step: str, roles: Mapping[str, int | tuple[int, ...]], folders: list[Path]
) -> Any:
    """The dataclass that `fn` declares for its `inputs`, or a plain dict if it declares none.

    Raises:
        GraphError: the step's roles are not the dataclass's fields.
    """
    values = {
        role: tuple(folders[one] for one in place) if isinstance(place, tuple) else folders[place]
        for role, place in roles.items()
    }
    kind = typing.get_type_hints(fn).get("inputs")
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return values
    try:
        return kind(**values)
    except TypeError as error:
        fields = ", ".join(item.name for item in dataclasses.fields(kind))
        raise GraphError(
            f"step {step} has the inputs {', '.join(values) or 'none'}, and {kind.__qualname__} of "
            f"{fn.__module__} wants {fields} ({error}).",
            "Give both the same names.",
        ) from error
