"""A step on many workers: the same stage runs in each, under Ray Train; the files of the first are the result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import WorkersLost
from cluster.step import resolve
from cluster.tracking.recorder import Batch, BatchRecorder
from cluster.worker import Order, captured, set_threads
from cluster.workers import stacks, swap
from cluster.workers.memory import SPREADS
from cluster.workers.zero import ALLOCATOR

if TYPE_CHECKING:
    from cluster.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class Job:
    """What each worker runs. All reach the folders `out` and `work`; `send` takes what the first worker records."""

    order: Order
    inputs: Any
    out: Path
    work: Path
    log: str
    send: Callable[[Batch], bool]


def run(job: Job, recorder: BatchRecorder, watchdog: Watchdog) -> Any:
    """Runs a step on its workers; returns the stage's result. `watchdog` guards this process, and so all of them.

    Raises:
        WorkersLost: a worker or its machine was lost; else what the stage raised on the worker that failed first.
    """
    from ray.train import RunConfig, ScalingConfig

    from cluster.workers.ray_train import GroupConfig, Trainer

    def guard(abort: Callable[[], None]) -> None:
        watchdog.abort = abort
        watchdog.listen()

    resources = job.order.resources
    with_gpus = resources.gpus > 0
    gathers_in_memory = SPREADS[resources.strategy].weights and not with_gpus
    trainer = Trainer(
        _work,
        train_loop_config={"job": job},
        torch_config=GroupConfig(
            backend="nccl" if with_gpus else "gloo", timeout_s=round(resources.timeout_s), work=str(job.work)
        ),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=with_gpus,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if with_gpus else {})},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(job.work / "ray"),
            worker_runtime_env={"env_vars": ALLOCATOR} if gathers_in_memory else None,
        ),
        on_start=guard,
    )
    try:
        found = trainer.fit().return_value
    except Exception as error:
        raise _cause(error, stacks.written(_stacks_of(job), _work.__name__)) from error
    finally:
        if resources.offload_to:  # where one worker fails, the others are killed, and leave their files
            swap.remove_abandoned(Path(resources.offload_to), job.work)
    result, metrics = found
    recorder.last.update(metrics)
    return result


def _work(settings: dict[str, Any]) -> Any:
    """In a worker: the stage; only the first worker's files and records are kept."""
    import torch.distributed as dist

    from cluster.workers.shared_engine import SharedEngine

    job: Job = settings["job"]
    set_threads(job.order.resources.cpus)
    rank = dist.get_rank()
    strategy = job.order.resources.strategy
    assert strategy != "stream", "such steps have no group of workers"
    stack = stacks.Stack(_stacks_of(job), rank, job.order.resources.timeout_s)
    engine = SharedEngine(job.work, strategy, stack, job.order.resources.offload_to)
    with closing(stack), closing(engine), tempfile.TemporaryDirectory() as elsewhere, captured(Path(job.log)):
        send = _forget if rank else job.send
        with BatchRecorder(job.order.step, send) as recorder:
            out = Path(elsewhere) if rank else job.out
            result = resolve(job.order.run)(job.order.config, job.inputs, out, recorder, engine)
        dist.barrier()  # nobody leaves a group that others still compute with
        return None if rank else (result, dict(recorder.last))


def _stacks_of(job: Job) -> Path:
    return job.work / "stacks"


def _forget(batch: Batch) -> bool:
    del batch
    return True


def _cause(error: BaseException, stood: str) -> BaseException:
    """What a stage raised on some worker, if it brings a remedy; else that workers were lost.

    Args:
        error: What Ray Train says.
        stood: Where the workers stood, if some of them hung.
    """
    if hasattr(error, "remedy"):
        return error
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        cause = getattr(failures[rank], "cause", None) or failures[rank].__cause__ or failures[rank]
        if hasattr(cause, "remedy"):
            return cause
    text = "; ".join(f"worker {rank}: {str(failures[rank]).strip().splitlines()[-1]}" for rank in sorted(failures))
    return WorkersLost("\n".join(filter(None, [text or str(error), stood])))
