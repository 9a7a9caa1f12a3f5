"""Dynamic batching: the model thread predicts waiting texts in batches, so many small requests cost as little as one
large request.

A batch starts with the oldest waiting text. It runs when it is full, or when that text has waited `max_wait_s`. An idle
service therefore responds quickly, and a busy one fills its batches, because texts arrive while it computes.

Prometheus metrics of a service. Each service has its own registry, so two services in one process do not mix.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from pipelines.serving.predictors import Predictor

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters, gauges and histograms. Unknown paths count as `other`, so clients cannot create time series."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        prefix, own = "clozeline", self.registry
        self.requests = Counter("requests", "Requests answered.", ("path", "code"), prefix, registry=own)
        self.request_seconds = Histogram(
            "request_seconds",
            "Seconds from a /predict request to its response.",
            (),
            prefix,
            registry=own,
            buckets=SECONDS,
        )
        self.texts = Counter("texts", "Texts with a prediction.", (), prefix, registry=own)
        self.task_texts = Counter("task_texts", "Texts with a prediction.", ("task",), prefix, registry=own)
        self.limited_texts = Counter(
            "limited_texts", "Texts rejected by the limits of their task.", ("task",), prefix, registry=own
        )
        self.loaded_prompts = Gauge("loaded_prompts", "Prompts in memory.", (), prefix, registry=own)
        self.failures = Counter("failed_texts", "Texts on which the model failed.", (), prefix, registry=own)
        self.batch_texts = Histogram("batch_texts", "Texts per batch.", (), prefix, registry=own, buckets=SIZES)
        self.batch_seconds = Histogram(
            "batch_seconds", "Seconds that the model takes per batch.", (), prefix, registry=own, buckets=SECONDS
        )
        self.queue_texts = Gauge("queue_texts", "Texts that wait for the model.", (), prefix, registry=own)
        self.ready = Gauge("ready", "1 when the model is loaded.", (), prefix, registry=own)

    def text(self) -> bytes:
        """Returns all metrics in the Prometheus text format."""
        return generate_latest(self.registry)


Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)


class QueueFullError(Exception):
    """The request would exceed the maximum number of waiting texts."""


class ModelFailedError(Exception):
    """The model raised an error on a text of the request. The log has the traceback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchingConfig:
    """Limits of batches and of the queue."""

    max_batch: int = 64
    """Texts per batch."""
    max_wait_s: float = 0.005
    """Seconds that a text waits for the batch to fill."""
    max_queue: int = 4096
    """Texts that may wait."""


@dataclass(slots=True, eq=False)
class _Request:
    """The texts of one request, and the predictions for them so far."""

    items: Sequence[Any]
    future: asyncio.Future[list[dict[str, Any]]]
    loop: asyncio.AbstractEventLoop
    predictions: dict[int, dict[str, Any]] = field(default_factory=dict)
    is_done: bool = False

    def add(self, index: int, prediction: dict[str, Any]) -> None:
        self.predictions[index] = prediction
        if len(self.predictions) == len(self.items):
            self._finish(lambda: self.future.set_result([self.predictions[index] for index in range(len(self.items))]))

    def fail(self, error: Exception) -> None:
        self._finish(lambda: self.future.set_exception(error))

    def _finish(self, set_outcome: Callable[[], None]) -> None:
        if self.is_done:
            return
        self.is_done = True

        def set_unless_canceled() -> None:
            if not self.future.done():
                set_outcome()

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(set_unless_canceled)


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: _Request
    index: int
    since: float


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A function of the model that runs between two batches."""

    function: Callable[[Predictor[Any]], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def run(self, predictor: Predictor[Any]) -> None:
        try:
            result = self.function(predictor)
        except Exception as error:  # the caller raises it
            self._finish(self.future.set_exception, error)
        else:
            self._finish(self.future.set_result, result)

    def _finish(self, set_outcome: Callable[[Any], None], outcome: Any) -> None:
        def set_unless_canceled() -> None:
            if not self.future.done():
                set_outcome(outcome)

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(set_unless_canceled)


class DynamicBatcher:
    """Loads the model in a separate thread and predicts there, one batch at a time."""

    def __init__(self, load: Callable[[], Predictor[Any]], batching: BatchingConfig, metrics: Metrics) -> None:
        self.predictor: Predictor[Any] | None = None
        """None until the model is loaded."""
        self.error: Exception | None = None
        """The error that loading raised, if any."""
        self._load = load
        self._batching = batching
        self._metrics = metrics
        self._waiting: deque[_Waiting | _Job] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self, on_loaded: Callable[[], None], on_failed: Callable[[], None]) -> None:
        """Starts loading. Calls one of the two functions in the model thread when loading has ended."""
        self._callbacks = (on_loaded, on_failed)
        self._thread.start()

    def stop(self) -> None:
        """Predicts what waits, then ends the thread. Does not wait for a model that is still loading."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self.predictor is not None:
            self._thread.join()

    async def predict(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Returns [n] predictions, in the order of `items`.

        Raises:
            QueueFullError: the queue has no room for all of them.
            ModelFailedError: the model raised an error on one of them.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        request = _Request(items, loop.create_future(), loop)
        now = time.monotonic()
        with self._changed:
            if len(self._waiting) + len(items) > self._batching.max_queue:
                raise QueueFullError
            self._waiting.extend(_Waiting(request, index, now) for index in range(len(items)))
            self._metrics.queue_texts.set(len(self._waiting))
            self._changed.notify_all()
        return await request.future

    async def run(self, function: Callable[[Predictor[Any]], Result]) -> Result:
        """Runs a function in the model thread, after the texts that wait already. Raises what the function raises."""
        loop = asyncio.get_running_loop()
        job = _Job(function, loop.create_future(), loop)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        result: Result = await job.future
        return result

    def _work(self) -> None:
        on_loaded, on_failed = self._callbacks
        try:
            predictor = self._load()
            # The first forward pass is slow, and it shows whether the model works.
            predictor.predict([predictor.parse_row(predictor.example(), "0")])
        except Exception as error:  # `serve_until_stopped` raises it
            self.error = error
            on_failed()
            return
        self.predictor = predictor
        self._metrics.ready.set(1)
        on_loaded()
        while work := self._next_work():
            if isinstance(work, _Job):
                work.run(predictor)
            else:
                self._predict(predictor, work)

    def _next_work(self) -> list[_Waiting] | _Job:
        """Waits for the next batch or job. Returns an empty list when the queue is stopped and nothing waits."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._is_stopping)
                if not self._waiting:
                    break
                first = self._waiting[0]
                if isinstance(first, _Job):
                    self._waiting.popleft()
                    return first
                until = first.since + self._batching.max_wait_s
                self._changed.wait_for(
                    lambda: len(self._waiting) >= self._batching.max_batch or self._is_stopping,
                    timeout=max(0.0, until - time.monotonic()),
                )
                while self._waiting and len(batch) < self._batching.max_batch:
                    item = self._waiting[0]
                    if isinstance(item, _Job):  # it comes after this batch
                        break
                    self._waiting.popleft()
                    if not item.request.is_done and not item.request.future.cancelled():
                        batch.append(item)
            self._metrics.queue_texts.set(len(self._waiting))
        return batch

    def _predict(self, predictor: Predictor[Any], batch: list[_Waiting]) -> None:
        start = time.monotonic()
        try:
            predictions = predictor.predict([item.request.items[item.index] for item in batch])
        except Exception as error:
            if len(batch) == 1:
                _LOG.exception("the model failed on a text")
                self._metrics.failures.inc()
                batch[0].request.fail(ModelFailedError(f"{type(error).__name__}: {error}"))
                return
            for item in batch:  # one text must not fail the other requests
                self._predict(predictor, [item])
            return
        self._metrics.batch_seconds.observe(time.monotonic() - start)
        self._metrics.batch_texts.observe(len(batch))
        self._metrics.texts.inc(len(batch))
        for item, prediction in zip(batch, predictions, strict=True):
            item.request.add(item.index, prediction)
