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
from stages.common.errors import InputError
from stages.common.training.config import TrainingConfig

DEFAULTS = ("cpus", "gpus", "strategy", "workers", "nvme_path")
"""Keys of `resources` that are defaults of sections."""
WITH_BACKBONE = (
    "verbalizer_search", "pattern_search", "priming", "chain_of_thought", "instruction_tuning", "knowledge_probing",
    "ppt", "pet", "prompts",
)  # fmt: skip
"""Sections whose steps compute with the backbone. Students and probes are small and have their own resources."""


def _check_order(workers: int | tuple[int, int]) -> int | tuple[int, int]:
    if isinstance(workers, tuple) and workers[0] > workers[1]:
        raise InputError(f"the minimum {workers[0]} is higher than the maximum {workers[1]}.", "Put the minimum first.")
    return workers


NumWorkers = Annotated[int, Field(ge=1)]
Workers = Annotated[NumWorkers | tuple[NumWorkers, NumWorkers], AfterValidator(_check_order)]
"""A number of workers, or the minimum and the maximum."""


def _check_absolute(folder: str) -> str:
    if not PurePosixPath(folder).is_absolute():
        raise InputError(f"{folder!r} is a relative path, which differs per process.", "Use an absolute path.")
    return folder


NvmePath = Annotated[str, AfterValidator(_check_absolute)]
"""A folder that exists on every machine."""


def check_offload(strategy: Strategy | None, nvme_path: str | None) -> None:
    """Checks that a folder for offloaded weights is set only for the strategy that offloads weights.

    Raises:
        InputError: with the key `nvme_path`.
    """
    if nvme_path is not None and strategy != "zero3_offload":
        raise InputError(
            "nvme_path is for strategy: zero3_offload.",
            "Set strategy: zero3_offload, or remove nvme_path.",
            key="nvme_path",
        )


class ResourcesSection(Config):
    """Resources of steps with a language model. Keys that are not set keep the defaults of their sections."""

    cpus: float | None = Field(None, gt=0)
    """CPU cores per worker, and the number of its threads."""
    gpus: float | None = Field(None, ge=0)
    """GPUs per worker."""
    workers: Workers | None = None
    """Workers per step, or [minimum, maximum]."""
    strategy: Strategy | None = None
    """How workers share a step: single, ddp, fsdp, zero1, zero2, zero3, zero3_offload."""
    nvme_path: NvmePath | None = None
    """Folder on a fast disk of every machine for the weights of zero3_offload. If not set, they are in main memory."""
    max_parallel: int | None = Field(None, ge=1)
    """Maximum number of steps that run at the same time. If not set, the available resources decide."""
    check_memory: bool = True
    """If true, a run is rejected if weights and trained parameters of a step exceed the available memory."""
    versions_in_key: bool = False
    """If true, the versions of Python and of the libraries are part of every key, so an upgrade reruns all steps. If
    false, `clozeline plan` only shows which versions differ.
    """

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        check_offload(self.strategy, self.nvme_path)
        return self


def apply_default_resources(values: Any) -> Any:
    """Returns the values of a recipe with the keys of `resources` in all sections that do not set them.

    Invalid values are returned unchanged. The validation of their section reports them.
    """
    if not isinstance(values, Mapping) or "resources" not in values:
        return values
    try:
        resources = ResourcesSection.model_validate(values["resources"])
    except ValidationError:
        return values
    defaults = {key: value for key in DEFAULTS if (value := getattr(resources, key)) is not None}
    members = values.get("members")
    changed = {name: _with_defaults(values[name], defaults) for name in WITH_BACKBONE if name in values}
    # Workers of a stream do not share a model: each loads it in full, so strategies do not apply.
    stream: dict[str, Any] = {key: defaults[key] for key in ("cpus", "gpus") if key in defaults}
    if resources.workers is not None:
        stream["workers"] = resources.workers if isinstance(resources.workers, int) else resources.workers[1]
    if "unlabeled_shards" in values:
        changed["unlabeled_shards"] = _with_defaults(values["unlabeled_shards"], stream)
    ppt = changed.get("ppt")
    if isinstance(ppt, Mapping) and isinstance(corpus := ppt.get("corpus"), Mapping) and "shards" in corpus:
        changed["ppt"] = {**ppt, "corpus": {**corpus, "shards": _with_defaults(corpus["shards"], stream)}}
    if isinstance(members, Mapping):
        changed["members"] = {
            name: _with_defaults(item, defaults) if isinstance(item, Mapping) and item.get("kind") == "pet" else item
            for name, item in members.items()
        }
    return {**values, **changed}


def _with_defaults(section: Any, defaults: Mapping[str, Any]) -> Any:
    if not isinstance(section, Mapping):
        return section
    # A section with its own strategy also needs its own workers and folder.
    skipped = ("workers", "nvme_path") if "strategy" in section else ()
    return {**{key: value for key, value in defaults.items() if key not in skipped}, **section}


class Section(Config):
    """Base of sections with steps: the resources of each of their steps."""

    cpus: float = Field(1.0, gt=0)
    """CPU cores per worker, and the number of its threads."""
    gpus: float = Field(0.0, ge=0)
    """GPUs per worker."""
    workers: Workers = 1
    """Workers per step, which share its work. [minimum, maximum]: as many as the available resources allow."""
    strategy: Strategy = "single"
    """How workers share a step: single (one worker), ddp (each computes a part of a batch), fsdp (ddp with sharded
    weights, frozen or trained), zero1 (ddp with partitioned optimizer state), zero2 (zero1 with partitioned gradients),
    zero3 (ddp with partitioned frozen weights), zero3_offload (zero3 with these weights in main memory).
    """
    nvme_path: NvmePath | None = None
    """Folder on a fast disk of every machine for the weights of zero3_offload. If not set, they are in main memory."""

    @property
    def resources(self) -> Resources:
        """Resources of each step."""
        return Resources(
            cpus=self.cpus, gpus=self.gpus, workers=self.workers, strategy=self.strategy, nvme_path=self.nvme_path
        )

    @model_validator(mode="after")
    def _strategy_fits_workers(self) -> Self:
        if self.resources.max_workers > 1 and self.strategy == "single":
            raise InputError(
                "strategy: single uses one worker.",
                "Set strategy: ddp or fsdp, or remove workers.",
                key="workers",
            )
        check_offload(self.strategy, self.nvme_path)
        return self


class FullTrainingSection(Section):
    """Base of sections whose steps train all weights of a model."""

    @model_validator(mode="after")
    def _strategy_fits_training(self) -> Self:
        check_partitions_nothing_trained(self.strategy)
        return self


def check_partitions_nothing_trained(strategy: Strategy) -> None:
    """Checks that a strategy does not partition weights that are trained.

    Raises:
        InputError: with the key `strategy`.
    """
    if strategy in ("zero3", "zero3_offload"):
        raise InputError(
            f"{strategy} partitions frozen weights, but these steps train weights of the backbone itself.",
            "Set strategy: fsdp or zero2, or train adapters (tune: lora).",
            key="strategy",
        )


def check_batched_training(
    section: Section, *, trains_only_prompts: bool, trainings: list[TrainingConfig | None]
) -> None:
    """Checks that prompts can be trained in the same batches.

    Args:
        section: The section with `batched_training: true`.
        trains_only_prompts: Whether all of its steps train a soft prompt, all of it in every step, and nothing else.
        trainings: Its training settings.

    Raises:
        InputError: with the key `batched_training`.
    """
    if section.strategy != "single":
        raise InputError(
            "batched_training runs on one worker.", "Remove batched_training or strategy.", key="batched_training"
        )
    if not trains_only_prompts:
        raise InputError(
            "batched_training is for soft prompts without LoRA, linear heads, hard_prompt_steps, backbone_dropout, "
            "noise, transfer and sources.",
            "Remove batched_training.",
            key="batched_training",
        )
    for key in ("micro_batch_size", "early_stopping", "average_last", "learning_rates"):
        if any(training and getattr(training, key) for training in trainings):
            raise InputError(
                f"batched_training does not support {key}.",
                f"Remove {key}, or batched_training.",
                key="batched_training",
            )


class StreamSection(Config):
    """Workers that process batches of a stream, each as soon as it is free."""

    cpus: float = Field(1.0, gt=0)
    """CPU cores per worker, and the number of its threads."""
    gpus: float = Field(0.0, ge=0)
    """GPUs per worker."""
    workers: int = Field(1, ge=1)
    """Number of workers. Each loads its models once."""

    @property
    def resources(self) -> Resources:
        """Resources of each step."""
        return Resources(cpus=self.cpus, gpus=self.gpus, workers=self.workers, strategy="stream")
