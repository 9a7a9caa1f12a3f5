"""Runs a step on several workers with Ray Train.

The same stage runs in every worker; the files of rank 0 are the result. `cluster.parallel.workplace` says where they
are. A small subclass of Ray's trainer forwards SIGTERM and SIGINT, so that a graceful stop reaches all workers.

Imports Ray and torch. Only `cluster.run.step_worker` imports it, when a step has several workers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend

from cluster.errors import WorkersLostError
from cluster.parallel import nvme_offload
from cluster.parallel.config import ALLOCATOR
from cluster.parallel.engine import DistributedEngine
from cluster.parallel.host_link import Report, StepFolder, StopState
from cluster.parallel.memory import PARTITIONING
from cluster.parallel.process_state import set_num_threads
from cluster.parallel.worker_signals import HangDumper, install_sigterm_handler, read_dumps
from cluster.parallel.workplace import StepFiles, Workplace, host_workplace, shared_workplace
from cluster.steps.functions import resolve
from cluster.steps.task_spec import TaskSpec, build_inputs
from cluster.store.base import Store
from cluster.store.host_files import HostFiles
from cluster.store.location import open_store
from cluster.store.manifest import FileEntry
from cluster.store.upstream import Upstream
from cluster.tracking.recorder import BatchRecorder, LogBatch

SEND_TIMEOUT_S = 10.0


class _Backend(_TorchBackend):
    """Torch's process group. Installs a handler for SIGTERM in the main thread of each worker."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(install_sigterm_handler)


@dataclass
class GroupConfig(TorchConfig):
    """The process group of a step."""

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
        upstream: The results that it reads.
        files: The files of the process of the step.
        send: Sends what rank 0 records to the driver.
        step_folder: The actor `StepFolder`, if workers do not reach these files.
    """

    spec: TaskSpec
    upstream: Upstream
    files: StepFiles
    send: Callable[[LogBatch], bool]
    step_folder: Any = None


@dataclass(frozen=True, slots=True)
class Finished:
    """What the stage returned, the metrics of rank 0, and the files that rank 0 has uploaded."""

    result: Any
    metrics: Mapping[str, float]
    uploaded: Mapping[str, FileEntry]


def run(job: Job, recorder: BatchRecorder, guard: Callable[[Callable[[], None]], None]) -> Finished:
    """Runs a step on its workers. Returns what rank 0 returned.

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
    with _step_folder(job) as step_folder:
        trainer = Trainer(
            _work,
            train_loop_config={"job": replace(job, step_folder=step_folder)},
            torch_config=GroupConfig(backend="nccl" if has_gpus else "gloo", timeout_s=round(resources.timeout_s)),
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=has_gpus,
                resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if has_gpus else {})},
            ),
            run_config=RunConfig(
                name="train",
                storage_path=str(job.files.checkpoint_dir / "ray"),
                worker_runtime_env={"env_vars": ALLOCATOR} if gathers_in_memory else None,
            ),
            on_start=guard,
        )
        try:
            finished: Finished = trainer.fit().return_value
        except Exception as error:
            raise _cause(error, read_dumps(job.files.dumps, _work.__name__)) from error
        finally:
            if resources.nvme_path:  # after the failure of one worker the others are killed and leave their files
                nvme_offload.remove_abandoned(Path(resources.nvme_path), job.spec.lease.token)
    recorder.last.update(finished.metrics)
    return finished


@contextmanager
def _step_folder(job: Job) -> Iterator[Any]:
    """Yields an actor on this machine to which workers report; None if they reach the folder of this process."""
    if _host_files(open_store(job.spec.store), job.spec) is None:
        yield None
        return
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor = (
        ray.remote(StepFolder)
        .options(num_cpus=0, scheduling_strategy=here)
        .remote(job.files.log, job.files.dumps, job.files.checkpoint_dir)
    )
    try:
        yield actor
    finally:
        ray.kill(actor)


def _work(settings: dict[str, Any]) -> Finished | None:
    """In a worker: runs the stage. Only the files and records of rank 0 are kept."""
    job: Job = settings["job"]
    spec, resources = job.spec, job.spec.resources
    set_num_threads(resources.cpus)
    rank = dist.get_rank()
    assert resources.strategy != "stream", "such steps have no process group"
    function = resolve(spec.run)
    with _workplace(job) as place, closing(HangDumper(place.dumps, rank, resources.timeout_s)) as hang_dumper:
        inputs = build_inputs(function, spec.step, spec.roles, job.upstream.folders())
        engine = DistributedEngine(
            place.checkpoint_dir,
            resources.strategy,
            hang_dumper,
            map_batches=resolve(spec.engine)().map_batches,
            nvme_path=resources.nvme_path,
            offload_owner=spec.lease.token,
        )
        with closing(engine), BatchRecorder(spec.step, _discard if rank else job.send) as recorder:
            result = function(spec.config.load(), inputs, place.out, recorder, engine)
        dist.barrier()  # no worker leaves the group while others still compute
    return None if rank else Finished(result, dict(recorder.last), place.uploaded)


def _workplace(job: Job) -> AbstractContextManager[Workplace]:
    host = _host_files(open_store(job.spec.store), job.spec)
    if host is None:
        return shared_workplace(job.files, job.spec.store)
    return host_workplace(host, partial(_report, job.step_folder), is_first=get_context().get_local_rank() == 0)


def _host_files(store: Store, spec: TaskSpec) -> HostFiles | None:
    return store.host_files(spec.step, spec.key.fingerprint, spec.lease.token)


def _report(step_folder: Any, report: Report) -> StopState | None:
    """Sends a report to the machine of the step's process. Returns None if it does not answer."""
    try:
        state: StopState = ray.get(step_folder.receive.remote(report), timeout=SEND_TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError):
        return None
    return state


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
