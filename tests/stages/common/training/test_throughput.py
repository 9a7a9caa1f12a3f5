"""Tests of the measurement of texts per second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stages.common.data.step_outputs import TEXTS_PER_SECOND
from stages.common.examples import Example
from stages.common.protocols import Recorder
from stages.common.training.throughput import MAX_TEXTS, log_texts_per_second
from tests.support.stage_runs import Kept


class ThreadCounter:
    """A model that keeps the number of threads and of texts of its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> np.ndarray:
        self.calls.append((torch.get_num_threads(), len(examples)))
        return np.zeros((len(examples), 2))


def test_the_first_texts_are_read_with_one_thread() -> None:
    examples = [Example(str(row), {"text": "x"}, "a") for row in range(100)]
    before, model, recorder = torch.get_num_threads(), ThreadCounter(), Kept()
    torch.set_num_threads(2)
    try:
        log_texts_per_second(model, examples, recorder)
        assert (model.calls, torch.get_num_threads()) == ([(1, MAX_TEXTS)], 2)
    finally:
        torch.set_num_threads(before)
    assert recorder.metrics[TEXTS_PER_SECOND] > 0


def test_an_empty_test_set_is_not_measured() -> None:
    model, recorder = ThreadCounter(), Kept()
    log_texts_per_second(model, [], recorder)
    assert (model.calls, recorder.metrics) == ([], {})
