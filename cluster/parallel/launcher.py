"""Runs a step on several workers with Ray Train.

The same stage runs in every worker; the files of the first worker are the result. A small subclass of Ray's trainer
forwards SIGTERM and SIGINT, so that a graceful stop reaches all workers.

Imports Ray and torch. Only `cluster.run.step_worker` imports it, when a step has several workers.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend

from cluster.errors import WorkersLostError
from cluster.parallel import nvme_offload, worker_signals
from cluster.parallel.config import ALLOCATOR
from cluster.parallel.engine import DistributedEngine
from cluster.parallel.memory import PARTITIONING
from cluster.parallel.process import redirect_output, set_num_threads
from cluster.parallel.worker_signals import install_sigterm_handler
from cluster.steps.step import resolve
from cluster.steps.task_spec import TaskSpec
from cluster.tracking.recorder import BatchRecorder, LogBatch


class _Backend(_TorchBackend):
    """Torch's process group, and an ear for SIGTERM: stages run in threads, where Python installs no handlers."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(install_sigterm_handler, backend_config.work)


@dataclass
class GroupConfig(TorchConfig):
    """The process group of a step. `work`: its folder."""

    checkpoint_dir: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See `BackendConfig`."""
        return _Backend


class Trainer(TorchTrainer):
    """A trainer that leaves SIGINT to those who guard its process.

    Args:
        on_start: Called when the controller of the workers is there, with a function that ends it and them.
    """

    def __init__(self, *arguments: Any, on_start: Callable[[Callable[[], None]], None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_start = on_start

    def _register_sigint_handler(self, controller: Any) -> None:
        super()._register_sigint_handler(controller)
        handler = signal.getsignal(signal.SIGINT)

        def abort() -> None:
            # Ray's handler exits when all is ended, and here somebody still wants to say why
            with suppress(SystemExit):
                if callable(handler):
                    handler(signal.SIGINT, None)

        self._on_start(abort)


@dataclass(frozen=True, slots=True)
class Job:
    """What each worker runs. All reach the folders `out` and `work`; `send` takes what the first worker records."""

    order: TaskSpec
    inputs: Any
    out: Path
    checkpoint_dir: Path
    log: str
    send: Callable[[LogBatch], bool]


def run(job: Job, recorder: BatchRecorder, guard: Callable[[Callable[[], None]], None]) -> Any:
    """Runs a step on its workers; returns the stage's result.

    Args:
        job: What each worker runs.
        recorder: Gets the metrics of the first worker.
        guard: Called once the workers run, with a function that ends them.

    Raises:
        WorkersLost: a worker or its machine was lost; else what the stage raised on the worker that failed first.
    """
    resources = job.order.resources
    with_gpus = resources.gpus > 0
    gathers_in_memory = PARTITIONING[resources.strategy].weights and not with_gpus
    trainer = Trainer(
        _work,
        train_loop_config={"job": job},
        torch_config=GroupConfig(
            backend="nccl" if with_gpus else "gloo", timeout_s=round(resources.timeout_s), work=str(job.checkpoint_dir)
        ),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=with_gpus,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if with_gpus else {})},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(job.checkpoint_dir / "ray"),
            worker_runtime_env={"env_vars": ALLOCATOR} if gathers_in_memory else None,
        ),
        on_start=guard,
    )
    try:
        found = trainer.fit().return_value
    except Exception as error:
        raise _cause(error, worker_signals.read_dumps(_dumps_folder(job), _work.__name__)) from error
    finally:
        if resources.nvme_path:  # where one worker fails, the others are killed, and leave their files
            nvme_offload.remove_abandoned(Path(resources.nvme_path), job.checkpoint_dir)
    result, metrics = found
    recorder.last.update(metrics)
    return result


def _work(settings: dict[str, Any]) -> Any:
    """In a worker: the stage; only the first worker's files and records are kept."""

    job: Job = settings["job"]
    set_num_threads(job.order.resources.cpus)
    rank = dist.get_rank()
    strategy = job.order.resources.strategy
    assert strategy != "stream", "such steps have no group of workers"
    stack = worker_signals.HangDumper(_dumps_folder(job), rank, job.order.resources.timeout_s)
    engine = DistributedEngine(job.checkpoint_dir, strategy, stack, job.order.resources.nvme_path)
    with closing(stack), closing(engine), tempfile.TemporaryDirectory() as elsewhere, redirect_output(Path(job.log)):
        send = _forget if rank else job.send
        with BatchRecorder(job.order.step, send) as recorder:
            out = Path(elsewhere) if rank else job.out
            result = resolve(job.order.run)(job.order.config, job.inputs, out, recorder, engine)
        dist.barrier()  # nobody leaves a group that others still compute with
        return None if rank else (result, dict(recorder.last))


def _dumps_folder(job: Job) -> Path:
    return job.checkpoint_dir / "stacks"


def _forget(batch: LogBatch) -> bool:
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
    return WorkersLostError("\n".join(filter(None, [text or str(error), stood])))
