"""What is planned is what workers take: two of ZeRO-3 on processors, measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.run.ray_session import Capacity
from tests.support.memory_helpers import measure, write_case


def test_two_workers_of_zero3_take_what_is_planned(ray_session: Capacity, tmp_path: Path) -> None:
    write_case(tmp_path)
    found = measure(tmp_path, "zero3", 2)
    for peak, kept in zip(found.peaks, found.kept, strict=True):
        assert peak == pytest.approx(found.need.total, rel=0.15)
        assert found.whole / 2 <= kept <= found.whole / 2 + 1000, "parts are padded to equal lengths"
    assert found.need.weights * 2 == found.whole * 4
