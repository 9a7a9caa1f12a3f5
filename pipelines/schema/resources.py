"""`resources` of a recipe: what all steps get that compute with a language model, unless their section says more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from cluster.step import Strategy

HANDED_DOWN = ("cpus", "gpus", "strategy", "workers", "offload_to")
WITH_BACKBONE = ("verbalizer_search", "priming", "ppt", "pet", "prompts")
"""Sections whose steps compute with the backbone. Students and probes are small, and have their own."""


def _in_order(workers: int | tuple[int, int]) -> int | tuple[int, int]:
    if isinstance(workers, tuple) and workers[0] > workers[1]:
        raise ValueError(f"{workers[0]} are more than {workers[1]}. Write the fewest workers first.")
    return workers


NumWorkers = Annotated[int, Field(ge=1)]
Workers = Annotated[NumWorkers | tuple[NumWorkers, NumWorkers], AfterValidator(_in_order)]
"""How many, or the fewest and the most."""


def _absolute(folder: str) -> str:
    if not PurePosixPath(folder).is_absolute():
        raise ValueError(f"{folder!r} means another folder for each process. Write the whole path, from /.")
    return folder


OffloadTo = Annotated[str, AfterValidator(_absolute)]
"""A folder that every machine has."""


def check_offload(strategy: Strategy | None, offload_to: str | None) -> None:
    """Refuses a folder for weights that lie elsewhere.

    Raises:
        ValueError: the strategy is not the one that takes weights out of the GPU.
    """
    if offload_to is not None and strategy != "zero3_offload":
        raise ValueError("offload_to is for strategy: zero3_offload. Take that strategy, or take offload_to out.")


class ResourcesSection(BaseModel, frozen=True, extra="forbid"):
    """What steps with a language model get; keys that are left out are those of their sections."""

    cpus: float | None = Field(None, gt=0, description="Processor cores a worker; as many threads compute.")
    gpus: float | None = Field(None, ge=0, description="GPUs a worker.")
    workers: Workers | None = Field(None, description="Workers a step; or [fewest, most].")
    strategy: Strategy | None = Field(
        None, description="How workers share a step: single, ddp, zero2, zero3, zero3_offload."
    )
    offload_to: OffloadTo | None = Field(
        None,
        description="A folder on a fast disk of every machine, for the weights of zero3_offload; none: they lie in "
        "memory.",
    )
    max_parallel: int | None = Field(None, ge=1, description="Steps at a time; none: as many as there is room for.")
    check_memory: bool = Field(
        True, description="Refuse to run where weights and what trains are more than the memory that there is."
    )

    @model_validator(mode="after")
    def _weights_go_somewhere(self) -> Self:
        check_offload(self.strategy, self.offload_to)
        return self


def handed_down(values: Any) -> Any:
    """A recipe whose sections have what `resources` says and they do not.

    Args:
        values: The recipe as it was read. What cannot be right is left to those who refuse it, at its own place.
    """
    if not isinstance(values, Mapping) or "resources" not in values:
        return values
    try:
        resources = ResourcesSection.model_validate(values["resources"])
    except ValidationError:
        return values
    given = {key: value for key in HANDED_DOWN if (value := getattr(resources, key)) is not None}
    members = values.get("members")
    made = {name: _with(values[name], given) for name in WITH_BACKBONE if name in values}
    # workers of streams share nothing: each has the models whole
    most = {} if resources.workers is None else {"workers": _most(resources.workers)}
    alone = {key: given[key] for key in ("cpus", "gpus") if key in given} | most
    if "shards" in values:
        made["shards"] = _with(values["shards"], alone)
    ppt = made.get("ppt")
    if isinstance(ppt, Mapping) and isinstance(corpus := ppt.get("corpus"), Mapping) and "shards" in corpus:
        made["ppt"] = {**ppt, "corpus": {**corpus, "shards": _with(corpus["shards"], alone)}}
    if isinstance(members, Mapping):
        made["members"] = {
            name: _with(item, given) if isinstance(item, Mapping) and item.get("kind") == "pet" else item
            for name, item in members.items()
        }
    return {**values, **made}


def _most(workers: int | tuple[int, int]) -> int:
    return workers if isinstance(workers, int) else workers[1]


def _with(section: Any, given: Mapping[str, Any]) -> Any:
    if not isinstance(section, Mapping):
        return section
    # a strategy of its own has workers of its own, and a place for its weights
    apart = ("workers", "offload_to") if "strategy" in section else ()
    return {**{key: value for key, value in given.items() if key not in apart}, **section}
