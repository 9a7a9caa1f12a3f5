"""Examples a second of the steps that compute, and their share of what the machine's matrix products reach.

Model FLOPs are 2 P T forward: P parameters without the embeddings, T tokens without padding; attention's products of
states with states are left out. A backward pass that also trains P costs twice as much again (6 P T in all); one that
only passes gradients through frozen weights, as under LoRA, as much again (4 P T).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from measuring import SEED, Effort, film_texts, in_turns, recipe, table

FORWARD, LORA, TRAINING = 2, 4, 6
"""FLOPs for each parameter and token."""
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
        jobs |= student(effort)
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
    """Zero-shot scoring, and training with adapters as the demo does; the adapters lie on the backbone for both."""
    import torch

    from stages.backbones import BackboneConfig
    from stages.cloze import ClozeClassifier
    from stages.loop import LoopConfig, train
    from stages.protocols import LocalEngine, SilentRecorder
    from stages.submodels import LoraConfig, fresh
    from stages.tasks import Task

    asked = recipe()
    task, config = Task(**asked["task"]), BackboneConfig(**asked["backbone"])
    steps = 2 if effort.quick else 8
    loop = LoopConfig(learning_rate=1e-4, batch_size=8, steps=steps)
    scored, learnt = film_texts(effort.of(200)), film_texts(8 * steps)
    with fresh(config, "none", LoraConfig(), SEED) as bare:
        weights = without_embeddings(bare.backbone.model)
        precision = str(bare.backbone.model.dtype).removeprefix("torch.")
        zero_shot = ClozeClassifier.of(task, "review", bare.backbone, config)
        with fresh(config, "lora", LoraConfig(**asked["pet"]["lora"]), SEED) as adapted:
            classifier = ClozeClassifier.of(task, "review", adapted.backbone, config)
            items = classifier.items(learnt)

            def learn() -> None:
                train(
                    items, classifier.loss, adapted.parameters, loop,
                    seed=SEED, recorder=SilentRecorder(), engine=LocalEngine(),
                )

            def tokens(examples: list[Any]) -> int:
                return sum(len(part.ids) for item in examples for part in classifier.encode(item))

            assert isinstance(classifier.backbone.model, torch.nn.Module)
            yield {
                "SmolLM2-135M, zero-shot": Job(
                    lambda: zero_shot.predict(scored, SilentRecorder(), ""),
                    len(scored), FORWARD * weights * tokens(scored), precision,
                ),
                "SmolLM2-135M, LoRA training, batch 8": Job(
                    learn, len(learnt), LORA * weights * tokens(learnt), precision
                ),
            }
