"""Compares the memory of real workers with the plan, and shows which fraction of the weights each worker keeps.

    python benchmarks/cluster/memory.py [prompt] [lora] [full] [STRATEGY ...] [--quick]
    python benchmarks/cluster/memory.py --ray [--base]

Tunes a prompt, LoRA or all weights of a new Llama with 68 million float32 weights on the CPU. Samples every 20 ms the
pages of each worker that belong to no file, and shows the peak of the largest worker. Workers are forks of this process
that use the engine of steps with several workers; the base of planned values is the peak of such a fork with a model
that has almost no weights. A full run exits with 1 if a difference is larger than LIMIT.

--quick: only a prompt with fsdp. --ray: workers of Ray Train; --base: with a model that has almost no weights.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist

from benchmarks.machine import machine
from cluster.parallel.engine import DistributedEngine
from cluster.parallel.memory import PARTITIONING, MemoryEstimate
from cluster.parallel.worker_signals import HangDumper
from cluster.run.ray_session import session
from cluster.steps.functions import resolve
from cluster.steps.step import Step, Strategy
from stages.common.engine import InProcessEngine, map_sequentially
from stages.common.protocols import NullRecorder
from stages.pet import stage as pet
from stages.prompt_tuning import stage as prompt_tuning
from stages.splits import stage as splits
from tests.support.memory_helpers import (
    Measured,
    Tuned,
    measure,
    read_measured,
    splits_config,
    tuning_step,
    write_case,
)
from tests.support.memory_steps import return_freed_memory

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.15
TIMEOUT_S = 900
CASES: tuple[tuple[Tuned, Strategy, int], ...] = (
    ("prompt", "fsdp", 2),
    ("prompt", "single", 1),
    ("prompt", "ddp", 2),
    ("prompt", "zero2", 2),
    ("prompt", "zero3", 2),
    ("prompt", "zero3_offload", 2),
    ("lora", "single", 1),
    ("lora", "ddp", 2),
    ("lora", "fsdp", 2),
    ("lora", "zero3", 2),
    ("full", "single", 1),
    ("full", "ddp", 2),
    ("full", "zero1", 2),
    ("full", "zero2", 2),
    ("full", "fsdp", 2),
)
BASE_OF: dict[Strategy, Strategy] = {"zero1": "ddp", "zero2": "ddp", "zero3_offload": "zero3"}
"""Strategies whose workers load the same libraries as those of another one."""
BASE_CASES: tuple[tuple[Tuned, Strategy, int], ...] = (
    ("prompt", "single", 1),
    ("prompt", "ddp", 2),
    ("prompt", "fsdp", 2),
    ("prompt", "zero3", 2),
)


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="what is trained (prompt, lora, full), and strategies; default: all")
    parser.add_argument("--quick", action="store_true", help="measure only a prompt with fsdp on two workers")
    parser.add_argument("--ray", action="store_true", help="measure workers of Ray Train instead of bare processes")
    parser.add_argument("--base", action="store_true", help="with --ray: use a model with almost no weights")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ["CLOZELINE_CHECKPOINT_EVERY_S"] = "0"  # after every step, so that each case has one
    torch.set_num_threads(1)  # threads of the parent would not exist in its forks
    cases = CASES[:1] if options.quick else BASE_CASES if options.base else CASES
    words = set(options.words)
    tuned_words = words & set(get_args(Tuned)) or set(get_args(Tuned))
    strategies = words & set(get_args(Strategy)) or set(get_args(Strategy))
    cases = tuple(case for case in cases if case[0] in tuned_words and case[1] in strategies)
    with tempfile.TemporaryDirectory() as name, session(num_cpus=4) if options.ray else nullcontext():
        folder = Path(name)
        print(f"{machine()}\n")
        write_case(folder, *((1, 16) if options.base else ()))
        bases = {} if options.ray else measure_bases(folder / "tiny", [strategy for _, strategy, _ in cases])
        write_data(folder)
        print("| trained | strategy | workers | planned | peak | difference | weights kept | seconds |")
        print("| --- | --- | --: | --: | --: | --: | --: | --: |")
        details, worst = [], 0.0
        for tuned, strategy, workers in cases:
            run = measure if options.ray else measure_processes
            measured = run(folder, strategy, workers, tuned)
            peak, estimate = max(measured.peaks), measured.estimate
            if not options.ray:  # the base of the estimate is that of a worker of Ray
                estimate = replace(estimate, base=bases[strategy])
            difference = estimate.total / peak - 1
            worst = max(worst, abs(difference))
            kept = max(measured.kept) / max(measured.total, 1)
            print(
                f"| {tuned} | {strategy} | {workers} | {estimate.total / 2**20:.0f} | {peak / 2**20:.0f} | "
                f"{difference:+.0%} | {kept:.0%} | {measured.seconds:.1f} |",
                flush=True,
            )
            details.append(f"{tuned}, {strategy} x {workers}: {in_mib(estimate)}")
        print("", *details, f"\nlargest difference {worst:.0%}, limit {LIMIT:.0%}", sep="\n")
    return int(worst > LIMIT and not options.quick)


def measure_bases(folder: Path, strategies: Sequence[Strategy]) -> dict[Strategy, int]:
    """Returns strategy -> the peak of a worker with a model that has almost no weights."""
    folder.mkdir()
    write_case(folder, 1, 16)
    write_data(folder)
    peaks = {
        strategy: max(measure_processes(folder, strategy, 1 if strategy == "single" else 2, "prompt").peaks)
        for strategy in sorted({BASE_OF.get(strategy, strategy) for strategy in strategies})
    }
    return {strategy: peaks[BASE_OF.get(strategy, strategy)] for strategy in strategies}


def write_data(folder: Path) -> None:
    """Writes the files of the split stage."""
    (folder / "data").mkdir()
    splits.run(splits_config(folder), splits.Inputs(), folder / "data", NullRecorder(), InProcessEngine())


def measure_processes(root: Path, strategy: Strategy, workers: int, tuned: Tuned) -> Measured:
    """Runs the step in forks of this process, which have imported everything, with the same engine as under Ray."""
    step = tuning_step(root, strategy, workers, tuned)
    folder = root / f"{tuned}-{strategy}-{workers}"
    (folder / "checkpoints").mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(step, root, folder, rank)) for rank in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"a worker of {tuned}, {strategy} failed")
    return read_measured(root, step, folder / "out-0")


def work(step: Step, root: Path, folder: Path, rank: int) -> None:
    """In a fork: runs the step as one of its workers."""
    workers = step.resources.min_workers
    strategy: Any = step.resources.strategy
    out = folder / f"out-{rank}"
    out.mkdir()
    engine: Any = InProcessEngine(folder / "checkpoints")
    if strategy != "single":
        if PARTITIONING[strategy].weights:
            return_freed_memory()
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(workers), "LOCAL_RANK": str(rank)}
        dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=workers)
        dumper = HangDumper(folder / "stacks", rank, TIMEOUT_S)
        engine = DistributedEngine(folder / "checkpoints", strategy, dumper, map_batches=map_sequentially)
    is_prompt = step.run.endswith(":run")
    inputs = (prompt_tuning if is_prompt else pet).Inputs(data=root / "data")
    resolve(step.run)(step.config, inputs, out, NullRecorder(), engine)


def in_mib(estimate: MemoryEstimate) -> str:
    """Returns the parts of an estimate."""
    parts = {item.name: getattr(estimate, item.name) / 2**20 for item in fields(estimate)}
    return ", ".join(f"{name} {value:.0f}" for name, value in parts.items() if value)


if __name__ == "__main__":
    sys.exit(main())
