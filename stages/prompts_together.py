"""The stage that trains many prompts at once: of several tasks, patterns, methods and seeds, over one frozen backbone.

Each prompt ends where prompt tuning alone would take it (see stages/training/together.py); the steps of the single
prompts then take theirs from here, and test it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from stages.models.backbones import BackboneConfig
from stages.patterns.cloze import Loss
from stages.prompts.methods import PromptConfig
from stages.protocols import Engine, Recorder
from stages.tasks import Task
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.backbones import Backbone
    from stages.prompts.prompt import Prompt
    from stages.training.together import Batches


class Job(BaseModel, frozen=True, extra="forbid"):
    """One prompt: settings as those of the stage that would train it alone."""

    name: str = Field(description="Name of the step that takes the prompt.")
    task: Task = Field(description="Labels, patterns and label words.")
    pattern: str = Field(description="Name of the hard pattern.")
    prompt: PromptConfig = Field(description="Method and settings of the prompt.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    loss: Loss = Field("auto", description="cross_entropy, hinge, or auto: hinge where a word has several tokens.")
    seed: int = Field(description="Seed of start and order.")
    data: int = Field(ge=0, description="Which of the inputs' data it learns from.")
    pretrained: int | None = Field(None, ge=0, description="Which of the inputs' pretrained prompts it starts from.")


class Config(BaseModel, frozen=True, extra="forbid"):
    """Prompts over one backbone."""

    backbone: BackboneConfig = Field(description="The frozen language model.")
    jobs: tuple[Job, ...] = Field(min_length=1, description="The prompts.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of split stages; `pretrained`: files of prompt-pretraining stages."""

    data: tuple[Path, ...]
    pretrained: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How many prompts were trained. Files: for each a folder `<name>/` with the prompt in PEFT's format and
    `training.json`.
    """

    num_prompts: int
    trainable_parameters: int


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains all prompts together, and writes them to `out`."""
    from stages.models.residents import borrowed
    from stages.patterns.cloze import ClozeClassifier
    from stages.prompts.mixed import mixed_logits
    from stages.prompts.peft_format import save_prompt
    from stages.prompts.prompt import started
    from stages.texts.data import load_examples
    from stages.training.together import Training, train_together

    with borrowed(config.backbone, engine) as backbone:
        prompts, classifiers, trainings = [], [], []
        for job in config.jobs:
            pretrained = None if job.pretrained is None else inputs.pretrained[job.pretrained]
            prompt = started(job.prompt, job.task, job.pattern, backbone, job.seed, pretrained)
            classifier = ClozeClassifier.of(job.task, job.pattern, backbone, config.backbone, prompt, job.loss)
            items = classifier.items(load_examples(inputs.data[job.data] / "train.jsonl"))
            trainings.append(Training(job.name, items, dict(prompt.named_parameters()), job.loop, job.seed))
            prompts.append(prompt)
            classifiers.append(classifier)

        def losses_of(batches: Batches) -> list[Tensor]:
            parts = [(classifiers[number], [item.cloze for item in batch]) for number, batch in batches]
            scores = mixed_logits(parts, training=True)
            return [
                classifiers[number].loss_of(found, batch)
                for (number, batch), found in zip(batches, scores, strict=True)
            ]

        losses = train_together(trainings, losses_of, recorder, engine)
        for job, prompt, found in zip(config.jobs, prompts, losses, strict=True):
            folder = out / job.name
            save_prompt(prompt, backbone, folder / "prompt", job.prompt.method)
            about = {"final_loss": found[-1], "trainable_parameters": _count(prompt)}
            (folder / "training.json").write_text(json.dumps(about) + "\n")
    return Result(num_prompts=len(prompts), trainable_parameters=sum(map(_count, prompts)))


def taken(folder: Path, name: str, backbone: Backbone) -> tuple[Prompt, float, int]:
    """The prompt that was trained for the step `name`, its final loss, and how many parameters trained for it."""
    from stages.prompts.peft_format import load_prompt

    about: Mapping[str, Any] = json.loads((folder / name / "training.json").read_text())
    return load_prompt(folder / name / "prompt", backbone), about["final_loss"], about["trainable_parameters"]


def _count(prompt: Prompt) -> int:
    return sum(item.numel() for item in prompt.parameters())
