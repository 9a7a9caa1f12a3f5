"""One of two workers that compute the gradients of all losses: `gradient_ranks.py RANK GROUP_FILE FOLDERS`.

FOLDERS is a JSON object, family -> folder of a backbone. Prints a line of JSON per case: the problem, the strategy, the
size of the micro-batches, and the largest differences of gradient, norm and loss from those of one process. Then it
trains with several strategies in turn, and prints the largest differences of weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[3]))

from cluster.parallel.engine import DistributedEngine
from cluster.parallel.worker_signals import HangDumper
from cluster.steps.step import Strategy
from stages.common.engine import InProcessEngine, map_sequentially
from stages.common.models.backbones.partitioned import is_sharded
from tests.support.gradient_problems import PROBLEMS, float64
from tests.support.gradients import gradient, train_weights

EVERYWHERE = ("ddp", "fsdp")
OF_SOME = ("zero1", "zero2")
SOME = ("PET, auxiliary", "tagger", "distillation")
MICRO_BATCHES = (None, 3)
"""A batch of 7: with None one worker has four items and the other one three; with 3 the second pass of one has none."""


RESUMED = ("PET, causal", "baseline")
STRATEGIES_IN_TURN: tuple[tuple[Strategy, int], ...] = (("fsdp", 2), ("zero1", 2), ("fsdp", 1), ("zero2", 0))
"""Strategies, and the optimizer steps after which they stop; 0: at the end. The last three steps are averaged."""


class Case(NamedTuple):
    """A problem, the strategy, and the size of the micro-batches."""

    problem: str
    strategy: str
    micro_batch_size: int | None


CASES = [
    Case(name, strategy, size)
    for name in PROBLEMS
    for strategy in (*EVERYWHERE, *(OF_SOME if name in SOME else ()))
    for size in MICRO_BATCHES
]


def main(rank: int, group: Path, folders: Mapping[str, str]) -> None:
    """Computes all cases; every worker prints its differences."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    dumper = HangDumper(group.with_name("stacks"), rank, 100)
    with float64():
        for name, (family, build) in PROBLEMS.items():
            expected = gradient(build(Path(folders[family]), InProcessEngine()), None)
            for strategy in dict.fromkeys(case.strategy for case in CASES if case.problem == name):
                strategy_name: Any = strategy
                engine = DistributedEngine(group.parent, strategy_name, dumper, map_batches=map_sequentially)
                problem = build(Path(folders[family]), engine)
                engine.checkpoint_dir = None
                for size in MICRO_BATCHES:
                    actual = gradient(problem, size, engine)
                    values = actual.values
                    if strategy in OF_SOME:
                        dist.all_reduce(values)
                    report = {
                        "case": Case(name, strategy, size),
                        "gradient": float((values - expected.values).abs().max()),
                        "norm": abs(actual.norm - float(expected.values.norm())),
                        "loss": abs(actual.loss - expected.loss),
                        "sharded": any(map(is_sharded, problem.parameters.values())),
                    }
                    sys.stdout.write(json.dumps(report) + "\n")
        for name in RESUMED:
            sys.stdout.write(json.dumps({"resumed": name, "weights": resumed(name, group.parent, folders)}) + "\n")
    dumper.close()
    dist.barrier()
    dist.destroy_process_group()


def resumed(name: str, folder: Path, folders: Mapping[str, str]) -> float:
    """Trains with three strategies, each of which continues the training of the one before.

    Returns:
        The largest difference of a weight from that of one uninterrupted process.
    """
    family, build = PROBLEMS[name]
    expected = train_weights(build(Path(folders[family]), InProcessEngine()), InProcessEngine())
    checkpoints = folder / f"checkpoints-{PROBLEMS[name][0]}"
    checkpoints.mkdir(exist_ok=True)
    dumper = HangDumper(folder / "stacks", dist.get_rank(), 100)
    weights = None
    for strategy, stop_after in STRATEGIES_IN_TURN:
        engine = DistributedEngine(checkpoints, strategy, dumper, map_batches=map_sequentially)
        weights = train_weights(build(Path(folders[family]), engine), engine, stop_after=stop_after)
        assert (weights is None) == (stop_after > 0)
    assert weights is not None and expected is not None
    return float((weights - expected).abs().max())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
