"""Throughput and remaining time, measured with a clock that the test controls."""

from __future__ import annotations

import time

import pytest

from cluster.tracking.recorder import WINDOW_S, BatchRecorder, LogBatch, ThroughputMeter


class Clock:
    """Monotonic seconds that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_meter_reports_from_the_second_update_of_a_phase(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    assert meter.update("training", 0, 100, 0) == {}
    clock.now += 2
    assert meter.update("training", 10, 100, 80) == {"examples_per_s": 40.0, "eta_s": 18.0}
    assert meter.update("test set", 8, 64, 8) == {}, "each phase is measured separately"
    clock.now += 1
    assert meter.update("test set", 40, 64, 40) == {"examples_per_s": 32.0, "eta_s": 0.8}
    assert meter.update("test set", 8, 64, 8) == {}, "the next test set starts a new phase"


def test_meter_averages_over_the_last_seconds(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    for done, step_s in enumerate([1.0] * 60 + [0.25] * 200, start=1):
        clock.now += step_s
        result = meter.update("training", done, 1000, 8 * done)
    assert result["examples_per_s"] == pytest.approx(32.0)
    assert result["eta_s"] == pytest.approx(740 * 0.25)


def test_meter_keeps_few_samples(clock: Clock) -> None:
    meter = ThroughputMeter(clock)
    for done in range(100_000):
        clock.now += 0.001
        meter.update("labeling", done, 100_000, done)
    assert len(meter._samples) < 11 * WINDOW_S


def test_recorder_adds_throughput_to_progress() -> None:
    sent: list[LogBatch] = []
    recorder = BatchRecorder("baseline/0", lambda batch: bool(sent.append(batch)) or True)
    recorder.log_progress(0, 10, phase="training", examples=0)
    time.sleep(0.01)
    recorder.log_progress(5, 10, phase="training", loss=0.5, examples=40)
    recorder.flush()
    ((done, total, info),) = [batch.progress for batch in sent if batch.progress]
    assert (done, total) == (5, 10)
    assert set(info) == {"phase", "loss", "examples_per_s", "eta_s"}
    assert float(info["examples_per_s"]) > 0
