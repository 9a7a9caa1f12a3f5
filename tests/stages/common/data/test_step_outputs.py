"""Tests of logits and losses that a step writes."""

from __future__ import annotations

from pathlib import Path

from stages.common.data.step_outputs import downsample, read_losses, write_losses


def test_write_losses_skips_a_single_loss(tmp_path: Path) -> None:
    write_losses(tmp_path, [0.5, 0.25])
    assert read_losses(tmp_path) == [0.5, 0.25]
    empty = tmp_path / "other"
    empty.mkdir()
    write_losses(empty, [0.5])
    assert read_losses(empty) == [] and not list(empty.iterdir())


def test_downsample_keeps_length_and_mean() -> None:
    losses = [float(number) for number in range(125)]
    points = downsample(losses, 60)
    assert len(points) <= 60
    assert points[0] == (3, 1.0) and points[-1] == (125, 123.5)
    assert downsample([1.0, 2.0]) == [(1, 1.0), (2, 2.0)]
    assert downsample([]) == []
