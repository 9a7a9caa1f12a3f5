"""Tunes the soft prompt of one task and pattern: on all labeled examples, or on those outside of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_cache import cached_loss
from stages.common.models.linear_heads import LinearHead
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.tuning import num_trainable_parameters, tune
from stages.common.protocols import Engine, Recorder
from stages.prompt_tuning.config import TunedPromptConfig


class TunedClassifier(NamedTuple):
    """A classifier with its trained prompt, the loss of every step (or only of the last), and what was trained."""

    classifier: ClozeClassifier
    losses: list[float]
    num_parameters: int


def tune_prompt(
    config: TunedPromptConfig,
    backbone: Backbone,
    train_set: Sequence[Example],
    dev_set: Sequence[Example],
    *,
    pretrained: Path | None,
    sources: tuple[Path, ...],
    recorder: Recorder,
    engine: Engine,
    name: str = "checkpoint",
) -> TunedClassifier:
    """Initializes a prompt, with a linear head if the method has one, and trains it.

    Args:
        config: Task, pattern, method and training settings.
        backbone: The frozen language model, with new LoRA weights if the method has some (`prompt_backbone`).
        train_set: Labeled examples.
        dev_set: Examples for early stopping; not read without it.
        pretrained: Files of prompt pretraining, for init: ppt, or of the prompt to start from.
        sources: Files of the prompts that a mixture has.
        recorder: Gets the training curve.
        engine: Shards batches among workers.
        name: Name of the checkpoint, another one for each training of a step.
    """
    prompt = initialize_prompt(
        config.prompt, config.task, config.pattern, backbone,
        seed=config.seed, pretrained=pretrained, sources=sources,
    )  # fmt: skip
    head = None
    if config.prompt.head == "linear":
        head = LinearHead(backbone.hidden_size, len(config.task.labels)).to(backbone.device)
    classifier = ClozeClassifier.of(
        config.task, config.pattern, backbone, config.backbone, prompt,
        loss_kind=config.loss if head is None else "cross_entropy", head=head, engine=engine,
    )  # fmt: skip
    dropout = config.prompt.backbone_dropout
    losses = tune(
        classifier, cached_loss(classifier, backbone_dropout=dropout), train_set, dev_set, config.training,
        seed=config.seed, recorder=recorder, engine=engine, frozen_steps=config.prompt.frozen_steps,
        backbone_dropout=dropout, name=name,
    )  # fmt: skip
    return TunedClassifier(classifier, losses, num_trainable_parameters(classifier))
