"""Workers of ZeRO-3 on CPUs need as much memory as estimated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.memory_helpers import measure, write_case

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.usefixtures("ray_session")
def test_zero3_workers_need_the_estimated_memory(tmp_path: Path) -> None:
    write_case(tmp_path)
    measured = measure(tmp_path, "zero3", 2)
    for peak, kept in zip(measured.peaks, measured.kept, strict=True):
        assert peak == pytest.approx(measured.estimate.total, rel=0.15)
        assert measured.total / 2 <= kept <= measured.total / 2 + 1000, "parts are padded to equal lengths"
    assert measured.estimate.weights * 2 == measured.total * 4
