"""Measures the examples per second of the steps that compute, and their fraction of the machine's peak.

The peak is the speed of matrix products. A forward pass has 2 P T model FLOPs: P parameters without the embeddings, T
tokens without padding, and without the products of hidden states in attention. A backward pass that trains P adds 4 P T
(6 P T in total). A backward pass through frozen weights, as with LoRA, adds 2 P T (4 P T in total).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.speed.peak import NUM_PRODUCTS, PRECISIONS, PRODUCT_FLOPS, SIDE, matrix_products
from benchmarks.speed.timing import SEED, Effort, film_examples, markdown_table, recipe, time_in_turns
from pipelines.default_models import MINILM
from stages.common.engine import InProcessEngine
from stages.common.losses import mean_share
from stages.common.models.backbones.config import BackboneConfig, LoraConfig, TuneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.patterns.config import Task
from stages.common.prompts.loader import new_submodel
from stages.common.protocols import NullRecorder
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import train
from stages.distillation.examples import DistillationExample
from stages.distillation.stage import distillation_loss

FORWARD, LORA, TRAINING = 2, 4, 6
"""FLOPs per parameter and token."""


@dataclass(frozen=True, slots=True)
class Job:
    """A timed function that processes `num_examples` with `flops` in total, computed in `precision`."""

    run: Callable[[], Any]
    num_examples: int
    flops: float
    precision: str


def steps(effort: Effort) -> str:
    """Returns the table."""
    peaks = {name: Job(matrix_products(name), NUM_PRODUCTS, PRODUCT_FLOPS, name) for name in PRECISIONS}
    with sub_model_jobs(effort) as jobs:
        jobs |= student_jobs(effort)
        runs = {name: job.run for name, job in {**peaks, **jobs}.items()}
        seconds = time_in_turns(runs, effort.turns)
    speeds = {name: [job.flops / spent for spent in seconds[name]] for name, job in {**peaks, **jobs}.items()}
    rows = [[f"matmul {SIDE} x {SIDE}", name, "", f"{median(speeds[name]) / 1e9:.0f}", "100%"] for name in peaks]
    for name, job in jobs.items():
        fraction = median(speed / top for speed, top in zip(speeds[name], speeds[job.precision], strict=True))
        rate = job.num_examples / median(seconds[name])
        rows.append([name, job.precision, f"{rate:.1f}", f"{median(speeds[name]) / 1e9:.0f}", f"{fraction:.0%}"])
    return markdown_table(["step", "computes in", "examples/s", "GFLOP/s", "fraction of the peak"], rows)


@contextmanager
def sub_model_jobs(effort: Effort) -> Iterator[dict[str, Job]]:
    """Yields zero-shot scoring and training with adapters as in the demo, each on a separate backbone."""
    demo = recipe()
    task, config = Task(**demo["task"]), BackboneConfig(**demo["backbone"])
    backbone = load_backbone(config, frozen=True)
    weights = without_embeddings(backbone.model)
    precision = str(backbone.model.dtype).removeprefix("torch.")
    zero_shot = ClozeClassifier.of(task, "review", backbone, config)
    training = TrainingConfig(learning_rate=1e-4, batch_size=8, steps=num_steps(effort))
    scored, trained = film_examples(effort.reduce(200)), film_examples(8 * num_steps(effort))
    with new_submodel(config, TuneConfig(tune="lora", lora=LoraConfig(**demo["pet"]["lora"])), SEED) as adapted:
        classifier = ClozeClassifier.of(task, "review", adapted.backbone, config)
        items = classifier.items(trained)
        weights_of_adapter = {
            name: item for name, item in adapted.backbone.model.named_parameters() if item.requires_grad
        }
        run_training = partial(train, seed=SEED, recorder=NullRecorder(), engine=InProcessEngine())

        def num_tokens(examples: list[Any]) -> int:
            return sum(len(part.ids) for item in examples for part in classifier.encode(item))

        yield {
            "SmolLM2-135M, LoRA training, batch 8": Job(
                lambda: run_training(items, classifier.loss, weights_of_adapter, training),
                len(trained),
                LORA * weights * num_tokens(trained),
                precision,
            ),
            "SmolLM2-135M, zero-shot": Job(
                lambda: zero_shot.predict(scored, NullRecorder(), ""),
                len(scored),
                FORWARD * weights * num_tokens(scored),
                precision,
            ),
        }


def student_jobs(effort: Effort) -> dict[str, Job]:
    """Returns the distillation into a full encoder, and the embedding of texts for a head on a frozen one."""
    labels, config = recipe()["task"]["labels"], StudentConfig(asset=MINILM.asset, max_length=96)
    full = TextClassifier.from_encoder(config, labels, ["text"], SEED)
    frozen = TextClassifier.from_encoder(config.model_copy(update={"tune": "head"}), labels, ["text"], SEED)
    full.train_mode(True)
    training = TrainingConfig(learning_rate=5e-5, batch_size=16, steps=num_steps(effort))
    trained, embedded = film_examples(16 * num_steps(effort)), film_examples(effort.reduce(400))
    examples = [DistillationExample(item, (1.0, -1.0) if item.label == labels[0] else (-1.0, 1.0)) for item in trained]
    run_training = partial(train, seed=SEED, recorder=NullRecorder(), engine=InProcessEngine())

    def compute_loss(part: list[DistillationExample], batch: list[DistillationExample]) -> torch.Tensor:
        teacher = torch.tensor([item.teacher for item in part])
        loss = distillation_loss(full.logits([item.example for item in part]), teacher, 2.0)
        return loss * mean_share(part, batch)

    def num_tokens(examples: list[Any]) -> int:
        texts = [item.fields["text"] for item in examples]
        return sum(len(ids) for ids in full.encoder.tokenizer(texts, truncation=True, max_length=96)["input_ids"])

    weights = without_embeddings(full.encoder.model)
    precision = "bfloat16" if full.trains_in_bf16 else "float32"
    return {
        "MiniLM-L6, distillation, batch 16": Job(
            lambda: run_training(examples, compute_loss, full.parameters, training),
            len(trained),
            TRAINING * weights * num_tokens(trained),
            precision,
        ),
        "MiniLM-L6, embedding for a head": Job(
            lambda: frozen.embed(embedded, NullRecorder(), ""),
            len(embedded),
            FORWARD * weights * num_tokens(embedded),
            precision,
        ),
    }


def num_steps(effort: Effort) -> int:
    """Returns the number of optimizer steps per turn."""
    return 2 if effort.quick else 8


def without_embeddings(model: Any) -> int:
    """Returns the number of parameters outside embeddings and pooler, by which each token is multiplied.

    Leaves out a head that is tied to the embeddings, because only its rows of the label words are used.
    """
    excluded = {
        id(item)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) or "pooler" in name
        for item in module.parameters(recurse=False)
    }
    return sum(item.numel() for item in model.parameters() if id(item) not in excluded)
