"""Reports the progress of a training loop. It is outside the code digests: nothing here can change a result."""

from __future__ import annotations

import time

from stages.common.protocols import Recorder

REPORT_EVERY_S = 0.2


class ProgressReporter:
    """Logs the progress of a training run, at most once every `REPORT_EVERY_S` seconds.

    The first report, made on construction, starts the clock of the throughput.

    Args:
        recorder: Receives the reports.
        done: Optimizer steps that a checkpoint restored.
        total: Optimizer steps of the training run.
    """

    def __init__(self, recorder: Recorder, done: int, total: int) -> None:
        self._recorder, self._total = recorder, total
        self._num_examples, self._reported_at = 0, time.monotonic()
        recorder.log_progress(done, total, phase="training", examples=0)

    def update(self, done: int, loss: float, num_examples: int, *, at_once: bool) -> None:
        """Reports one optimizer step with `num_examples` examples; `at_once` ignores the interval."""
        self._num_examples += num_examples
        if at_once or time.monotonic() - self._reported_at > REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            self._recorder.log_progress(done, self._total, phase="training", loss=loss, examples=self._num_examples)
