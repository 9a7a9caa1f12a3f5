"""Compares ways to partition gradients and optimizer state: of torch, of DeepSpeed, and of the engine.

    python benchmarks/cluster/sharded_updates.py [ddp] [fsdp] [zero1] [zero2] [--quick]

Trains a stack of linear layers with 33 million float32 weights with AdamW on two processes over gloo. Prints for each
way the peak memory of the larger process above that before the model exists, in bytes per weight, the median seconds of
a step, and the largest difference of a weight from training in one process, relative to the largest weight. Exits with
1 if a difference is larger than TOLERANCE.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.machine import machine
from cluster.parallel.engine import DistributedEngine, Replicas
from cluster.parallel.worker_signals import HangDumper
from cluster.steps.step import Strategy
from stages.common.engine import map_sequentially
from tests.support.memory_steps import measured, return_freed_memory

NUM_WORKERS, WIDTH, NUM_LAYERS, BATCH, NUM_STEPS = 2, 1024, 32, 8, 6
TOLERANCE = 1e-4
LEARNING_RATE, MAX_NORM = 1e-3, 1.0
BUCKET = 1 << 22
"""Numbers per message of DeepSpeed, about as many bytes as in those of torch. Its default needs 2 GB."""


@dataclass(frozen=True, slots=True)
class Training:
    """A model on its way: `update` runs the backward pass of this worker's part of the loss, and updates."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    update: Callable[[torch.Tensor], None]


def main() -> int:
    """Measures all ways and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("strategies", nargs="*", help="strategies to compare with one process; default: all")
    parser.add_argument("--quick", action="store_true", help="two small layers")
    options = parser.parse_args()
    width, num_layers = (64, 2) if options.quick else (WIDTH, NUM_LAYERS)
    names = [name for name in WAYS if not options.strategies or name.split()[0] in ("one", *options.strategies)]
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401, PLC0415  (reads DS_ACCELERATOR when imported; forks share it)

    num_weights = num_layers * width * width
    print(f"{machine()}\n\n| way | bytes per weight | seconds | difference |\n| --- | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        worst = 0.0
        for name in names:
            results = run(name, Path(folder), width, num_layers)
            weights, reference = (torch.load(Path(folder) / f"{title}.pt") for title in (name, ONE_PROCESS))
            difference = float((weights - reference).abs().max() / reference.abs().max())
            per_weight = max(result["bytes"] for result in results) / num_weights
            seconds = max(result["seconds"] for result in results)
            worst = max(worst, difference)
            print(f"| {name} | {per_weight:.1f} | {seconds:.2f} | {difference:.0e} |", flush=True)
    return int(worst > TOLERANCE)


def run(name: str, folder: Path, width: int, num_layers: int) -> list[dict[str, float]]:
    """Trains in forks of this process."""
    num_workers = 1 if name == ONE_PROCESS else NUM_WORKERS
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=work, args=(name, folder, rank, num_workers, width, num_layers))
        for rank in range(num_workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"a worker of {name} failed")
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(num_workers)]


def work(name: str, folder: Path, rank: int, num_workers: int, width: int, num_layers: int) -> None:
    """In a fork: trains, and writes memory, time and weights."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_workers), "LOCAL_RANK": str(rank)}
    group = folder / f"{name}-group"
    dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=num_workers)
    with measured() as peak:
        torch.manual_seed(0)
        layers = [torch.nn.Linear(width, width, bias=False) for _ in range(num_layers)]
        model = torch.nn.Sequential(*(layer for item in layers for layer in (item, torch.nn.Tanh())))
        training = WAYS[name](model, folder / name)
        times = []
        for step in range(NUM_STEPS):
            started = time.monotonic()
            inputs = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(step))
            training.update(training.forward(inputs[rank::num_workers]) / BATCH)
            times.append(time.monotonic() - started)
    weights = torch.cat([complete(layer.weight.detach()).flatten() for layer in layers])
    if rank == 0:
        torch.save(weights, folder / f"{name}.pt")
    report = {"bytes": peak.maximum - peak.first, "seconds": sorted(times)[len(times) // 2]}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(report))
    dist.barrier()


def complete(tensor: Any) -> torch.Tensor:
    """Returns all values of a tensor that may be sharded."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """Returns the optimizer of all ways."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)


def compute_loss(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Returns the sum of the losses of the inputs."""
    loss: torch.Tensor = (model(inputs) - inputs).square().sum() / inputs.shape[1]
    return loss


def in_one_process(model: torch.nn.Module, folder: Path) -> Training:
    """AdamW without other workers."""
    del folder
    optimizer = adamw(model.parameters())

    def update(loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return Training(lambda inputs: compute_loss(model, inputs), update)


def with_engine(strategy: Strategy) -> Callable[[torch.nn.Module, Path], Training]:
    """The engine of steps with several workers."""

    def start(model: torch.nn.Module, folder: Path) -> Training:
        if strategy == "fsdp":
            return_freed_memory()
        dumper = HangDumper(folder.with_name(f"{folder.name}-stacks"), dist.get_rank(), 900)
        engine = DistributedEngine(folder, strategy, dumper, map_batches=map_sequentially)
        engine.load_trained(lambda: model, find_units=lambda item: [one for one in item if list(one.parameters())])
        parameters = dict(model.named_parameters())
        optimizer = adamw(engine.register_parameters(parameters).values())

        def update(loss: torch.Tensor) -> None:
            engine.backward(loss)
            engine.clip_grad_norm(parameters, MAX_NORM)
            engine.optimizer_step(optimizer)

        return Training(lambda inputs: engine.forward(lambda: compute_loss(model, inputs), is_last=True), update)

    return start


def with_torch_zero(model: torch.nn.Module, folder: Path) -> Training:
    """ZeRO-1 of torch: DistributedDataParallel and ZeroRedundancyOptimizer."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # noqa: PLC0415  (warns that TorchScript is deprecated)

    del folder
    replicas = Replicas(list(model.parameters()))
    optimizer: Any = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=torch.optim.AdamW, lr=LEARNING_RATE, fused=True
    )

    def update(loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return Training(lambda inputs: replicas(lambda: compute_loss(model, inputs), is_last=True), update)


def with_deepspeed(stage: int) -> Callable[[torch.nn.Module, Path], Training]:
    """ZeRO-1 or ZeRO-2 of DeepSpeed."""

    def start(model: torch.nn.Module, folder: Path) -> Training:
        del folder
        import deepspeed  # noqa: PLC0415  (reads DS_ACCELERATOR when imported)

        config: Mapping[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": MAX_NORM,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET},
        }
        deepspeed.init_distributed(dist_init_required=False)
        engine, *_ = deepspeed.initialize(model=model, optimizer=adamw(model.parameters()), config=config)

        def update(loss: torch.Tensor) -> None:
            engine.backward(loss * dist.get_world_size())  # it takes the mean of the workers
            engine.step()

        return Training(lambda inputs: compute_loss(engine, inputs), update)

    return start


ONE_PROCESS = "one process"
WAYS: dict[str, Callable[[torch.nn.Module, Path], Training]] = {
    ONE_PROCESS: in_one_process,
    "ddp (torch)": with_engine("ddp"),
    "fsdp (torch)": with_engine("fsdp"),
    "zero1 (engine)": with_engine("zero1"),
    "zero1 (torch)": with_torch_zero,
    "zero1 (DeepSpeed)": with_deepspeed(1),
    "zero2 (engine)": with_engine("zero2"),
    "zero2 (DeepSpeed)": with_deepspeed(2),
}


if __name__ == "__main__":
    sys.exit(main())
