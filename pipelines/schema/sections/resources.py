"""Resources of steps: CPUs, GPUs, workers and strategy.

`resources` sets the defaults for all sections that compute with a language model; a section overrides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cluster.steps.step import Resources, Strategy
from stages.common.config import Config
from stages.common.training.config import TrainingConfig

HANDED_DOWN = ("cpus", "gpus", "strategy", "workers", "nvme_path")
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


def check_offload(strategy: Strategy | None, nvme_path: str | None) -> None:
    """Refuses a folder for weights that lie elsewhere.

    Raises:
        ValueError: the strategy is not the one that takes weights out of the GPU.
    """
    if nvme_path is not None and strategy != "zero3_offload":
        raise ValueError("nvme_path is for strategy: zero3_offload. Take that strategy, or take nvme_path out.")


class ResourcesSection(Config):
    """What steps with a language model get; keys that are left out are those of their sections."""

    cpus: float | None = Field(None, gt=0)
    """Processor cores a worker; as many threads compute."""
    gpus: float | None = Field(None, ge=0)
    """GPUs a worker."""
    workers: Workers | None = None
    """Workers a step; or [fewest, most]."""
    strategy: Strategy | None = None
    """How workers share a step: single, ddp, zero2, zero3, zero3_offload."""
    nvme_path: OffloadTo | None = None
    """A folder on a fast disk of every machine, for the weights of zero3_offload; none: they lie in memory."""
    max_parallel: int | None = Field(None, ge=1)
    """Steps at a time; none: as many as there is room for."""
    check_memory: bool = True
    """Refuse to run where weights and what trains are more than the memory that there is."""
    versions_in_key: bool = False
    """If True, the versions of Python and of the libraries are part of every key, so an upgrade reruns all steps. By
    default, `clozeline plan` only shows which versions differ.
    """

    @model_validator(mode="after")
    def _weights_go_somewhere(self) -> Self:
        check_offload(self.strategy, self.nvme_path)
        return self


def apply_default_resources(values: Any) -> Any:
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
    if "unlabeled_shards" in values:
        made["unlabeled_shards"] = _with(values["unlabeled_shards"], alone)
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
    apart = ("workers", "nvme_path") if "strategy" in section else ()
    return {**{key: value for key, value in given.items() if key not in apart}, **section}


class Section(Config):
    """A section of a recipe. `cpus` and `gpus` are what each of its steps gets; threads follow from `cpus`."""

    cpus: float = Field(1.0, gt=0)
    """Processor cores a step; as many threads compute."""
    gpus: float = Field(0.0, ge=0)
    """GPUs a step."""
    workers: Workers = 1
    """Workers a step; each gets these cores and GPUs, and a part of the work. [fewest, most]: as many as there is room
    for.
    """
    strategy: Strategy = "single"
    """How workers share a step: single (there is one), ddp (each takes a part of every batch), zero2 (and a part of the
    gradients and moments of what trains), zero3 (instead, a part of every frozen weight), zero3_offload (and those
    lie in the memory of its machine).
    """
    nvme_path: OffloadTo | None = None
    """A folder on a fast disk of every machine, where those lie instead."""

    @property
    def resources(self) -> Resources:
        """What each of its steps gets."""
        return Resources(
            cpus=self.cpus, gpus=self.gpus, workers=self.workers, strategy=self.strategy, nvme_path=self.nvme_path
        )

    @model_validator(mode="after")
    def _workers_have_a_strategy(self) -> Self:
        if self.resources.max_workers > 1 and self.strategy == "single":
            raise ValueError("strategy: single has one worker. Take strategy: ddp or zero3, or take workers out.")
        check_offload(self.strategy, self.nvme_path)
        return self


def check_strategy(section: Section, *, trains_all: bool = False, together: bool = False) -> None:
    """Refuses strategies that a section cannot follow.

    Args:
        section: Its workers and their strategy.
        trains_all: Whether it trains all weights of a model.
        together: Whether many prompts train in one batch.

    Raises:
        ValueError: names the keys.
    """
    if trains_all and section.strategy in ("zero3", "zero3_offload"):
        raise ValueError(
            f"{section.strategy} spreads frozen weights, and here all of them train. Take strategy: zero2."
        )
    if together and section.strategy != "single":
        raise ValueError(
            "batched_training is one pass of one worker. Remove batched_training, or strategy and workers."
        )


def check_batched_training(has_prompts: bool, *loops: TrainingConfig | None) -> None:
    """Refuses what cannot train together.

    Raises:
        ValueError: no soft prompts; or micro batches or early stopping.
    """
    if not has_prompts:
        raise ValueError(
            "batched_training is for soft prompts without LoRA, hard_prompt_steps and linear heads. Take it out."
        )
    if any(loop and (loop.micro_batch_size or loop.early_stopping) for loop in loops):
        raise ValueError(
            "batched_training supports neither micro_batch_size nor early_stopping. Take them out, or together."
        )


class StreamSection(Config):
    """Workers that take batches of a stream, each when it is free."""

    cpus: float = Field(1.0, gt=0)
    """Processor cores a worker; as many threads compute."""
    gpus: float = Field(0.0, ge=0)
    """GPUs a worker."""
    workers: int = Field(1, ge=1)
    """Workers; each loads its models once, and takes batches."""

    @property
    def resources(self) -> Resources:
        """What a step gets."""
        return Resources(cpus=self.cpus, gpus=self.gpus, workers=self.workers, strategy="stream")
