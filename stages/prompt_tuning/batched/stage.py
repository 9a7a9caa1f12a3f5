"""Tunes many prompts at once: of several tasks, patterns, methods and seeds, over one frozen backbone.

The result of each prompt is the same as if prompt tuning trained it alone (see stages/common/training/batched.py). The
steps of the single prompts then load theirs from here and evaluate it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from stages.common.examples import load_examples
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.multi_task import multi_task_logits
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.peft_format import save_prompt
from stages.common.prompts.soft_prompt import Prompt
from stages.common.protocols import Engine, Recorder
from stages.common.training.batched import Batches, TrainingJob, train_batched
from stages.prompt_tuning.batched.config import BatchedTuningConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of split stages; `pretrained`: files of prompt-pretraining stages."""

    data: tuple[Path, ...]
    pretrained: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Number of the trained prompts. Files: one folder `<name>/` per prompt, with the prompt in PEFT's format and
    `training.json`.
    """

    num_prompts: int
    trainable_parameters: int


def run(config: BatchedTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains all prompts in shared batches, and writes them to `out`."""
    with borrow_backbone(config.backbone, engine) as backbone:
        prompts: list[Prompt] = []
        classifiers: list[ClozeClassifier] = []
        training_jobs: list[TrainingJob] = []
        for job in config.jobs:
            pretrained = None if job.pretrained is None else inputs.pretrained[job.pretrained]
            prompt = initialize_prompt(
                job.prompt, job.task, job.pattern, backbone, seed=job.seed, pretrained=pretrained
            )
            assert prompt is not None, "methods with adapters are not batched"
            classifier = ClozeClassifier.of(
                job.task, job.pattern, backbone, config.backbone, prompt, loss_kind=job.loss
            )
            items = classifier.items(load_examples(inputs.data[job.data] / "train.jsonl"))
            training_jobs.append(TrainingJob(job.name, items, dict(prompt.named_parameters()), job.training, job.seed))
            prompts.append(prompt)
            classifiers.append(classifier)

        def compute_losses(batches: Batches) -> list[Tensor]:
            parts = [(classifiers[number], [item.cloze for item in batch]) for number, batch in batches]
            logits = multi_task_logits(parts, training=True)
            return [
                classifiers[number].compute_loss(logits_BC, batch)
                for (number, batch), logits_BC in zip(batches, logits, strict=True)
            ]

        losses = train_batched(training_jobs, compute_losses, recorder, engine)
        for job, prompt, job_losses in zip(config.jobs, prompts, losses, strict=True):
            folder = out / job.name
            save_prompt(prompt, backbone, folder / "prompt", job.prompt.method)
            metadata = {"final_loss": job_losses[-1], "trainable_parameters": _count(prompt)}
            (folder / "training.json").write_text(json.dumps(metadata) + "\n")
    return Result(num_prompts=len(prompts), trainable_parameters=sum(map(_count, prompts)))


def _count(prompt: Prompt) -> int:
    return sum(item.numel() for item in prompt.parameters())
