"""What a stage needs from its caller: a recorder for metrics, an engine for devices and workers, and logit models.

Stages see these protocols only. `NullRecorder` and `InProcessEngine` (stages/common/engine.py) let every stage run,
and be tested, as a plain function without Ray and MLflow. The recorder and the engine of `cluster` satisfy the same
protocols without importing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stages.common.examples import Example

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


class LogitModel(Protocol):
    """Anything that gives logits."""

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""


class Recorder(Protocol):
    """Where a stage's curves, pictures and tables go. Names are alike in all stages, so that runs compare."""

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """One point of the curve `name`; `step` is the optimizer step (or 0 for a single figure)."""

    def log_figure(self, name: str, figure: Figure) -> None:
        """A matplotlib picture; `name` has no extension."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A small table of JSON values; every row has the same keys."""

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        """How far the step is, for the live display; cheap enough to be called for every batch.

        Args:
            done: What is done of this phase: examples, unless `examples` says how many.
            total: All of it.
            info: `phase`, what is being done; `loss` of the last batch; `examples` so far, where `done` counts others.
        """


class Engine(Protocol):
    """Where tensors live and gradients meet: one process here, many workers under the cluster.

    All workers run the same stage on the same files; the loop and whoever labels texts share out the work. What is
    called here is called by every worker, in the same order.
    """

    rank: int
    world_size: int
    checkpoint_dir: Path | None
    """Folder for mid-training checkpoints that outlives a killed step; None: no checkpoints."""

    def load_frozen(self, load_model: Callable[[], Any], *, bf16: bool, largest_weight: Callable[[], int]) -> Any:
        """A model of transformers whose weights never change, which an engine may spread over the workers.

        Args:
            load_model: Reads the model.
            bf16: Whether its weights are bfloat16, else float32.
            largest_weight: Tells how many numbers the largest weight has; asked where weights shall lie on a disk.
        """

    def register_parameters(self, parameters: Sequence[Any]) -> None:
        """Says what will be trained, before the first pass: an engine may share out who updates what."""

    def backward(self, loss: Any) -> None:
        """Back-propagates a scalar tensor: this worker's part of the sum."""

    def clip_grad_norm(self, parameters: Sequence[Any], max_norm: float) -> float:
        """Adds up the gradients of all workers and clips them; returns their norm before."""

    def optimizer_step(self, optimizer: Any) -> None:
        """Updates the parameters and clears their gradients."""

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state for a checkpoint: whole on the worker of rank 0."""

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Puts such a state back."""

    def all_reduce_sum(self, tensor: Any) -> Any:
        """The sum of a tensor over all workers."""

    def map_batches(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        """What a function makes of every batch of every source, in order; nothing holds all of them.

        Args:
            sources: What `read` takes. They, batches and answers are pickled, as are the two functions.
            read: A source's batches, in order.
            make_fn: Called once a worker; returns the function.
        """

    def graceful_stop(self) -> AbstractContextManager[Callable[[], bool]]:
        """Within it a wish to end, as of Ctrl-C or of a machine that is taken away, ends nothing at once: the function
        that it yields tells of the wish, so that a training can save what it has, and leave.
        """


class NullRecorder:
    """Records nothing: the default for tests and one-off calls."""

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        del name, value, step

    def log_figure(self, name: str, figure: Figure) -> None:
        del name, figure

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        del name, rows

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        del done, total, info
