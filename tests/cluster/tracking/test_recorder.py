"""How fast a step goes, by a clock of the test's own."""

from __future__ import annotations

import pytest

from cluster.tracking.recorder import WINDOW_S, BatchRecorder, LogBatch, ThroughputMeter


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_word_of_a_phase_has_no_pace_and_the_next_ones_have(clock: Clock) -> None:
    pace = ThroughputMeter(clock)
    assert pace.update("training", 0, 100, 0) == {}
    clock.now += 2
    assert pace.update("training", 10, 100, 80) == {"examples_per_s": 40.0, "eta_s": 18.0}
    assert pace.update("test set", 8, 64, 8) == {}, "another phase has another pace"
    clock.now += 1
    assert pace.update("test set", 40, 64, 40) == {"examples_per_s": 32.0, "eta_s": 0.8}
    assert pace.update("test set", 8, 64, 8) == {}, "the next test set begins anew"


def test_the_pace_is_that_of_the_last_seconds(clock: Clock) -> None:
    pace = ThroughputMeter(clock)
    for done, step_s in enumerate([1.0] * 60 + [0.25] * 200, start=1):
        clock.now += step_s
        found = pace.update("training", done, 1000, 8 * done)
    assert found["examples_per_s"] == pytest.approx(32.0)
    assert found["eta_s"] == pytest.approx(740 * 0.25)


def test_a_loop_that_tells_of_every_batch_keeps_few_moments(clock: Clock) -> None:
    pace = ThroughputMeter(clock)
    for done in range(100_000):
        clock.now += 0.001
        pace.update("labelling", done, 100_000, done)
    assert len(pace._kept) < 11 * WINDOW_S


def test_the_recorder_adds_the_pace_and_keeps_the_count_to_itself() -> None:
    import time

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
