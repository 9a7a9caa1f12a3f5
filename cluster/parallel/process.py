"""The process of a step: its engine for one worker, its output and its number of threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.parallel.worker_signals import StopRequest


class InProcessEngine:
    """The engine of a step in one process, with a folder for its checkpoints. See `stages.common.protocols.Engine`."""

    def __init__(self, checkpoint_dir: Path) -> None:
        self.rank = 0
        self.world_size = 1
        self.checkpoint_dir: Path | None = checkpoint_dir

    def load_frozen(self, load_model: Callable[[], Any], *, bf16: bool, largest_weight: Callable[[], int]) -> Any:
        """The model as it is read."""
        del bf16, largest_weight
        return load_model()

    def register_parameters(self, parameters: Sequence[Any]) -> None:
        """Nobody to share with."""
        del parameters

    def backward(self, loss: Any) -> None:
        """Back-propagates a scalar tensor."""
        loss.backward()

    def clip_grad_norm(self, parameters: Sequence[Any], max_norm: float) -> float:
        """Clips the gradients; returns their norm before."""
        import torch

        return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))

    def optimizer_step(self, optimizer: Any) -> None:
        """Updates the parameters and clears their gradients."""
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state."""
        return dict(optimizer.state_dict())

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Puts the optimizer's state back."""
        optimizer.load_state_dict(state)

    def all_reduce_sum(self, tensor: Any) -> Any:
        """The tensor itself: there is one worker."""
        return tensor

    def map_batches(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        """What the function makes of every batch, in this process."""
        return map_sequentially(sources, read, make_fn)

    def graceful_stop(self) -> AbstractContextManager[Callable[[], bool]]:
        """Until its end the watchdog asks first."""
        assert self.checkpoint_dir is not None
        return StopRequest(self.checkpoint_dir).graceful_stop()


def map_sequentially(
    sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
) -> Iterator[Any]:
    """What a function makes of every batch of every source, in this process."""
    if sources:
        function = make_fn()
        for source in sources:
            yield from map(function, read(source))


@contextmanager
def redirect_output(log: Path) -> Iterator[None]:
    """Sends all that this process prints, its libraries in C included, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            # What a full disk does not take is lost, and the step is not.
            with suppress(OSError):
                stream.flush()
        for descriptor, original in enumerate(kept, 1):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(target)


def set_num_threads(cpus: float) -> None:
    """Sums in another order give other last digits, so the number of threads is the step's own on every machine."""
    threads = int(max(1, cpus))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # A worker that ran another step has read the variables already.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
