"""Everything that a worker needs to run a step, and how the step receives its inputs."""

from __future__ import annotations

import dataclasses
import pickle
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import GraphError
from cluster.steps.fingerprint import KeyOptions
from cluster.steps.step import Resources, Step
from cluster.store.lease import TTL_S, Lease
from cluster.store.manifest import Key


class LateConfig:
    """The config of a step, which a worker reads when it has noted the state of the code.

    Reading it imports the module of its class. If code is edited, imported and restored before the worker looks, it
    cannot notice that.

    Args:
        config: The config.
    """

    def __init__(self, config: Any) -> None:
        self._config = config

    def load(self) -> Any:
        """Returns the config."""
        return self._config

    def __reduce__(self) -> tuple[Callable[[bytes], LateConfig], tuple[bytes]]:
        from ray import cloudpickle  # noqa: PLC0415  (Ray, which pickles this, is imported after `session`)

        return _PickledConfig, (cloudpickle.dumps(self._config),)


class _PickledConfig(LateConfig):
    """The same in another process."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def load(self) -> Any:
        return pickle.loads(self._data)

    def __reduce__(self) -> tuple[Callable[[bytes], LateConfig], tuple[bytes]]:
        return _PickledConfig, (self._data,)


@dataclass(frozen=True, slots=True)
class Rival:
    """An attempt that runs already: the token of its lease, its number, and the id of its machine in Ray."""

    token: str
    attempt: int
    node: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """Everything that a worker needs to run a step.

    `roles` gives, for each input, the indices of its upstream steps among the arguments of the task. `key_options` are
    those of the plan, so that the worker compares the same code before it commits, as it does with `files`, `identify`
    and `locate` (see `Step` and `RunOptions`). `provenance` describes the driver, for the manifest. `engine` is the
    class of the engine for one process, as `module:class`.

    The worker acquires `lease` when the step starts. It may replace a lease with the token `expired_token`, which the
    driver has seen expire. An intact result that another driver committed since the plan was made is used, unless the
    step is `forced`; `verify` compares its hashes. `run_id` is the MLflow run of the attempt, if it has one.

    `rival` is an attempt of the same driver that runs already, on another node. Then the worker does not acquire
    `lease` before it commits: see `cluster.run.speculation`.
    """

    step: str
    run: str
    config: LateConfig
    roles: Mapping[str, int | tuple[int, ...]]
    key: Key
    store: str
    lease: Lease
    resources: Resources
    engine: str
    files: Mapping[str, str]
    identify: str
    provenance: Mapping[str, Any]
    locate: str = "pathlib:Path"
    expired_token: str = ""
    forced: bool = False
    verify: bool = False
    run_id: str | None = None
    rival: Rival | None = None
    ttl_s: float = TTL_S
    key_options: KeyOptions = field(default_factory=KeyOptions)


def input_indices(step: Step, upstream: tuple[str, ...]) -> Mapping[str, int | tuple[int, ...]]:
    """Returns, for each input, the indices of its upstream steps among the arguments of the task."""
    return {
        role: tuple(upstream.index(one.name) for one in item) if isinstance(item, tuple) else upstream.index(item.name)
        for role, item in step.inputs.items()
    }


def build_inputs(
    fn: Callable[..., Any], step: str, roles: Mapping[str, int | tuple[int, ...]], folders: list[Path]
) -> Any:
    """Returns the dataclass that `fn` declares for its `inputs`, or a dict if it declares none.

    Raises:
        GraphError: the roles of the step are not the fields of the dataclass.
    """
    values = {
        role: tuple(folders[one] for one in index) if isinstance(index, tuple) else folders[index]
        for role, index in roles.items()
    }
    kind = typing.get_type_hints(fn).get("inputs")
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return values
    try:
        return kind(**values)
    except TypeError as error:
        fields = ", ".join(item.name for item in dataclasses.fields(kind))
        raise GraphError(
            f"step {step} has the inputs {', '.join(values) or '(none)'}, but {kind.__qualname__} of "
            f"{fn.__module__} has the fields {fields} ({error}).",
            "Use the same names in both.",
        ) from error
