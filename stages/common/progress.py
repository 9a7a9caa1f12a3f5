"""Reports the progress of a training loop. It is outside the code digests: nothing here can change a result."""

from __future__ import annotations

import time

from stages.common.protocols import Recorder

PROGRESS_INTERVAL_S = 0.2


class ProgressReporter:
    """Logs the progress of a training run, at most once per `PROGRESS_INTERVAL_S` seconds.

    The first report, made on construction, starts the clock of the throughput.

    Args:
        recorder: Receives the reports.
        num_done: Optimizer steps that a checkpoint restored.
        num_steps: Optimizer steps of the training run.
    """

    def __init__(self, recorder: Recorder, num_done: int, num_steps: int) -> None:
        self._recorder, self._num_steps = recorder, num_steps
        self._num_examples, self._logged_s = 0, time.monotonic()
        recorder.log_progress(num_done, num_steps, phase="training", examples=0)

    def update(self, num_done: int, loss: float, num_examples: int, *, is_over: bool) -> None:
        """Reports one optimizer step with `num_examples` examples; the last one is always logged."""
        self._num_examples += num_examples
        if is_over or time.monotonic() - self._logged_s > PROGRESS_INTERVAL_S:
            self._logged_s = time.monotonic()
            self._recorder.log_progress(
                num_done, self._num_steps, phase="training", loss=loss, examples=self._num_examples
            )
