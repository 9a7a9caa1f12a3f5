"""Measures how many texts per second a classifier reads. Like the duration of a step, it is no part of a result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from stages.common.data.step_outputs import TEXTS_PER_SECOND
from stages.common.examples import Example
from stages.common.protocols import LogitModel, NullRecorder, Recorder

MAX_TEXTS = 64
"""Maximum number of texts that are read: enough for two digits, and seconds for the largest encoder."""


def log_texts_per_second(model: LogitModel, test_set: Sequence[Example], recorder: Recorder) -> None:
    """Records how many of the first test examples a trained model reads per second with one thread.

    Machines and steps have different numbers of threads, so one thread is used everywhere.

    Args:
        model: The model, which has read the test set before, so that nothing is loaded or compiled now.
        test_set: The test set.
        recorder: Gets the metric; none for an empty set.
    """
    texts = test_set[:MAX_TEXTS]
    if not texts:
        return
    with _one_thread():
        start = time.perf_counter()
        model.predict(texts, NullRecorder(), "")
        seconds = time.perf_counter() - start
    recorder.log_metric(TEXTS_PER_SECOND, round(len(texts) / max(seconds, 1e-6), 1))


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(num_threads)
