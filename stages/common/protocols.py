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
    """Anything that predicts logits."""

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`; logs progress under the name `phase`."""


class Recorder(Protocol):
    """Records curves, figures and tables of a stage. All stages use the same names, so runs can be compared."""

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Records a point of the curve `name`. `step`: the optimizer step, or 0 for a single value."""

    def log_figure(self, name: str, figure: Figure) -> None:
        """Records a matplotlib figure; `name` has no extension."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Records a small table of JSON values; every row has the same keys."""

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        """Reports the progress of the step for the live display; fast enough to call it for every batch.

        Args:
            done: Units of this phase that are done: examples, unless `info` has `examples`.
            total: All units of this phase.
            info: `phase`, its name; `loss` of the last batch; `examples` so far, if `done` counts something else.
        """


class Engine(Protocol):
    """Runs the distributed parts of a stage: in one process here, on many workers under `cluster`.

    All workers run the same stage on the same files. The training loop and the models shard the work among them. All
    workers must call the same methods in the same order.
    """

    rank: int
    world_size: int
    checkpoint_dir: Path | None
    """Folder for checkpoints during training, which survives if the step is killed. If None, nothing is saved."""

    def load_frozen(
        self,
        load_model: Callable[[], Any],
        *,
        bf16: bool,
        largest_weight: Callable[[], int],
        find_units: Callable[[Any], Sequence[Any]],
    ) -> Any:
        """Returns a model of transformers whose weights never change. An engine may spread it over the workers.

        Args:
            load_model: Loads the model.
            bf16: True if its weights are bfloat16, False for float32.
            largest_weight: Returns the number of elements of the largest weight; called if weights are kept on disk.
            find_units: Returns the modules of the model whose weights a worker may gather while they compute.
        """

    def load_trained(self, load_model: Callable[[], Any], *, find_units: Callable[[Any], Sequence[Any]]) -> Any:
        """Returns a model whose weights are trained. An engine may spread it over the workers.

        Args:
            load_model: Loads the model.
            find_units: As in `load_frozen`.
        """

    def register_parameters(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Registers what will be trained, before the first pass, by name.

        Returns:
            What the optimizer of this worker updates: the parameters, or this worker's parts of them.
        """

    def forward(self, compute: Callable[[], Any], *, is_last: bool) -> Any:
        """Returns the scalar tensor that `compute` returns: this worker's part of the loss.

        Args:
            compute: Runs the forward pass.
            is_last: False if more passes follow whose gradients are added up before the update.
        """

    def backward(self, loss: Any) -> None:
        """Runs the backward pass of a tensor of `forward`, and sums the gradients of all workers."""

    def clip_grad_norm(self, parameters: Mapping[str, Any], max_norm: float) -> float:
        """Clips the gradients; returns their norm before clipping.

        Args:
            parameters: Name -> parameter: those of `register_parameters` that are trained in this step.
            max_norm: Maximum norm.
        """

    def optimizer_step(self, optimizer: Any) -> None:
        """Updates the parameters and clears their gradients."""

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """Returns the optimizer's state for a checkpoint; it is complete on the worker with rank 0."""

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Restores a state of `optimizer_state_dict`."""

    def all_reduce_sum(self, tensor: Any) -> Any:
        """Returns the sum of a tensor over all workers."""

    def map_batches(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        """Applies a function to every batch of every source, in parallel; yields the results in order, as a stream.

        Sources, batches, results and the two functions are pickled.

        Args:
            sources: Arguments of `read`.
            read: Returns the batches of a source, in order.
            make_fn: Called once per worker; returns the function.
        """

    def graceful_stop(self) -> AbstractContextManager[Callable[[], bool]]:
        """Defers SIGINT and SIGTERM inside the block. Yields a function that returns True after a stop request, so the
        training loop can save a checkpoint and exit.
        """


class NullRecorder:
    """Records nothing."""

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        del name, value, step

    def log_figure(self, name: str, figure: Figure) -> None:
        del name, figure

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        del name, rows

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        del done, total, info
