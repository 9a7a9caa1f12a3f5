"""Estimates memory, time and cost of T5-XXL and a 70B backbone on 8 to 64 H100s for ten million unlabeled examples.

    python benchmarks/cluster/paper_plan.py

Runs nothing. Memory comes from `cluster/parallel/memory.py`, which `clozeline plan` uses as well; models are built on
torch's meta device from the configs below. Time is FLOPs divided by the speed of a GPU, plus, under zero3, gathered
bytes divided by the speed of a link: weights are not prefetched, so the two add up. docs/explanation/scale.md contains
the tables and the sources.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.parallel.memory import PARTITIONING, ModelShape, Workload, estimate_memory
from pipelines.preflight.memory import shape_of

GPU_BYTES = 80e9
"""Data sheet of NVIDIA's H100 SXM: 80 GB of HBM3, 3.35 TB/s."""

PEAK_FLOPS = 989e12
"""Same data sheet: bfloat16, dense."""

NODE = 8
"""GPUs that NVLink connects. Each has its own network adapter to other nodes."""

NVLINK, NETWORK = 450e9, NODE * 50e9
"""Bytes per second into a GPU. NVLink 4 has 900 GB/s, both directions together. Over 400 Gb/s InfiniBand, the adapters
of a node transfer each byte once, and NVLink distributes it.
"""

PEAK_FRACTION, LINK_FRACTION = 0.4, 0.7
"""Assumptions: model FLOPs utilization, and the fraction of the link speed that an all-gather reaches."""

DOLLARS = (1.90, 2.99, 3.99)
"""Lowest, typical and highest list price of one H100 SXM hour on demand; docs/explanation/scale.md has the sources."""


EXAMPLES, LENGTH, VIRTUAL_TOKENS = 10_000_000, 128, 100
"""Unlabeled examples, their tokens (including padding), virtual tokens of the soft prompt."""

STEPS, BATCH = 1000, 64
"""Training of one prompt."""

NUM_PATTERNS = 3
"""Sub-models. Each trains a prompt and labels all examples."""

STUDENT, STUDENT_EPOCHS = 110e6, 1
"""Parameters of the student (BERT-base without most of its embedding), and epochs over the examples."""

FORWARD, FROZEN, TRAINING = 2, 4, 6
"""FLOPs per parameter and token: forward pass; gradients through frozen weights; full training."""

EVAL_BATCH_TOKENS = (1024, 65536)
"""Tokens of a forward pass without training: the default, and a size that suits a GPU."""

MODELS: dict[str, dict[str, Any]] = {
    "T5-XXL (v1.1)": {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 4096, "d_ff": 10240,
        "d_kv": 64, "num_heads": 64, "num_layers": 24, "num_decoder_layers": 24, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "is_encoder_decoder": True,
    },
    "70B (Llama 3)": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8192,
        "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "vocab_size": 128256, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""From the config.json of google/t5-v1_1-xxl and meta-llama/Meta-Llama-3-70B."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Total `flops`, the number of `passes` of each worker, and how often one pass gathers the weights."""

    flops: float
    passes: float
    gathers: int

    def hours(self, model: ModelShape, workers: int, partitioned: bool) -> float:
        """Returns the hours of computing and, if the weights are partitioned, of gathering them."""
        computing = self.flops / (workers * PEAK_FLOPS * PEAK_FRACTION)
        gathering = self.traffic(model, workers) / (link(workers) * LINK_FRACTION) if partitioned else 0.0
        return (computing + gathering) / 3600

    def traffic(self, model: ModelShape, workers: int) -> float:
        """Returns the bytes that each worker receives."""
        return self.passes * self.gathers * 2 * model.num_parameters * (workers - 1) / workers


def link(workers: int) -> float:
    """Returns the bytes per second into a GPU over the slowest link of a gather."""
    return NVLINK if workers <= NODE else NETWORK


def workload(eval_batch_tokens: int, batch: int) -> Workload:
    """Returns the workload of a prompt over a frozen backbone in bfloat16."""
    return Workload(
        num_trained=VIRTUAL_TOKENS * 8192, trains_backbone=False, has_adapters=False, batch_size=batch,
        eval_batch_tokens=eval_batch_tokens, length=LENGTH + VIRTUAL_TOKENS, weight_bytes=2, fused=True,
    )  # fmt: skip


def phases(model: ModelShape, workers: int, eval_batch_tokens: int) -> tuple[Phase, Phase]:
    """Returns the training of all prompts and the labeling of all examples."""
    length = LENGTH + VIRTUAL_TOKENS
    trained_tokens = NUM_PATTERNS * STEPS * max(BATCH, workers) * length
    labeled_tokens = NUM_PATTERNS * EXAMPLES * length
    # the decoder writes only one word; the text passes only through the encoder
    computing = model.num_parameters * model.num_layers / (model.num_layers + model.num_decoder_layers)
    return (
        Phase(FROZEN * computing * trained_tokens, NUM_PATTERNS * STEPS, 2),
        Phase(FORWARD * computing * labeled_tokens, math.ceil(labeled_tokens / workers / eval_batch_tokens), 1),
    )


def rows(model: ModelShape) -> list[list[str]]:
    """Returns a row per number of workers and strategy; for zero3, which gathers weights, also per batch size."""
    lines = []
    for workers in (8, 16, 32, 64):
        for strategy in ("ddp", "zero3"):
            for num_tokens in EVAL_BATCH_TOKENS if strategy == "zero3" else EVAL_BATCH_TOKENS[-1:]:
                gpu = estimate_memory(
                    model, workload(num_tokens, max(BATCH, workers)), strategy, workers, on_gpu=True
                ).gpu
                assert gpu is not None
                row = [str(workers), strategy, f"{num_tokens:,}", f"{gpu.weights / 1e9:.1f}", f"{gpu.total / 1e9:.1f}"]
                lines.append(
                    row + (costs(model, workers, strategy, num_tokens) if gpu.total <= GPU_BYTES else DOES_NOT_FIT)
                )
    return lines


DOES_NOT_FIT = ["does not fit", "", "", "", "", ""]
HEAD = [
    "GPUs", "strategy", "tokens per labeling pass", "weights, GB/GPU", "total, GB/GPU", "training, h", "labeling, h",
    "traffic, PB/GPU", "hours", "GPU hours", "cost, $ (range)",
]  # fmt: skip


def costs(model: ModelShape, workers: int, strategy: str, eval_batch_tokens: int) -> list[str]:
    """Returns the cells with hours, traffic and price."""
    partitioned = PARTITIONING[strategy].weights
    training, labeling = phases(model, workers, eval_batch_tokens)
    traffic = sum(item.traffic(model, workers) for item in (training, labeling)) if partitioned else 0.0
    student = TRAINING * STUDENT * EXAMPLES * LENGTH * STUDENT_EPOCHS / (workers * PEAK_FLOPS * PEAK_FRACTION) / 3600
    phase_hours = [item.hours(model, workers, partitioned) for item in (training, labeling)]
    hours = sum(phase_hours) + student
    low, usual, high = (price * hours * workers for price in DOLLARS)
    numbers = [*phase_hours, traffic / 1e15, hours]
    price = f"{usual:,.0f} ({low:,.0f} to {high:,.0f})"
    return [*(f"{number:.1f}" for number in numbers), f"{hours * workers:,.0f}", price]


def memory_parts(model: ModelShape, strategy: str, workers: int) -> list[str]:
    """Returns the parts of the memory of one GPU in GB, for the larger batch."""
    gpu = estimate_memory(model, workload(EVAL_BATCH_TOKENS[-1], BATCH), strategy, workers, on_gpu=True).gpu
    assert gpu is not None
    parts = ("base", "weights", "gathered", "activations", "logits", "buffers")
    return [f"{strategy} x {workers}", *(f"{getattr(gpu, name) / 1e9:.1f}" for name in parts)]


def table(head: list[str], lines: list[list[str]]) -> str:
    """Returns a Markdown table; numbers are right-aligned."""
    all_lines = [head, ["---", *["--:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in all_lines) + "\n"


def main() -> None:
    """Prints the tables."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, config) in enumerate(MODELS.items()):
            model_folder = Path(folder) / str(number)
            model_folder.mkdir()
            (model_folder / "config.json").write_text(json.dumps(config))
            model = shape_of(model_folder)
            print(f"### {name}: {model.num_parameters / 1e9:.1f} billion parameters\n")
            print(table(["GB per GPU", "base", "weights", "gathered", "activations", "logits", "buffers"],
                        [memory_parts(model, strategy, 8) for strategy in ("ddp", "zero3")]))  # fmt: skip
            print(table(HEAD, rows(model)))


if __name__ == "__main__":
    main()
