"""Estimates how many bytes a worker needs, from the shape of a model. Reads no files and builds no model.

Letters: P parameters, T trained parameters (part of P, or additional: prompts, adapters), N workers, D width, F inner
width of a layer, H heads, V vocabulary, B examples of a pass, L tokens of an example with its prompt.

    base             what a process has before it loads a model; measured, see `BASE_BYTES`
    mapped           P numbers that stay in their file, if a frozen model computes on CPUs in the precision of its file:
                     once for all workers of a machine
    weights          else P numbers in the frozen precision; P / N under zero3; under fsdp P / N of the large weights
    gathered         the largest module that computes at once, twice: flat as received, and in its shape. Under zero3 it
                     has single weights, under fsdp a block, embeddings or the LM head; with its gradients if trained
    trained          4 T, gradients 4 T, optimizer state 8 T: float32, AdamW. zero1 partitions the last, zero2 the last
                     two, fsdp all three of the backbone's own weights
    activations      what autograd keeps: `kept_per_token`, B x L times, in every layer
    logits           B x V where they cover the vocabulary, in float32 and in the model's own precision
    buffers          what one layer needs in addition, forward and backward, before it is freed
    heap             on CPUs what the C library keeps of the last three after they were freed: `HEAP_FRACTION`
    checkpoint       what the first worker gathers for a checkpoint, as far as it does not fit into what a pass frees
    disk_buffers     read buffers of weights on a disk; parts too small for the disk count as weights

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
"""CPU memory of a worker process without pages of libraries. True, under zero3: the peaks of 1, 2 and 4 workers minus
the other parts (413, 416, 414 MiB), by benchmarks/cluster/memory.py. False: the peak of a ddp worker with a model that
has no weights (444 MiB), by the same program with --base.
"""
GPU_BASE_BYTES = 1 * GIB
"""GPU memory of a worker process: CUDA context, libraries, NCCL. Assumed, not measured."""
FLOAT = 4
"""Bytes of a float32."""
HEAP_FRACTION = 0.35
"""Freed memory of passes that the C library keeps, relative to what they need. Fitted to benchmarks/cluster/memory.py,
where 0.0 to 0.6 was measured. Workers that gather weights return it (`cluster.parallel.config.ALLOCATOR`).
"""
MOMENTS = 2
"""Numbers that AdamW keeps per trained parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The numbers of a backbone that the formulas need.

    Args:
        num_parameters: P. Shared weights count once.
        weights: Number of parameters of each weight.
        largest_module: Number of parameters of the largest module with its own weights, which ZeRO-3 gathers at once.
        num_layers: Number of layers that read the text.
        num_decoder_layers: Number of decoder layers of a seq2seq model; else 0.
        width: D.
        inner: F.
        num_heads: H.
        vocabulary: V.
        kept_inner: Number of tensors of width F that a layer's activation keeps for the backward pass.
        adapted: Name of a layer -> sum of its inputs and outputs over all layers; times the rank it is the size of
            LoRA.
        reads_vocabulary: True if logits cover the vocabulary, False if only the label words (causal models).
        num_unsharded: Number of parameters that are complete on every worker under fsdp.
        largest_unit: Number of parameters of the largest module that fsdp gathers at once.
        file_weight_bytes: Bytes of a weight in the files of the model; None if unknown.
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
    num_unsharded: int = 0
    largest_unit: int = 0
    file_weight_bytes: int | None = None

    @property
    def num_sharded(self) -> int:
        """Number of parameters of which a worker keeps a part under fsdp."""
        return self.num_parameters - self.num_unsharded


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """How a step uses a backbone.

    Args:
        num_trained: T; 0 if the step trains nothing.
        trains_backbone: True if T are the backbone's own weights, which are float32 then.
        has_adapters: True if the inputs of adapted layers are kept for the gradients of LoRA.
        batch_size: Examples per optimizer step, of all workers together; 0 without training.
        eval_batch_tokens: Tokens of a pass without gradients, per worker.
        length: L.
        weight_bytes: Bytes of a frozen weight: 4 or 2.
        fused: True if attention keeps no L x L matrix.
    """

    num_trained: int
    trains_backbone: bool
    has_adapters: bool
    batch_size: int
    eval_batch_tokens: int
    length: int
    weight_bytes: int
    fused: bool

    @property
    def backbone_weight_bytes(self) -> int:
        """Bytes of a weight of the backbone, trained or frozen."""
        return FLOAT if self.trains_backbone else self.weight_bytes


@dataclass(frozen=True, slots=True)
class Partitioning:
    """The parts that a strategy partitions among the workers, and if it offloads the frozen weights.

    Args:
        weights: Partitions the weights of the backbone.
        trains_backbone: True if steps that train the weights of the backbone itself can use the strategy.
        gradients: Partitions gradients.
        states: Partitions optimizer state.
        offload: Keeps the frozen weights in CPU memory.
    """

    weights: bool = False
    trains_backbone: bool = True
    gradients: bool = False
    states: bool = False
    offload: bool = False


PARTITIONING: Mapping[str, Partitioning] = MappingProxyType(
    {
        "single": Partitioning(),
        "ddp": Partitioning(),
        "fsdp": Partitioning(weights=True),
        "zero1": Partitioning(states=True),
        "zero2": Partitioning(gradients=True, states=True),
        "zero3": Partitioning(weights=True, trains_backbone=False),
        "zero3_offload": Partitioning(weights=True, trains_backbone=False, offload=True),
    }
)
"""Name of a `cluster.steps.step.Strategy` -> what it partitions."""
BY_DEEPSPEED = ("zero3", "zero3_offload")
"""Strategies that gather single weights with DeepSpeed, which implements products with them itself."""
STREAM = "stream"
"""Workers that map batches of a stream. Each has the full model; a recipe cannot select this strategy for training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes of one worker on its machine or on its GPU. The docstring of the module explains the parts."""

    base: int = 0
    mapped: int = 0
    weights: int = 0
    gathered: int = 0
    trained: int = 0
    gradients: int = 0
    optimizer_state: int = 0
    activations: int = 0
    logits: int = 0
    buffers: int = 0
    heap: int = 0
    checkpoint: int = 0
    disk_buffers: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts that belong to this worker alone."""
        return sum(getattr(self, item.name) for item in fields(self) if item.name != "mapped")

    @property
    def required(self) -> int:
        """The parts that no library can avoid: weights, and what training needs."""
        return self.mapped + self.weights + self.disk_buffers + self.trained + self.gradients + self.optimizer_state


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Bytes of one worker: on its machine, on its GPU (None without one), and of weights on a disk."""

    machine: MemoryEstimate
    gpu: MemoryEstimate | None
    disk: int = 0


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Available bytes: of the machine, which its workers share, and of each GPU; None if unknown."""

    machine: int | None
    gpu: int | None

    def fits(self, needs: WorkerMemory, workers: int, *, required: bool = False) -> bool:
        """Returns True if the workers of a step fit. An unknown budget fits any step.

        With `required` this compares required parts only, and one worker on the machine.
        """
        total = workers * needs.machine.total + needs.machine.mapped
        on_machine = needs.machine.required if required else total
        if self.machine is not None and on_machine > self.machine:
            return False
        if self.gpu is None or needs.gpu is None:
            return True
        return (needs.gpu.required if required else needs.gpu.total) <= self.gpu


def estimate_memory(
    model: ModelShape, workload: Workload, strategy: str, workers: int, *, on_gpu: bool, on_disk: bool = False
) -> WorkerMemory:
    """Returns the memory of each worker of a step.

    Args:
        model: The backbone.
        workload: What the step does with it.
        strategy: A name of `PARTITIONING`, or `STREAM`.
        workers: N.
        on_gpu: True if each worker has a GPU.
        on_disk: True if the frozen weights of zero3_offload are stored on a disk.
    """
    partitioning = Partitioning() if strategy == STREAM else PARTITIONING[strategy]
    size = workload.backbone_weight_bytes
    kept = kept_weights(model, strategy, workers)
    weights = kept * size
    disk = disk_buffers = 0
    if on_disk:
        disk = offloaded_bytes(model, workload, workers)
        disk_buffers = NUM_BUFFERS * math.ceil(max(model.weights) / workers) * workload.weight_bytes
    weights -= disk
    is_mapped = (
        not on_gpu
        and not partitioning.weights
        and not workload.trains_backbone
        and model.file_weight_bytes == workload.weight_bytes
    )
    # Under fsdp, trained weights of the backbone are sharded as the weights are; prompts and adapters never are.
    trained = workload.num_trained
    if workload.trains_backbone:
        trained = trained * kept // model.num_parameters
    computing = MemoryEstimate(
        mapped=weights if is_mapped else 0,
        weights=0 if is_mapped else weights,
        gathered=gathered(model, workload, strategy),
        trained=0 if workload.trains_backbone else workload.num_trained * FLOAT,
        gradients=math.ceil(trained * FLOAT / (workers if partitioning.gradients else 1)),
        optimizer_state=math.ceil(trained * FLOAT * MOMENTS / (workers if partitioning.states else 1)),
        activations=activations(model, workload, workers, partitioned=strategy in BY_DEEPSPEED),
        logits=logits(model, workload, workers),
        buffers=buffers(model, workload, workers),
    )
    base = BASE_BYTES[partitioning.weights]
    saved = trained_on_others(model, workload, strategy, workers)
    if not on_gpu:
        passes = computing.activations + computing.logits + computing.buffers
        heap = 0 if partitioning.weights else math.ceil(HEAP_FRACTION * passes)
        freed = passes + heap + computing.gathered + (0 if strategy == "zero1" else computing.gradients)
        checkpoint = max(0, saved - freed)
        on_machine = replace(computing, base=base, heap=heap, checkpoint=checkpoint, disk_buffers=disk_buffers)
        return WorkerMemory(on_machine, None, disk)
    if partitioning.offload:
        machine = MemoryEstimate(base=base, weights=weights, disk_buffers=disk_buffers)
        return WorkerMemory(machine, replace(computing, base=GPU_BASE_BYTES, weights=0), disk)
    return WorkerMemory(MemoryEstimate(base=base, checkpoint=saved), replace(computing, base=GPU_BASE_BYTES))


def trained_on_others(model: ModelShape, workload: Workload, strategy: str, workers: int) -> int:
    """Returns the bytes of trained weights and optimizer state that the first worker gathers for a checkpoint."""
    if strategy in ("zero1", "zero2"):
        return MOMENTS * workload.num_trained * FLOAT * (workers - 1) // workers
    if strategy == "fsdp" and workload.trains_backbone:
        return (1 + MOMENTS) * workload.num_trained * FLOAT * model.num_sharded // model.num_parameters
    return 0


def kept_weights(model: ModelShape, strategy: str, workers: int) -> int:
    """Returns how many weights of the backbone a worker keeps."""
    if strategy in BY_DEEPSPEED:
        return math.ceil(model.num_parameters / workers)
    if strategy == "fsdp":
        return model.num_unsharded + math.ceil(model.num_sharded / workers)
    return model.num_parameters


def gathered(model: ModelShape, workload: Workload, strategy: str) -> int:
    """Returns the bytes of the weights that a worker gathers at once, and under fsdp of their gradients."""
    if strategy in BY_DEEPSPEED:
        return 2 * model.largest_module * workload.weight_bytes
    if strategy == "fsdp":
        copies = 4 if workload.trains_backbone else 2
        return copies * model.largest_unit * workload.backbone_weight_bytes
    return 0


def offloaded_bytes(model: ModelShape, workload: Workload, workers: int) -> int:
    """Bytes of a worker's parts of the weights that are large enough for a disk."""
    parts = (math.ceil(weight / workers) * workload.weight_bytes for weight in model.weights)
    return sum(part for part in parts if part >= MIN_OFFLOADED_BYTES)


def examples_per_worker(workload: Workload, workers: int) -> int:
    """B: examples of one worker's pass with gradients."""
    return math.ceil(workload.batch_size / workers)


def kept_per_token(model: ModelShape, workload: Workload, *, partitioned: bool) -> int:
    """Bytes that autograd keeps per token and layer.

    With frozen weights a matrix product keeps nothing of its input. Norms keep theirs, in float32. Attention keeps its
    queries, keys, values and (unless fused) its probabilities, once in float32 and once in the model's precision. The
    inner layer keeps what its activation needs. Trained weights and adapters keep the inputs of their products, too.
    So do partitioned weights, whose product DeepSpeed implements itself (`deepspeed.runtime.zero.linear`).
    """
    size = workload.backbone_weight_bytes
    attention = 4 * model.width * size if workload.fused else 3 * model.width * size
    if not workload.fused:
        probabilities = model.num_heads * workload.length
        attention += probabilities * (FLOAT if size == FLOAT else FLOAT + size)
    kept = 2 * model.width * FLOAT + attention + model.kept_inner * model.inner * size
    if workload.trains_backbone or workload.has_adapters:
        kept += (3 * model.width + model.inner) * FLOAT
    elif partitioned:
        kept += (3 * model.width + model.inner) * size
    return kept


def activations(model: ModelShape, workload: Workload, workers: int, *, partitioned: bool = False) -> int:
    """Bytes that a pass with gradients keeps until its backward pass, in all layers.

    A decoder layer keeps keys and values of the text; its own few tokens do not count.
    """
    tokens = examples_per_worker(workload, workers) * workload.length
    decoder = model.num_decoder_layers * 2 * model.width * workload.backbone_weight_bytes
    return math.ceil(tokens * (model.num_layers * kept_per_token(model, workload, partitioned=partitioned) + decoder))


def logits(model: ModelShape, workload: Workload, workers: int) -> int:
    """Bytes of logits over the vocabulary at the masks, with their gradients. A decoder writes two tokens per text."""
    if not model.reads_vocabulary:
        return 0
    num_evaluated = math.ceil(workload.eval_batch_tokens / max(workload.length, 1))
    per_example = model.vocabulary * (2 if model.num_decoder_layers else 1) * (FLOAT + workload.weight_bytes)
    return max(2 * examples_per_worker(workload, workers), num_evaluated) * per_example


def buffers(model: ModelShape, workload: Workload, workers: int) -> int:
    """Bytes that one layer needs while it computes: the maximum of a pass with and one without gradients."""
    probabilities = 0 if workload.fused else model.num_heads * workload.length
    widest = max(3 * model.inner, 4 * model.width, 3 * probabilities)
    num_tokens = max(examples_per_worker(workload, workers) * workload.length, workload.eval_batch_tokens)
    return num_tokens * widest * workload.backbone_weight_bytes


def strategies_that_fit(
    model: ModelShape, workload: Workload, budget: MemoryBudget, *, on_gpu: bool, most_workers: int
) -> Iterator[tuple[str, int]]:
    """Yields strategies and numbers of workers that fit, the simplest first."""
    counts = [2**power for power in range(most_workers.bit_length())]
    for strategy, partitioning in PARTITIONING.items():
        if workload.trains_backbone and not partitioning.trains_backbone:
            continue
        for workers in [1] if strategy == "single" else [count for count in counts if count > 1]:
            if budget.fits(estimate_memory(model, workload, strategy, workers, on_gpu=on_gpu), workers):
                yield strategy, workers
