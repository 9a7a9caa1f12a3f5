"""What T5-XXL and a 70B backbone would take on 8 to 64 H100s, for ten million unlabelled texts: nothing is run.

    python benchmarks/cluster/paper_plan.py

Memory is that of `cluster/parallel/memory.py`, by which `clozeline plan` reckons; models are built on torch's meta
device from the configs below. Time is FLOPs over what a GPU reaches, plus, under zero3, bytes gathered over what a link
reaches: weights are not fetched ahead, so that the two add up. docs/scale.md holds the tables and the sources.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.parallel.memory import PARTITIONING, ModelShape, Workload, estimate_memory
from pipelines.preflight.model_shapes import shape_of

GPU_BYTES = 80e9
"""NVIDIA's data sheet of the H100 SXM: 80 GB of HBM3, 3.35 TB/s."""
PEAK_FLOPS = 989e12
"""The same: bfloat16, dense."""
NODE = 8
"""GPUs that NVLink joins, each with an adapter of its own to other nodes."""
NVLINK, NETWORK = 450e9, NODE * 50e9
"""Bytes a second into a GPU: NVLink 4 has 900 GB/s in both directions together; over 400 Gb/s InfiniBand, a node's
adapters bring each byte once, and NVLink spreads it.
"""
SHARE_OF_PEAK, SHARE_OF_LINK = 0.4, 0.7
"""Assumed: model FLOPs utilisation, and what an all-gather reaches of a link."""
DOLLARS = (1.90, 2.99, 3.99)
"""An H100 SXM hour on demand: the lowest, a usual and the highest of the list prices in docs/scale.md."""

TEXTS, LENGTH, VECTORS = 10_000_000, 128, 100
"""Unlabelled texts, their tokens (padding included), vectors of the soft prompt."""
STEPS, BATCH = 1000, 64
"""Of one prompt's training."""
NUM_PATTERNS = 3
"""Sub-models, each of which trains a prompt and labels all texts."""
STUDENT, STUDENT_EPOCHS = 110e6, 1
"""Parameters of the student (BERT-base without much of its embedding), and passes over the texts."""
FORWARD, FROZEN, TRAINING = 2, 4, 6
"""FLOPs for each parameter and token: read; gradients through frozen weights; full training."""
READ_TOKENS = (1024, 65536)
"""Tokens of a pass that only reads: what stages take today, and what a GPU would rather have."""

MODELS: dict[str, dict[str, Any]] = {
    "T5-XXL (v1.1)": {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 4096, "d_ff": 10240,
        "d_kv": 64, "num_heads": 64, "num_layers": 24, "num_decoder_layers": 24, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
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
    """`flops` in all, in so many `passes` of every worker, each of which goes `gathers` times through the weights."""

    flops: float
    passes: float
    gathers: int

    def hours(self, model: ModelShape, workers: int, spread: bool) -> float:
        """Of computing and, of spread weights, of gathering them."""
        computing = self.flops / (workers * PEAK_FLOPS * SHARE_OF_PEAK)
        gathering = self.traffic(model, workers) / (link(workers) * SHARE_OF_LINK) if spread else 0.0
        return (computing + gathering) / 3600

    def traffic(self, model: ModelShape, workers: int) -> float:
        """Bytes that come into each worker."""
        return self.passes * self.gathers * 2 * model.num_parameters * (workers - 1) / workers


def link(workers: int) -> float:
    """Bytes a second into a GPU: the slowest link that a gather goes over."""
    return NVLINK if workers <= NODE else NETWORK


def work(eval_batch_tokens: int, batch: int) -> Workload:
    """A prompt over a frozen backbone in bfloat16."""
    return Workload(
        num_trained=VECTORS * 8192, trains_backbone=False, has_adapters=False, batch_size=batch,
        eval_batch_tokens=read_tokens, length=LENGTH + VECTORS, weight_bytes=2, fused=True,
    )  # fmt: skip


def phases(model: ModelShape, workers: int, eval_batch_tokens: int) -> tuple[Phase, Phase]:
    """Training of all prompts, and labelling of all texts."""
    each = LENGTH + VECTORS
    trained = NUM_PATTERNS * STEPS * max(BATCH, workers) * each
    read = NUM_PATTERNS * TEXTS * each
    # a decoder writes one word: the text goes through the encoder alone
    computing = model.num_parameters * model.num_layers / (model.num_layers + model.num_decoder_layers)
    return (
        Phase(FROZEN * computing * trained, NUM_PATTERNS * STEPS, 2),
        Phase(FORWARD * computing * read, math.ceil(read / workers / read_tokens), 1),
    )


def rows(model: ModelShape) -> list[list[str]]:
    """One for each number of workers, strategy, and size of a reading pass where weights are gathered for it."""
    found = []
    for workers in (8, 16, 32, 64):
        for strategy in ("ddp", "zero3"):
            for read_tokens in READ_TOKENS if strategy == "zero3" else READ_TOKENS[-1:]:
                gpu = estimate_memory(model, work(read_tokens, max(BATCH, workers)), strategy, workers, on_gpu=True).gpu
                assert gpu is not None
                row = [str(workers), strategy, f"{read_tokens:,}", f"{gpu.weights / 1e9:.1f}", f"{gpu.total / 1e9:.1f}"]
                found.append(row + (costs(model, workers, strategy, read_tokens) if gpu.total <= GPU_BYTES else NOT))
    return found


NOT = ["does not fit", "", "", "", "", ""]
HEAD = [
    "GPUs", "strategy", "tokens a reading pass", "weights, GB a GPU", "all, GB a GPU", "training, h", "labelling, h",
    "traffic, PB a GPU", "hours in all", "GPU hours", "cost, $ (range)",
]  # fmt: skip


def costs(model: ModelShape, workers: int, strategy: str, eval_batch_tokens: int) -> list[str]:
    """Hours, traffic and price of everything."""
    spread = PARTITIONING[strategy].weights
    training, labelling = phases(model, workers, read_tokens)
    traffic = sum(item.traffic(model, workers) for item in (training, labelling)) if spread else 0.0
    student = TRAINING * STUDENT * TEXTS * LENGTH * STUDENT_EPOCHS / (workers * PEAK_FLOPS * SHARE_OF_PEAK) / 3600
    each = [item.hours(model, workers, spread) for item in (training, labelling)]
    hours = sum(each) + student
    low, usual, high = (price * hours * workers for price in DOLLARS)
    return [f"{each[0]:.1f}", f"{each[1]:.1f}", f"{traffic / 1e15:.1f}", f"{hours:.1f}", f"{hours * workers:,.0f}",
            f"{usual:,.0f} ({low:,.0f} to {high:,.0f})"]  # fmt: skip


def parts(model: ModelShape, strategy: str, workers: int) -> list[str]:
    """GB of one GPU, part by part, at the larger reading pass."""
    gpu = estimate_memory(model, work(READ_TOKENS[-1], BATCH), strategy, workers, on_gpu=True).gpu
    assert gpu is not None
    named = ("base", "weights", "gathered", "activations", "logits", "buffers")
    return [f"{strategy} x {workers}", *(f"{getattr(gpu, name) / 1e9:.1f}" for name in named)]


def table(head: list[str], lines: list[list[str]]) -> str:
    """In Markdown; numbers to the right."""
    all_lines = [head, ["---", *["--:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in all_lines) + "\n"


def main() -> None:
    """Prints the tables."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, config) in enumerate(MODELS.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            (place / "config.json").write_text(json.dumps(config))
            model = shape_of(place)
            print(f"### {name}: {model.num_parameters / 1e9:.1f} billion parameters\n")
            print(table(["a GPU, GB", "base", "weights", "gathered", "activations", "logits", "buffers"],
                        [parts(model, strategy, 8) for strategy in ("ddp", "zero3")]))  # fmt: skip
            print(table(HEAD, rows(model)))


if __name__ == "__main__":
    main()
