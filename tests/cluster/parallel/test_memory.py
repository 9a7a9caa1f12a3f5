"""The formulas of memory, on shapes whose bytes can be reckoned by hand."""

from __future__ import annotations

from dataclasses import replace

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


def gpu(work: Workload, strategy: str, workers: int) -> MemoryEstimate:
    found = estimate_memory(SHAPE, work, strategy, workers, on_gpu=True).gpu
    assert found is not None
    return found


def test_frozen_weights_are_whole_or_one_part_each() -> None:
    assert gpu(PROMPT, "single", 1).weights == gpu(PROMPT, "ddp", 8).weights == 16_000_000_000
    assert [gpu(PROMPT, "zero3", workers).weights for workers in (1, 2, 8)] == [16e9, 8e9, 2e9]
    assert gpu(PROMPT, "zero3", 8).gathered == 2 * 2 * SHAPE.largest_module
    assert gpu(PROMPT, "ddp", 8).gathered == 0


def test_what_trains_has_gradients_and_two_moments_in_float32() -> None:
    full = gpu(FULL, "ddp", 4)
    assert full.weights + full.trained + full.gradients + full.optimizer_state == 16 * SHAPE.num_parameters
    beside = gpu(PROMPT, "ddp", 4)
    assert beside.trained + beside.gradients + beside.optimizer_state == 16 * PROMPT.num_trained
    shared = gpu(FULL, "zero2", 4)
    assert shared.optimizer_state == full.optimizer_state / 4
    assert shared.weights == full.weights


def test_offloaded_weights_lie_on_the_machine() -> None:
    found = estimate_memory(SHAPE, PROMPT, "zero3_offload", 4, on_gpu=True)
    assert found.gpu is not None
    assert found.gpu.weights == 0
    assert found.machine.weights == 4_000_000_000
    on_processors = estimate_memory(SHAPE, PROMPT, "zero3_offload", 4, on_gpu=False)
    assert on_processors.gpu is None
    assert on_processors == estimate_memory(SHAPE, PROMPT, "zero3", 4, on_gpu=False)


def test_weights_on_a_disk_leave_small_parts_and_buffers() -> None:
    model = replace(SHAPE, num_parameters=501_000_000, weights=(500_000_000, *[2_000] * 500))
    in_memory = estimate_memory(model, PROMPT, "zero3_offload", 4, on_gpu=True)
    found = estimate_memory(model, PROMPT, "zero3_offload", 4, on_gpu=True, on_disk=True)
    assert found.disk == 250_000_000
    assert found.machine.weights == 500_000, "parts of 1,000 bytes are not written"
    assert found.machine.disk_buffers == 8 * 250_000_000
    assert found.machine.required == 500_000 + 8 * 250_000_000
    assert found.gpu == in_memory.gpu
    assert (in_memory.disk, in_memory.machine.disk_buffers) == (0, 0)
    assert (
        estimate_memory(model, PROMPT, "zero3_offload", 4, on_gpu=False, on_disk=True).machine.disk_buffers
        == 8 * 250_000_000
    )


def test_activations_follow_the_texts_of_a_worker_and_their_length() -> None:
    one, two = gpu(PROMPT, "ddp", 1), gpu(PROMPT, "ddp", 2)
    assert one.activations == 2 * two.activations
    fused = gpu(replace(PROMPT, length=2 * PROMPT.length), "ddp", 1)
    assert fused.activations == 2 * one.activations
    plain = replace(PROMPT, fused=False)
    longer = gpu(replace(plain, length=2 * PROMPT.length), "ddp", 1)
    assert longer.activations > 2 * gpu(plain, "ddp", 1).activations, "shares of attention grow with the square"
    assert gpu(replace(PROMPT, has_adapters=True), "ddp", 1).activations > one.activations
    assert gpu(replace(PROMPT, batch_size=0), "ddp", 1).activations == 0


def test_logits_are_of_the_vocabulary_where_all_of_it_is_read() -> None:
    assert logits(SHAPE, PROMPT, 1) == 0
    masked = replace(SHAPE, reads_vocabulary=True)
    assert logits(masked, PROMPT, 1) == 16 * SHAPE.vocabulary * (FLOAT + 2)
    assert logits(replace(masked, num_decoder_layers=32), PROMPT, 1) == 2 * logits(masked, PROMPT, 1)


def test_every_strategy_is_known() -> None:
    from typing import get_args

    from cluster.steps.step import Strategy

    assert set(get_args(Strategy)) <= set(PARTITIONING)


def test_what_fits_is_named_the_simplest_first() -> None:
    assert next(strategies_that_fit(SHAPE, PROMPT, GPU, on_gpu=True, most_workers=64)) == ("single", 1)
    large = replace(SHAPE, num_parameters=70_000_000_000)
    strategy, workers = next(strategies_that_fit(large, PROMPT, GPU, on_gpu=True, most_workers=64))
    assert (strategy, workers) == ("zero3", 2), "140 GB are too many for one"
    assert all(
        PARTITIONING[name].weights is False
        for name, _ in strategies_that_fit(SHAPE, FULL, MemoryBudget(None, None), on_gpu=True, most_workers=8)
    )
    assert list(strategies_that_fit(large, PROMPT, MemoryBudget(GIB, GIB), on_gpu=True, most_workers=64)) == []


@pytest.mark.parametrize("unknown", [MemoryBudget(None, None), MemoryBudget(2000 * GIB, None)])
def test_what_is_unknown_holds_everything(unknown: MemoryBudget) -> None:
    found = estimate_memory(SHAPE, FULL, "ddp", 2, on_gpu=True)
    assert unknown.fits(found, 2)
    assert not MemoryBudget(None, GIB).fits(found, 2)
    assert not MemoryBudget(GIB // 2, None).fits(found, 2)


def test_the_workers_of_a_machine_share_it() -> None:
    found = estimate_memory(SHAPE, PROMPT, "ddp", 4, on_gpu=False)
    room = MemoryBudget(3 * found.machine.total, None)
    assert room.fits(found, 3)
    assert not room.fits(found, 4)
