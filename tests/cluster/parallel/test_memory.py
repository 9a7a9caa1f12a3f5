"""The memory formulas, with shapes whose bytes can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from cluster.parallel.memory import (
    FLOAT,
    GIB,
    PARTITIONING,
    MemoryBudget,
    MemoryEstimate,
    ModelShape,
    Workload,
    estimate_memory,
    logits,
    strategies_that_fit,
)
from cluster.steps.step import Strategy

SHAPE = ModelShape(
    num_parameters=8_000_000_000,
    weights=(500_000_000,) * 16,
    largest_module=500_000_000,
    num_layers=32,
    num_decoder_layers=0,
    width=4096,
    inner=14336,
    num_heads=32,
    vocabulary=128_000,
    kept_inner=3,
    adapted={"q_proj": 262_144},
    reads_vocabulary=False,
    num_unsharded=10_000_000,
    largest_unit=500_000_000,
)
PROMPT = Workload(
    num_trained=81_920,
    trains_backbone=False,
    has_adapters=False,
    batch_size=8,
    eval_batch_tokens=1024,
    length=148,
    weight_bytes=2,
    fused=True,
)
FULL = replace(PROMPT, num_trained=SHAPE.num_parameters, trains_backbone=True)
GPU = MemoryBudget(2000 * GIB, 80 * GIB)


def gpu(workload: Workload, strategy: str, workers: int) -> MemoryEstimate:
    estimate = estimate_memory(SHAPE, workload, strategy, workers, on_gpu=True).gpu
    assert estimate is not None
    return estimate


def test_zero3_partitions_frozen_weights() -> None:
    assert gpu(PROMPT, "single", 1).weights == gpu(PROMPT, "ddp", 8).weights == 16_000_000_000
    assert [gpu(PROMPT, "zero3", workers).weights for workers in (1, 2, 8)] == [16e9, 8e9, 2e9]
    assert gpu(PROMPT, "zero3", 8).gathered == 2 * 2 * SHAPE.largest_module
    assert gpu(PROMPT, "ddp", 8).gathered == 0


def test_fsdp_shards_weights_frozen_or_trained() -> None:
    whole, sharded = SHAPE.num_unsharded, SHAPE.num_parameters - SHAPE.num_unsharded
    assert [gpu(PROMPT, "fsdp", workers).weights for workers in (1, 2, 8)] == [
        2 * (whole + sharded // workers) for workers in (1, 2, 8)
    ]
    assert gpu(PROMPT, "fsdp", 8).gathered == 2 * 2 * SHAPE.largest_unit, "as received, and in its shapes"
    assert gpu(PROMPT, "fsdp", 8).optimizer_state == gpu(PROMPT, "ddp", 8).optimizer_state, "prompts are complete"
    full = gpu(FULL, "fsdp", 8)
    assert full.weights + full.gradients + full.optimizer_state == 16 * (whole + sharded // 8)
    assert full.gathered == 4 * 4 * SHAPE.largest_unit, "with its gradients"


def test_trained_parameters_need_16_bytes() -> None:
    full = gpu(FULL, "ddp", 4)
    assert full.weights + full.trained + full.gradients + full.optimizer_state == 16 * SHAPE.num_parameters
    prompt = gpu(PROMPT, "ddp", 4)
    assert prompt.trained + prompt.gradients + prompt.optimizer_state == 16 * PROMPT.num_trained
    zero1, zero2 = gpu(FULL, "zero1", 4), gpu(FULL, "zero2", 4)
    assert zero1.optimizer_state == zero2.optimizer_state == full.optimizer_state / 4
    assert (zero1.gradients, zero2.gradients) == (full.gradients, full.gradients / 4)
    assert zero1.weights == zero2.weights == full.weights


def test_first_worker_gathers_the_checkpoint_of_partitioned_states() -> None:
    on_gpus = {name: estimate_memory(SHAPE, FULL, name, 4, on_gpu=True).machine.checkpoint for name in PARTITIONING}
    sharded = SHAPE.num_parameters - SHAPE.num_unsharded
    assert on_gpus["zero1"] == on_gpus["zero2"] == 8 * SHAPE.num_parameters * 3 // 4, "what the others own"
    assert on_gpus["fsdp"] == 12 * sharded
    assert on_gpus["single"] == on_gpus["ddp"] == 0
    small = replace(FULL, batch_size=1, eval_batch_tokens=1)
    zero1, zero2 = (estimate_memory(SHAPE, small, name, 4, on_gpu=False).machine for name in ("zero1", "zero2"))
    assert zero1.checkpoint - zero2.checkpoint == zero2.gradients, "gradients of zero2 are freed before"


def test_offloaded_weights_are_in_cpu_memory() -> None:
    memory = estimate_memory(SHAPE, PROMPT, "zero3_offload", 4, on_gpu=True)
    assert memory.gpu is not None
    assert memory.gpu.weights == 0
    assert memory.machine.weights == 4_000_000_000
    on_cpu = estimate_memory(SHAPE, PROMPT, "zero3_offload", 4, on_gpu=False)
    assert on_cpu.gpu is None
    assert on_cpu == estimate_memory(SHAPE, PROMPT, "zero3", 4, on_gpu=False)


def test_weights_on_a_disk_need_buffers_and_memory_for_small_parts() -> None:
    model = replace(SHAPE, num_parameters=501_000_000, weights=(500_000_000, *[2_000] * 500))
    in_memory = estimate_memory(model, PROMPT, "zero3_offload", 4, on_gpu=True)
    memory = estimate_memory(model, PROMPT, "zero3_offload", 4, on_gpu=True, on_disk=True)
    assert memory.disk == 250_000_000
    assert memory.machine.weights == 500_000, "parts of 1,000 bytes are not written"
    assert memory.machine.disk_buffers == 8 * 250_000_000
    assert memory.machine.required == 500_000 + 8 * 250_000_000
    assert memory.gpu == in_memory.gpu
    assert (in_memory.disk, in_memory.machine.disk_buffers) == (0, 0)
    assert (
        estimate_memory(model, PROMPT, "zero3_offload", 4, on_gpu=False, on_disk=True).machine.disk_buffers
        == 8 * 250_000_000
    )


def test_activations_grow_with_examples_and_their_length() -> None:
    one, two = gpu(PROMPT, "ddp", 1), gpu(PROMPT, "ddp", 2)
    assert one.activations == 2 * two.activations
    fused = gpu(replace(PROMPT, length=2 * PROMPT.length), "ddp", 1)
    assert fused.activations == 2 * one.activations
    plain = replace(PROMPT, fused=False)
    longer = gpu(replace(plain, length=2 * PROMPT.length), "ddp", 1)
    assert longer.activations > 2 * gpu(plain, "ddp", 1).activations, "attention probabilities grow with the square"
    assert gpu(replace(PROMPT, has_adapters=True), "ddp", 1).activations > one.activations
    assert gpu(replace(PROMPT, batch_size=0), "ddp", 1).activations == 0


def test_logits_cover_the_vocabulary_of_masked_models() -> None:
    assert logits(SHAPE, PROMPT, 1) == 0
    masked = replace(SHAPE, reads_vocabulary=True)
    assert logits(masked, PROMPT, 1) == 16 * SHAPE.vocabulary * (FLOAT + 2)
    assert logits(replace(masked, num_decoder_layers=32), PROMPT, 1) == 2 * logits(masked, PROMPT, 1)


def test_every_strategy_has_a_partitioning() -> None:
    assert set(get_args(Strategy)) <= set(PARTITIONING)


def test_strategies_that_fit_start_with_the_simplest() -> None:
    assert next(strategies_that_fit(SHAPE, PROMPT, GPU, on_gpu=True, most_workers=64)) == ("single", 1)
    large = replace(SHAPE, num_parameters=70_000_000_000)
    strategy, workers = next(strategies_that_fit(large, PROMPT, GPU, on_gpu=True, most_workers=64))
    assert (strategy, workers) == ("fsdp", 2), "140 GB do not fit on one GPU"
    anything = MemoryBudget(None, None)
    of_full = strategies_that_fit(SHAPE, FULL, anything, on_gpu=True, most_workers=8)
    assert {name for name, _ in of_full} == {"single", "ddp", "fsdp", "zero1", "zero2"}
    of_prompts = strategies_that_fit(SHAPE, PROMPT, anything, on_gpu=True, most_workers=8)
    assert {name for name, _ in of_prompts} == set(PARTITIONING)
    assert list(strategies_that_fit(large, PROMPT, MemoryBudget(GIB, GIB), on_gpu=True, most_workers=64)) == []


@pytest.mark.parametrize("unknown", [MemoryBudget(None, None), MemoryBudget(2000 * GIB, None)])
def test_unknown_budget_fits_everything(unknown: MemoryBudget) -> None:
    memory = estimate_memory(SHAPE, FULL, "ddp", 2, on_gpu=True)
    assert unknown.fits(memory, 2)
    assert not MemoryBudget(None, GIB).fits(memory, 2)
    assert not MemoryBudget(GIB // 2, None).fits(memory, 2)


def test_workers_share_the_memory_of_their_machine() -> None:
    memory = estimate_memory(SHAPE, PROMPT, "ddp", 4, on_gpu=False)
    budget = MemoryBudget(3 * memory.machine.total, None)
    assert budget.fits(memory, 3)
    assert not budget.fits(memory, 4)
