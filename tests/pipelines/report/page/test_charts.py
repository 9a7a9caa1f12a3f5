"""The drawings of the page: line charts and the step graph."""

from __future__ import annotations

import pytest

from pipelines.report.page import charts
from tests.support.page_checks import StrictPage
from tests.support.reports import graph_step


def test_line_goes_from_corner_to_corner() -> None:
    drawing = str(charts.line_chart([[(0, 0), (10, 5)]], x_label="<x>", y_label="y", x=(0, 10), y=(0, 5)))
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    low, high = charts.HEIGHT - charts.BOTTOM, charts.TOP
    assert f'points="{left}.0,{low}.0 {right}.0,{high}.0"' in drawing
    assert "&lt;x&gt;" in drawing and "<x>" not in drawing
    assert StrictPage(drawing).all("svg")[0]["role"] == "img"


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, 0.0), (2, 0.0)], [(1, -3.0), (2, 5000.0)]])
def test_line_chart_stays_within_its_frame(points: list[tuple[int, float]]) -> None:
    page = StrictPage(str(charts.line_chart([points], x_label="x", y_label="y")))
    (line,) = page.all("polyline")
    positions = [tuple(map(float, pair.split(","))) for pair in str(line["points"]).split()]
    assert len(positions) == len(points)
    assert all(charts.LEFT <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in positions)


def test_graph_has_a_box_per_group_with_its_seconds() -> None:
    data = graph_step("data/films")
    students = [graph_step(f"distill/small/{seed}", base=data) for seed in (0, 1)]
    seconds = {"distill/small/0": 3.0, "distill/small/1": 5.0, "data/films": 0.2}
    page = StrictPage(str(charts.graph_svg([data, *students], seconds)))
    assert [box["class"] for box in page.all("rect")] == ["k-data", "k-distill"]
    assert {"data/films", "0 s", "distill/small", "2 × 4 s"} <= set(page.words)
    assert sum(item.get("class") == "edge" for item in page.all("path")) == 1
    width, height = (float(page.all("svg")[0][name] or 0) for name in ("width", "height"))
    for box in page.all("rect"):
        assert 0 <= float(box["x"] or 0) <= width - charts.BOX_WIDTH
        assert 0 <= float(box["y"] or 0) <= height - charts.BOX_HEIGHT
