"""Tests of checkpoints: a resumed run ends with the numbers of an uninterrupted one."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from stages.common.training import checkpoints
from tests.support.line_problem import DevEvaluations, Line, config, fit, stopping


@pytest.mark.parametrize("average_last", [0.0, 0.5])
@pytest.mark.parametrize("stop_at", [1, 3, 7, 11])
def test_resumed_run_equals_an_uninterrupted_run(
    stop_at: int, average_last: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "DEFAULT_INTERVAL_S", 0.0)
    settings = config(lr_scheduler="cosine", warmup_ratio=0.2, average_last=average_last)
    uninterrupted = Line(dropout=0.3)
    expected = fit(uninterrupted, settings)

    interrupted = Line(dropout=0.3)

    def interrupted_loss(part: list[int], batch: list[int]) -> Tensor:
        if len(interrupted.seen) == stop_at:
            raise KeyboardInterrupt
        return interrupted.loss(part, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, settings, work=tmp_path, loss=interrupted_loss)
    resumed = Line(dropout=0.3)
    actual = fit(resumed, settings, work=tmp_path)
    assert actual == expected
    assert len(resumed.seen) == 12 - stop_at, "finished steps are not repeated"
    assert torch.equal(resumed.weight, uninterrupted.weight)
    assert torch.equal(resumed.bias, uninterrupted.bias)


def test_partial_checkpoint_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt.part").write_bytes(b"half")
    uninterrupted, resumed = Line(), Line()
    assert fit(resumed, config(), work=tmp_path) == fit(uninterrupted, config())


def test_no_folder_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "DEFAULT_INTERVAL_S", 0.0)
    monkeypatch.chdir(tmp_path)
    fit(Line(), config())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not what torch writes", b"PK\x03\x04 the beginning of a zip file"])
def test_damaged_checkpoint_is_ignored(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    uninterrupted, resumed = Line(), Line()
    assert fit(resumed, config(), work=tmp_path) == fit(uninterrupted, config())


def test_environment_variable_sets_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CHECKPOINT_EVERY_S", "0")
    fit(Line(), config(), work=tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("average_last", [0.0, 0.5])
def test_finished_training_is_not_repeated(
    average_last: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage may be killed minutes after training."""
    monkeypatch.setattr(checkpoints, "DEFAULT_INTERVAL_S", 0.0)
    first, repeated, settings = Line(), Line(), config(average_last=average_last)
    expected = fit(first, settings, work=tmp_path)
    assert fit(repeated, settings, work=tmp_path) == expected
    assert repeated.seen == []
    assert torch.equal(repeated.weight, first.weight)


@pytest.mark.parametrize(("pause_s", "is_kept"), [(7, True), (100, False)])
def test_end_of_a_long_training_is_saved(
    pause_s: float, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve steps of one second each: the end is four seconds after the checkpoint of step 8."""
    monkeypatch.setattr(checkpoints, "DEFAULT_INTERVAL_S", pause_s)
    seconds = itertools.count()
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    first, repeated = Line(), Line()
    expected = fit(first, config(), work=tmp_path)
    assert (tmp_path / "checkpoint.pt").exists() is is_kept
    assert fit(repeated, config(), work=tmp_path) == expected
    assert len(repeated.seen) == (0 if is_kept else 12)
    assert torch.equal(repeated.weight, first.weight)


def test_early_stopped_training_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "DEFAULT_INTERVAL_S", 0.0)
    first, repeated = Line(), Line()
    evaluations = DevEvaluations((0.5, 1.0), (0.8, 0.9), (0.8, 0.95), (0.7, 0.1))
    expected = fit(first, stopping(), work=tmp_path, validate=evaluations)
    assert fit(repeated, stopping(), work=tmp_path, validate=DevEvaluations()) == expected
    assert repeated.seen == []
    assert torch.equal(repeated.weight, first.weight), "the parameters of the best evaluation"


@pytest.mark.parametrize("stop_at", [3, 5, 7])
def test_early_stopping_resumes_from_a_checkpoint(
    stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "DEFAULT_INTERVAL_S", 0.0)
    results = [(0.5, 1.0), (0.8, 0.9), (0.8, 0.95), (0.7, 0.1)]
    uninterrupted, interrupted, resumed = Line(0.3), Line(0.3), Line(0.3)
    expected = fit(uninterrupted, stopping(), validate=DevEvaluations(*results))

    def interrupted_loss(part: list[int], batch: list[int]) -> Tensor:
        if len(interrupted.seen) == stop_at:
            raise KeyboardInterrupt
        return interrupted.loss(part, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, stopping(), work=tmp_path, loss=interrupted_loss, validate=DevEvaluations(*results))
    actual = fit(resumed, stopping(), work=tmp_path, validate=DevEvaluations(*results, skip=stop_at // 2))
    assert actual == expected
    assert torch.equal(resumed.weight, uninterrupted.weight)
