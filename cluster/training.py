"""A step on many workers: the same stage runs in each, under Ray Train; the files of the first are the result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import WorkersLost
from cluster.recorder import Batch, BatchRecorder
from cluster.worker import Order, captured, set_threads

TIMEOUT_S = 600
"""Seconds in which all workers must come to the same point; one that does not ends the step, which is tried again."""


@dataclass(frozen=True, slots=True)
class Job:
    """What each worker runs. All reach the folders `out` and `work`; `send` takes what the first worker records."""

    order: Order
    inputs: Any
    out: Path
    work: Path
    log: str
    send: Callable[[Batch], bool]


def run(job: Job, recorder: BatchRecorder) -> Any:
    """Runs a step on its workers; returns the stage's result.

    Raises:
        WorkersLost: a worker or its machine was lost; else what the stage raised on the worker that failed first.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = job.order.resources
    with_gpus = resources.gpus > 0
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if with_gpus else "gloo", timeout_s=TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=with_gpus,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if with_gpus else {})},
        ),
        run_config=RunConfig(name="train", storage_path=str(job.work / "ray")),
    )
    try:
        found = trainer.fit().return_value
    except Exception as error:
        raise _cause(error) from error
    result, metrics = found
    recorder.last.update(metrics)
    return result


def _work(settings: dict[str, Any]) -> Any:
    """In a worker: the stage; only the first worker's files and records are kept."""
    import torch.distributed as dist

    from cluster.shared_engine import SharedEngine

    job: Job = settings["job"]
    set_threads(job.order.resources.cpus)
    engine = SharedEngine(job.work, job.order.resources.strategy)
    with tempfile.TemporaryDirectory() as elsewhere, captured(Path(job.log)):
        is_first = engine.rank == 0
        send = job.send if is_first else _forget
        with BatchRecorder(job.order.step, send) as recorder:
            out = job.out if is_first else Path(elsewhere)
            result = job.order.fn(job.order.config, job.inputs, out, recorder, engine)
        dist.barrier()  # nobody leaves a group that others still compute with
        return (result, dict(recorder.last)) if is_first else None


def _forget(batch: Batch) -> bool:
    del batch
    return True


def _cause(error: BaseException) -> BaseException:
    """What went wrong in the first worker that failed."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        cause = getattr(failures[rank], "cause", None) or failures[rank].__cause__ or failures[rank]
        if hasattr(cause, "remedy"):
            return cause
    text = "; ".join(f"worker {rank}: {str(failures[rank]).strip().splitlines()[-1]}" for rank in sorted(failures))
    return WorkersLost(text or str(error))
