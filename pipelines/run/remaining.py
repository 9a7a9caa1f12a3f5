"""How long a run still takes: an estimate from its models and sizes, corrected by the steps that have finished.

The estimate follows the configs of the steps, so it covers any recipe. It is known as soon as the data is sampled.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cluster.errors import StoreError
from cluster.run.events import Event, StepFailed, StepFinished, StepStarted
from cluster.steps.plan import Plan, PlanState
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from pipelines.default_models import PATTERN_TOKENS, STEP_OVERHEAD, cost_of
from pipelines.kinds import KINDS

DATA = "data"
"""Kind of the steps that sample the sets of a task."""
SETS = ("train", "unlabeled", "test")
"""Sets of a task that cost time."""
BYTES_PER_TOKEN = 4.0
"""Of English and Chinese texts, each in its default models."""
BYTES_AROUND_TEXT = 60
"""Of a row of data: its identifier, the names of its fields, and punctuation."""
SHARE_LEFT = 0.05
"""Share of its estimate that a step is expected to take at least, until it has finished."""
MIN_KNOWN_S = 30.0
"""Seconds of finished steps from which their pace corrects the estimate."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of examples of a task, and tokens per text. Without a task, texts are as long as a model reads."""

    train: int = 0
    unlabeled: int = 0
    test: int = 0
    tokens: float = math.inf

    @classmethod
    def of(cls, data: Manifest) -> Sizes:
        """Reads the sizes from the manifest of a data step. Sets that it does not count are empty."""
        train, unlabeled, test = (int(data.result.get(f"num_{name}", 0)) for name in SETS)
        num_bytes = sum(data.files[f"{name}.jsonl"].size for name in SETS if f"{name}.jsonl" in data.files)
        bytes_per_row = num_bytes / max(1, train + unlabeled + test)
        return cls(train, unlabeled, test, max(1.0, (bytes_per_row - BYTES_AROUND_TEXT) / BYTES_PER_TOKEN))


def step_seconds(step: Step, sizes: Sizes) -> float:
    """Estimates the seconds of a step on two cores that it has to itself."""
    config: Any = step.config
    model = next((found for name in ("backbone", "encoder", "student") if (found := getattr(config, name, None))), None)
    if model is None:
        return STEP_OVERHEAD
    has_pattern = hasattr(config, "backbone")
    length: float = min(sizes.tokens + (PATTERN_TOKENS if has_pattern else 0), model.max_length)
    cost = cost_of(model.asset, is_encoder=not has_pattern)
    tokens_read = _num_read(step, sizes) * length
    tokens_trained = _num_trained(step, sizes) * length
    return STEP_OVERHEAD + (tokens_read * cost.reading + tokens_trained * cost.training) / 1000


def _num_read(step: Step, sizes: Sizes) -> int:
    """Returns the number of texts that a step reads without training."""
    if KINDS[step.kind].only_validates:
        return sizes.train
    labels_unlabeled = getattr(step.config, "label_unlabeled", KINDS[step.kind].votes)
    is_member = KINDS[step.kind].votes
    return sizes.test + (sizes.unlabeled if labels_unlabeled else 0) + (sizes.train if is_member else 0)


def _num_trained(step: Step, sizes: Sizes) -> int:
    """Returns the number of texts that a step trains on, in all steps of all its folds."""
    config: Any = step.config
    contrastive = getattr(config, "contrastive", None)
    training = contrastive.training if contrastive else getattr(config, "training", None)
    if training is None:
        return 0
    num_items = sizes.train + (sizes.unlabeled if hasattr(config, "gold_weight") else 0)
    averages_folds = contrastive is not None and contrastive.average_folds
    keeps_one = not averages_folds and not KINDS[step.kind].only_validates
    num_trainings = (getattr(config, "num_folds", None) or 0) + keeps_one
    steps: int = training.num_steps(num_items) * training.batch_size
    return num_trainings * steps


class RemainingTime:
    """Follows the events of a run. `seconds()` is the estimate of what is left.

    Each second of the run counts in equal parts for the steps that run in it. The ratio of these parts to the
    estimates, over all finished steps, corrects the estimates of the others.

    Args:
        planned: The plan of the run.
        store: Where the sizes of its data are.
        clock: Returns seconds.
    """

    def __init__(self, planned: Plan, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._planned = planned
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()  # events and displays have their own threads
        self._left = {item.step.name: item.step for item in planned if item.state is PlanState.RUN}
        self._sizes = {
            name: Sizes.of(manifest)
            for name, manifest in planned.manifests.items()
            if planned.steps[name].kind == DATA and name not in self._left
        }
        """Data step -> its sizes."""
        self._estimates = self._all_estimates()
        self._used = dict.fromkeys(self._left, 0.0)
        """Step -> its part of the time so far."""
        self._running: set[str] = set()
        self._finished_s = self._finished_estimate = 0.0
        self._counted_until = clock()

    def __call__(self, event: Event) -> None:
        """Handles one event."""
        with self._lock:
            match event:
                case StepStarted(step=step):
                    self._count()
                    self._running.add(step)
                case StepFinished(step=step):
                    self._count()
                    self._finish(step)
                case StepFailed(step=step):
                    self._count()
                    self._running.discard(step)

    def seconds(self) -> float | None:
        """Returns the seconds that the run still takes, or None while the size of its data is unknown."""
        with self._lock:
            if not self._left or self._left.keys() - self._estimates.keys():
                return None
            self._count()
            pace = self._finished_s / self._finished_estimate if self._finished_estimate >= MIN_KNOWN_S else 1.0
            expected = {step: self._estimates[step] * pace for step in self._left}
            return sum(max(value - self._used[step], SHARE_LEFT * value) for step, value in expected.items())

    def _count(self) -> None:
        """Divides the time since the last call among the running steps."""
        now = self._clock()
        for step in self._running & self._used.keys():
            self._used[step] += (now - self._counted_until) / len(self._running)
        self._counted_until = now

    def _finish(self, name: str) -> None:
        self._running.discard(name)
        step = self._left.pop(name, None)
        if step is None:
            return
        if name in self._estimates:
            self._finished_s += self._used[name]
            self._finished_estimate += self._estimates[name]
        if step.kind == DATA:
            with suppress(StoreError, OSError):  # then the time that is left stays unknown
                manifest = self._store.lookup(name, self._planned.keys[name].fingerprint)
                if manifest:
                    self._sizes[name] = Sizes.of(manifest)
                    self._estimates = self._all_estimates()

    def _all_estimates(self) -> dict[str, float]:
        """Returns the estimates of the steps whose data is known, and of those that read none."""
        estimates = {}
        for name, step in self._left.items():
            data = [other.name for other in step.upstream() if other.kind == DATA]
            if all(other in self._sizes for other in data):
                estimates[name] = step_seconds(step, self._sizes[data[0]] if data else Sizes())
        return estimates
