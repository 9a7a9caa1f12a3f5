"""Dynamic batching: the model's thread answers waiting texts in batches.

Many small requests therefore cost as little as one large one. A batch starts with the oldest waiting text. It runs when
it is full, or when that text has waited `max_wait_s`. An idle service is therefore fast, and a busy one fills its
batches, since texts arrive while it computes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.serving.predictors import Predictor
from pipelines.serving.service.metrics import Metrics

_LOG = logging.getLogger(__name__)


class QueueFullError(Exception):
    """More texts wait than the limit allows."""


class ModelFailedError(Exception):
    """The model raised an error on a text of a request. The log has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchingConfig:
    """`max_batch` texts at once; `max_wait_s` seconds that a text waits for others; `max_queue` texts that may wait."""

    max_batch: int = 64
    max_wait_s: float = 0.005
    max_queue: int = 4096


@dataclass(slots=True, eq=False)
class _Request:
    """The texts of one request, and what has been answered of them."""

    items: Sequence[Any]
    future: asyncio.Future[list[dict[str, Any]]]
    loop: asyncio.AbstractEventLoop
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    is_over: bool = False

    def answered(self, place: int, answer: dict[str, Any]) -> None:
        self.answers[place] = answer
        if len(self.answers) == len(self.items) and not self.is_over:
            self.is_over = True
            self._tell(lambda: self.future.set_result([self.answers[place] for place in range(len(self.items))]))

    def failed(self, error: Exception) -> None:
        if not self.is_over:
            self.is_over = True
            self._tell(lambda: self.future.set_exception(error))

    def _tell(self, call: Callable[[], None]) -> None:
        # whoever asked may have been cancelled meanwhile, or its loop closed: nobody is left to be told
        def once() -> None:
            if not self.future.done():
                call()

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(once)


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: _Request
    place: int
    since: float


class DynamicBatcher:
    """Loads the model in a thread of its own, and answers with it there: one batch at a time."""

    def __init__(self, load: Callable[[], Predictor[Any]], batching: BatchingConfig, metrics: Metrics) -> None:
        self.predictor: Predictor[Any] | None = None
        """None until it is loaded."""
        self.error: Exception | None = None
        """Why it could not be loaded."""
        self._load = load
        self._batching = batching
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self, on_loaded: Callable[[], None], on_failed: Callable[[], None]) -> None:
        """Begins to load; one of the two is called, in the model's thread, when that has ended."""
        self._told = (on_loaded, on_failed)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread when nothing waits any more. A model that is still being loaded is not waited for."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self.predictor is not None:
            self._thread.join()

    async def answer(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """[n] answers, in order.

        Raises:
            QueueFullError: more would wait than may.
            ModelFailedError: on one of the texts.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        request = _Request(items, loop.create_future(), loop)
        now = time.monotonic()
        with self._changed:
            if len(self._waiting) + len(items) > self._batching.max_queue:
                raise QueueFullError
            self._waiting.extend(_Waiting(request, place, now) for place in range(len(items)))
            self._metrics.queue_texts.set(len(self._waiting))
            self._changed.notify_all()
        return await request.future

    def _work(self) -> None:
        on_loaded, on_failed = self._told
        try:
            labeller = self._load()
            labeller.predict(
                [labeller.parse_row(labeller.example(), "0")]
            )  # the first pass is slow, and may be the last
        except Exception as error:  # told in the terminal, by whoever started us
            self.error = error
            on_failed()
            return
        self.predictor = labeller
        self._metrics.ready.set(1)
        on_loaded()
        while batch := self._next():
            self._answer(labeller, batch)

    def _next(self) -> list[_Waiting]:
        """The next batch; empty when the queue is stopped and nothing waits."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._is_stopping)
                if not self._waiting:
                    break
                until = self._waiting[0].since + self._batching.max_wait_s
                self._changed.wait_for(
                    lambda: len(self._waiting) >= self._batching.max_batch or self._is_stopping,
                    timeout=max(0.0, until - time.monotonic()),
                )
                while self._waiting and len(batch) < self._batching.max_batch:
                    item = self._waiting.popleft()
                    if not item.request.is_over and not item.request.future.cancelled():
                        batch.append(item)
            self._metrics.queue_texts.set(len(self._waiting))
        return batch

    def _answer(self, predictor: Predictor[Any], batch: list[_Waiting]) -> None:
        begun = time.monotonic()
        try:
            answers = predictor.predict([item.request.items[item.place] for item in batch])
        except Exception as error:
            if len(batch) == 1:
                _LOG.exception("the model failed on a text")
                self._metrics.failures.inc()
                batch[0].request.failed(ModelFailedError(f"{type(error).__name__}: {error}"))
                return
            for item in batch:  # the others' requests must not suffer from one text
                self._answer(predictor, [item])
            return
        self._metrics.batch_seconds.observe(time.monotonic() - begun)
        self._metrics.batch_texts.observe(len(batch))
        self._metrics.texts.inc(len(batch))
        for item, answer in zip(batch, answers, strict=True):
            item.request.answered(item.place, answer)
