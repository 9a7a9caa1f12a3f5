"""Runs a step on several workers with Ray Train.

The same stage runs in every worker; the files of rank 0 are the result. A small subclass of Ray's trainer forwards
SIGTERM and SIGINT, so that a graceful stop reaches all workers.

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
from cluster.parallel import nvme_offload
from cluster.parallel.config import ALLOCATOR
from cluster.parallel.engine import DistributedEngine
from cluster.parallel.memory import PARTITIONING
from cluster.parallel.process_state import redirect_output, set_num_threads
from cluster.parallel.worker_signals import HangDumper, install_sigterm_handler, read_dumps
from cluster.steps.step import resolve
from cluster.steps.task_spec import TaskSpec
from cluster.tracking.recorder import BatchRecorder, LogBatch


class _Backend(_TorchBackend):
    """Torch's process group. Installs a handler for SIGTERM in the main thread of each worker."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(install_sigterm_handler, backend_config.checkpoint_dir)


@dataclass
class GroupConfig(TorchConfig):
    """The process group of a step, with the checkpoint folder that its workers share."""

    checkpoint_dir: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See `BackendConfig`."""
        return _Backend


class Trainer(TorchTrainer):
    """A trainer that leaves SIGINT to the watchdog of its process.

    Args:
        on_start: Called when the controller of the workers runs, with a function that ends it and them.
    """

    def __init__(self, *arguments: Any, on_start: Callable[[Callable[[], None]], None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_start = on_start

    def _register_sigint_handler(self, controller: Any) -> None:
        super()._register_sigint_handler(controller)
        handler = signal.getsignal(signal.SIGINT)

        def abort() -> None:
            # Ray's handler exits the process, which still has to report the reason.
            with suppress(SystemExit):
                if callable(handler):
                    handler(signal.SIGINT, None)

        self._on_start(abort)


@dataclass(frozen=True, slots=True)
class Job:
    """The task of each worker.

    Args:
        spec: The step.
        inputs: The inputs of its function.
        out: Folder for the files of rank 0, which all workers can reach.
        checkpoint_dir: The checkpoint folder, which all workers share.
        log: Path of the log file.
        send: Sends what rank 0 records to the driver.
    """

    spec: TaskSpec
    inputs: Any
    out: Path
    checkpoint_dir: Path
    log: str
    send: Callable[[LogBatch], bool]


def run(job: Job, recorder: BatchRecorder, guard: Callable[[Callable[[], None]], None]) -> Any:
    """Runs a step on its workers. Returns the result of the stage.

    Args:
        job: What each worker runs.
        recorder: Gets the metrics of rank 0.
        guard: Called when the workers run, with a function that ends them.

    Raises:
        WorkersLostError: a worker or its machine was lost. Any other error is the one of the first worker that failed.
    """
    resources = job.spec.resources
    has_gpus = resources.gpus > 0
    gathers_in_memory = PARTITIONING[resources.strategy].weights and not has_gpus
    trainer = Trainer(
        _work,
        train_loop_config={"job": job},
        torch_config=GroupConfig(
            backend="nccl" if has_gpus else "gloo",
            timeout_s=round(resources.timeout_s),
            checkpoint_dir=str(job.checkpoint_dir),
        ),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=has_gpus,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if has_gpus else {})},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(job.checkpoint_dir / "ray"),
            worker_runtime_env={"env_vars": ALLOCATOR} if gathers_in_memory else None,
        ),
        on_start=guard,
    )
    try:
        result, metrics = trainer.fit().return_value
    except Exception as error:
        raise _cause(error, read_dumps(_dumps_folder(job), _work.__name__)) from error
    finally:
        if resources.nvme_path:  # after the failure of one worker the others are killed and leave their files
            nvme_offload.remove_abandoned(Path(resources.nvme_path), job.checkpoint_dir)
    recorder.last.update(metrics)
    return result


def _work(settings: dict[str, Any]) -> Any:
    """In a worker: runs the stage. Only the files and records of rank 0 are kept."""
    job: Job = settings["job"]
    resources = job.spec.resources
    set_num_threads(resources.cpus)
    rank = dist.get_rank()
    assert resources.strategy != "stream", "such steps have no process group"
    hang_dumper = HangDumper(_dumps_folder(job), rank, resources.timeout_s)
    engine = DistributedEngine(
        job.checkpoint_dir,
        resources.strategy,
        hang_dumper,
        map_batches=resolve(job.spec.engine)().map_batches,
        nvme_path=resources.nvme_path,
    )
    with (
        closing(hang_dumper),
        closing(engine),
        tempfile.TemporaryDirectory() as unused,
        redirect_output(Path(job.log)),
    ):
        with BatchRecorder(job.spec.step, _discard if rank else job.send) as recorder:
            out = Path(unused) if rank else job.out
            result = resolve(job.spec.run)(job.spec.config.load(), job.inputs, out, recorder, engine)
        dist.barrier()  # no worker leaves the group while others still compute
        return None if rank else (result, dict(recorder.last))


def _dumps_folder(job: Job) -> Path:
    return job.checkpoint_dir / "stacks"


def _discard(batch: LogBatch) -> bool:
    del batch
    return True


def _cause(error: BaseException, dumps: str) -> BaseException:
    """Returns the exception of a stage if it has a remedy, else a WorkersLostError.

    Args:
        error: The exception of Ray Train.
        dumps: The innermost calls of the workers, if some of them hung.
    """
    if hasattr(error, "remedy"):
        return error
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        cause = getattr(failures[rank], "cause", None) or failures[rank].__cause__ or failures[rank]
        if hasattr(cause, "remedy"):
            return cause
    lines = (f"worker {rank}: {str(failures[rank]).strip().splitlines()[-1]}" for rank in sorted(failures))
    return WorkersLostError("\n".join(filter(None, ["; ".join(lines) or str(error), dumps])))
