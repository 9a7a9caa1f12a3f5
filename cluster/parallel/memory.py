"""Estimates how many bytes a worker needs, from the shape of a model. Reads and builds nothing.

Letters: P parameters, T trained parameters (part of P, or additional: prompts, adapters), N workers, D width, F inner
width of a layer, H heads, V vocabulary, B texts of a pass, L tokens of a text with its prompt.

    base          what a process has before it reads a model; measured, see `BASE_BYTES`
    weights       P numbers in the frozen precision; P / N under zero3
    gathered      under zero3, the largest module that computes at once, twice: flat as received, and in its shape
    trained       4 T, gradients 4 T, moments 8 T: float32, AdamW; zero2 partitions the last two among the workers
    activations   what autograd keeps: `kept_per_token`, B x L times, in every layer
    logits        B x V where they cover the vocabulary, in float32 and in the model's own precision
    buffers       what one layer needs in addition, forward and backward, before it is freed
    swapping      with weights on a disk: read buffers; parts too small for the disk count as weights

Sources: Rajbhandari et al. (ZeRO), SC 2020, https://arxiv.org/abs/1910.02054; Korthikanti et al., MLSys 2023,
https://arxiv.org/abs/2205.05198 for activations per layer, here without those that only gradients of weights need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from cluster.parallel.config import MIN_OFFLOADED_BYTES, NUM_BUFFERS

MIB, GIB = 1 << 20, 1 << 30
BASE_BYTES: Mapping[bool, int] = MappingProxyType({False: 440 * MIB, True: 415 * MIB})
"""Of a process on the machine, pages of libraries left out. True, under zero3: what the peaks of 1, 2 and 4 workers
leave beside the other parts (413, 416, 414 MiB), by benchmarks/cluster/memory.py. False: the peak of a ddp worker over
a model that weighs nothing (444 MiB), by the same with --base.
"""
GPU_BASE_BYTES = 1 * GIB
"""Of a process on its GPU: CUDA's context, libraries, NCCL. Assumed, not measured."""
FLOAT = 4
"""Bytes of a float32."""
MOMENTS = 2
"""Of AdamW, for each trained parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What the formulas ask of a backbone; numbers of parameters and widths.

    Args:
        num_parameters: All, each once.
        weights: The same, of each weight.
        largest_module: Of the largest module with weights of its own: what ZeRO-3 gathers at a time.
        num_layers: That read the text.
        num_decoder_layers: Of a seq2seq model, which write one word and look at what was read; else 0.
        width: D.
        inner: F.
        num_heads: H.
        vocabulary: V.
        kept_inner: Numbers of width F that a layer's activation keeps for the backward pass.
        adapted: Inputs and outputs of a layer's name, of all layers together: rank times it is a LoRA's size.
        reads_vocabulary: Whether logits are of all words (not of the label words alone, as of causal models).
    """

    num_parameters: int
    weights: tuple[int, ...]
    largest_module: int
    num_layers: int
    num_decoder_layers: int
    width: int
    inner: int
    num_heads: int
    vocabulary: int
    kept_inner: int
    adapted: Mapping[str, int]
    reads_vocabulary: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a step does with a backbone.

    Args:
        num_trained: T; 0 where it only reads.
        trains_backbone: Whether T are the backbone's own weights, which then are float32.
        has_adapters: Whether the inputs of adapted layers are kept, for the gradients of LoRA's weights.
        batch_size: Texts of a pass with gradients, of all workers together; 0 where none has.
        read_tokens: Tokens of a pass without gradients, of each worker.
        length: L.
        weight_bytes: Of a frozen weight: 4 or 2.
        fused: Whether attention keeps no matrix of L x L.
    """

    num_trained: int
    trains_backbone: bool
    has_adapters: bool
    batch_size: int
    eval_batch_tokens: int
    length: int
    weight_bytes: int
    fused: bool


@dataclass(frozen=True, slots=True)
class Partitioning:
    """What a strategy shares among the workers, and where the frozen weights lie."""

    weights: bool = False
    states: bool = False
    offload: bool = False


PARTITIONING: Mapping[str, Partitioning] = MappingProxyType(
    {
        "single": Partitioning(),
        "ddp": Partitioning(),
        "zero2": Partitioning(states=True),
        "zero3": Partitioning(weights=True),
        "zero3_offload": Partitioning(weights=True, offload=True),
    }
)
"""By the names of `cluster.steps.step.Strategy`: another strategy is another line."""
STREAM = "stream"
"""Of workers that take batches of a stream: each has its model whole, and no step may choose it instead of another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes of one worker in one place: the machine or a GPU. See the top of the file for the parts."""

    base: int = 0
    weights: int = 0
    gathered: int = 0
    trained: int = 0
    gradients: int = 0
    moments: int = 0
    activations: int = 0
    logits: int = 0
    buffers: int = 0
    swapping: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, item.name) for item in fields(self))

    @property
    def required(self) -> int:
        """What no cleverness of a library takes away: weights, and what trains."""
        return self.weights + self.swapping + self.trained + self.gradients + self.moments


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Of one worker: bytes of its machine and, where it has one, of its GPU; and of weights on a disk."""

    machine: MemoryEstimate
    gpu: MemoryEstimate | None
    disk: int = 0


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes that there are in all: of the machine, which its workers share, and of a GPU; None where unknown."""

    machine: int | None
    gpu: int | None

    def fits(self, needs: WorkerMemory, workers: int, *, required: bool = False) -> bool:
        """Whether the workers of a step fit in. What is unknown holds all.

        `required`: looks at what is certain alone, and of the machine at one worker, for weights that are read in the
        precision of their file stay mapped, once for all workers.
        """
        on_machine = needs.machine.required if required else workers * needs.machine.total
        if self.machine is not None and on_machine > self.machine:
            return False
        if self.gpu is None or needs.gpu is None:
            return True
        return (needs.gpu.required if required else needs.gpu.total) <= self.gpu


def estimate_memory(
    model: ModelShape, workload: Workload, strategy: str, workers: int, *, on_gpu: bool, on_disk: bool = False
) -> WorkerMemory:
    """What each worker of a step needs.

    Args:
        model: The backbone.
        workload: What is done with it.
        strategy: A name of `SPREADS`, or `STREAM`.
        workers: N.
        on_gpu: Whether each has a GPU.
        on_disk: Whether the frozen weights of zero3_offload lie on a disk.
    """
    spread = Partitioning() if strategy == STREAM else PARTITIONING[strategy]
    whole = model.num_parameters * (FLOAT if workload.trains_backbone else workload.weight_bytes)
    held = math.ceil(whole / workers) if spread.weights else whole
    disk = swapped(model, workload, workers) if on_disk else 0
    held -= disk
    swapping = NUM_BUFFERS * math.ceil(max(model.weights) / workers) * workload.weight_bytes if on_disk else 0
    states = workers if spread.states else 1
    beside = 0 if workload.trains_backbone else workload.num_trained * FLOAT
    computing = MemoryEstimate(
        base=0,
        weights=held,
        gathered=2 * model.largest_module * workload.weight_bytes if spread.weights else 0,
        trained=beside,
        gradients=math.ceil(workload.num_trained * FLOAT / states),
        moments=math.ceil(workload.num_trained * FLOAT * MOMENTS / states),
        activations=activations(model, workload, workers, partitioned=spread.weights),
        logits=logits(model, workload, workers),
        buffers=buffers(model, workload, workers),
    )
    base = BASE_BYTES[spread.weights]
    if not on_gpu:
        return WorkerMemory(replace(computing, base=base, swapping=swapping), None, disk)
    if spread.offload:
        on_machine = MemoryEstimate(base=base, weights=held, swapping=swapping)
        return WorkerMemory(on_machine, replace(computing, base=GPU_BASE_BYTES, weights=0), disk)
    return WorkerMemory(MemoryEstimate(base=base), replace(computing, base=GPU_BASE_BYTES))


def swapped(model: ModelShape, workload: Workload, workers: int) -> int:
    """Bytes of a worker's parts of the weights that are large enough for a disk."""
    parts = (math.ceil(weight / workers) * workload.weight_bytes for weight in model.weights)
    return sum(part for part in parts if part >= MIN_OFFLOADED_BYTES)


def texts(workload: Workload, workers: int) -> int:
    """B: texts of one worker's pass with gradients."""
    return math.ceil(workload.batch_size / workers)


def kept_per_token(model: ModelShape, workload: Workload, *, partitioned: bool) -> int:
    """Bytes that autograd keeps for a token in a layer.

    With frozen weights a product keeps nothing of its input. Norms keep theirs, in float32; attention its queries,
    keys, values and (unless fused) its shares, once in float32 and once in the model's precision; the inner layer what
    its activation needs. Weights that train, and adapters, keep the inputs of their products too; so do spread weights,
    whose product DeepSpeed writes out (`deepspeed.runtime.zero.linear`).
    """
    size = FLOAT if workload.trains_backbone else workload.weight_bytes
    attention = 4 * model.width * size if workload.fused else 3 * model.width * size
    if not workload.fused:
        shares = model.num_heads * workload.length
        attention += shares * (FLOAT if size == FLOAT else FLOAT + size)
    kept = 2 * model.width * FLOAT + attention + model.kept_inner * model.inner * size
    if workload.trains_backbone or workload.has_adapters:
        kept += (3 * model.width + model.inner) * FLOAT
    elif partitioned:
        kept += (3 * model.width + model.inner) * size
    return kept


def activations(model: ModelShape, workload: Workload, workers: int, *, partitioned: bool = False) -> int:
    """Bytes that a pass with gradients keeps until its backward pass, in all layers.

    A layer that decodes keeps keys and values of the text; its own few tokens do not count.
    """
    tokens = texts(workload, workers) * workload.length
    size = FLOAT if workload.trains_backbone else workload.weight_bytes
    decoding = model.num_decoder_layers * 2 * model.width * size
    return math.ceil(tokens * (model.num_layers * kept_per_token(model, workload, partitioned=partitioned) + decoding))


def logits(model: ModelShape, workload: Workload, workers: int) -> int:
    """Bytes of logits over the vocabulary at the masks, with their gradients; a decoder writes two tokens a text."""
    if not model.reads_vocabulary:
        return 0
    reading = math.ceil(workload.eval_batch_tokens / max(workload.length, 1))
    each = model.vocabulary * (2 if model.num_decoder_layers else 1) * (FLOAT + workload.weight_bytes)
    return max(2 * texts(workload, workers), reading) * each


def buffers(model: ModelShape, workload: Workload, workers: int) -> int:
    """Bytes of one layer at work beside what is kept: the larger of a pass with and one without gradients."""
    size = FLOAT if workload.trains_backbone else workload.weight_bytes
    shares = 0 if workload.fused else model.num_heads * workload.length
    widest = max(3 * model.inner, 4 * model.width, 3 * shares)
    return max(texts(workload, workers) * workload.length, workload.eval_batch_tokens) * widest * size


def strategies_that_fit(
    model: ModelShape, workload: Workload, budget: MemoryBudget, *, on_gpu: bool, most_workers: int
) -> Iterator[tuple[str, int]]:
    """Strategies with numbers of workers that fit, the simplest first; frozen weights alone are spread."""
    counts = [2**power for power in range(most_workers.bit_length())]
    for strategy, spread in PARTITIONING.items():
        if spread.weights and workload.trains_backbone:
            continue
        for workers in [1] if strategy == "single" else [count for count in counts if count > 1]:
            if budget.fits(estimate_memory(model, workload, strategy, workers, on_gpu=on_gpu), workers):
                yield strategy, workers
