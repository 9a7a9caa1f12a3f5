"""Tunes a model on a backbone: trains its soft prompt, its linear head, and the weights of the backbone not frozen.

PET, prompt tuning, prompt pretraining and token-level tuning share these functions. They differ in the model: what it
predicts, and what its training items are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from stages.common.losses import ComputeLoss
from stages.common.metrics.classification import DevScore
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig, TuneConfig
from stages.common.models.linear_heads import LinearHead, save_head
from stages.common.prompts.config import PromptConfig, PromptTuningMethod
from stages.common.prompts.inspection import log_inspection
from stages.common.prompts.loader import SubModel, new_submodel
from stages.common.prompts.peft_format import save_prompt, tidy
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Engine, Recorder
from stages.common.training.config import ParameterGroup, TrainingConfig
from stages.common.training.loop import train

ExampleT_contra = TypeVar("ExampleT_contra", contravariant=True)
Item = TypeVar("Item")


class TunableModel(Protocol[ExampleT_contra, Item]):
    """A model on a backbone, with a soft prompt, a linear head, or neither."""

    backbone: Backbone
    prompt: Any
    """A `Prompt`, or None."""
    head: Any
    """A `LinearHead`, or None."""

    def items(self, examples: Sequence[ExampleT_contra]) -> list[Item]:
        """Returns training items of labeled examples."""

    def validate(self, examples: Sequence[ExampleT_contra], recorder: Recorder) -> DevScore:
        """Evaluates the dev set, for early stopping."""


def prompt_backbone(
    config: BackboneConfig, prompt: PromptConfig, seed: int, engine: Engine
) -> AbstractContextManager[SubModel]:
    """Yields the frozen backbone, with new LoRA weights if `prompt` is trained together with some."""
    tuning = TuneConfig(tune="none") if prompt.lora is None else TuneConfig(tune="lora", lora=prompt.lora)
    return new_submodel(config, tuning, seed, engine)


class Trained(NamedTuple):
    """Name -> trainable parameter, and name -> the part that it belongs to."""

    parameters: dict[str, torch.nn.Parameter]
    groups: dict[str, ParameterGroup]


def trainable_parameters(model: TunableModel[Any, Any]) -> Trained:
    """Returns the trainable parameters of the prompt, the backbone and the head."""
    parameters = {} if model.prompt is None else dict(model.prompt.named_parameters())
    groups: dict[str, ParameterGroup] = dict.fromkeys(parameters, "prompt")
    for name, item in model.backbone.model.named_parameters():
        if item.requires_grad:
            parameters[name] = item
            groups[name] = "lora" if ".lora_" in name else "backbone"
    if model.head is not None:
        for name, item in model.head.named_parameters():
            parameters[f"head.{name}"] = item
            groups[f"head.{name}"] = "head"
    return Trained(parameters, groups)


def num_trainable_parameters(model: TunableModel[Any, Any]) -> int:
    """Returns the number of trained weights of the prompt, the backbone and the head."""
    return sum(item.numel() for item in trainable_parameters(model).parameters.values())


def tune(
    model: TunableModel[ExampleT_contra, Item],
    compute_loss: ComputeLoss[Any],
    train_set: Sequence[ExampleT_contra],
    dev_set: Sequence[ExampleT_contra],
    config: TrainingConfig,
    *,
    seed: int,
    recorder: Recorder,
    engine: Engine,
    frozen_steps: Mapping[str, int] | None = None,
    backbone_dropout: bool = False,
    prepare: Callable[[list[Item], int], list[Any]] | None = None,
    name: str = "checkpoint",
) -> list[float]:
    """Trains a model in place; returns the loss of every step. Arguments as in `train`.

    Args:
        model: What to train.
        compute_loss: Returns what a part of a batch contributes to the loss of the batch.
        train_set: Labeled examples.
        dev_set: Examples for early stopping; may be empty without it.
        backbone_dropout: If True, also a frozen backbone computes with dropout.
    """
    parameters, groups = trainable_parameters(model)
    validate = partial(model.validate, dev_set, recorder) if config.early_stopping and dev_set else None
    if backbone_dropout or any(item.requires_grad for item in model.backbone.model.parameters()):
        model.backbone.model.train()
    return train(
        model.items(train_set), compute_loss, parameters, config,
        seed=seed, recorder=recorder, engine=engine, validate=validate, frozen_steps=frozen_steps,
        prepare=prepare, groups=groups, name=name,
    )  # fmt: skip


def save_tuned_prompt(
    model: TunableModel[Any, Any],
    folder: Path,
    recorder: Recorder,
    *,
    method: PromptTuningMethod = "prompt_tuning",
    adapter: Any = None,
    outputs: Sequence[str] = (),
) -> None:
    """Writes the prompt of a model to `folder`, with its head and LoRA weights if any, and logs its inspection.

    Args:
        model: The trained model.
        folder: Gets the files; created.
        recorder: Gets the norms of the vectors and the words that they resemble.
        method: Method of the prompt, which PEFT's format names.
        adapter: PEFT's wrapper of the backbone, if LoRA weights were trained.
        outputs: Names of the outputs of the head.
    """
    if isinstance(model.prompt, Prompt):
        save_prompt(model.prompt, model.backbone, folder, method)
    log_inspection(model.prompt, model.backbone, recorder)
    if isinstance(model.head, LinearHead):
        save_head(model.head, outputs, folder)
    if adapter is not None:
        adapter.save_pretrained(folder / "lora")
        tidy(folder / "lora")
