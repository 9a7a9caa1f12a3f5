"""The layout of the step graph."""

from __future__ import annotations

from pipelines.report.page.graph import layout, mermaid
from pipelines.report.page.graph_plot import HEIGHT
from tests.support.reports import graph_step


def test_edges_do_not_cross_boxes() -> None:
    data = graph_step("data/films")
    members = [graph_step(f"pet/{name}/0", base=data) for name in "ab"]
    others = [graph_step(f"zero_shot/{name}", base=data) for name in "cdefg"]
    labels = graph_step("soft_labels", parts=tuple(members))
    report = graph_step("report", parts=(labels, *others))
    _, centers, edges = layout([data, *members, *others, labels, report])
    x, y = centers["soft_labels"]
    for start, end in edges:
        (x0, y0), (x1, y1) = centers[start], centers[end]
        if x0 < x < x1:
            assert abs(y0 + (y1 - y0) * (x - x0) / (x1 - x0) - y) > HEIGHT / 2, (start, end)
    highest = max(height for _, height in centers.values())
    assert min(height for _, height in centers.values()) == -highest == -3, "the tallest column is the limit"


def test_mermaid_groups_seeds_and_keeps_names_that_end_in_digits() -> None:
    data = graph_step("data/films")
    steps = [data, *(graph_step(f"pet/1/{seed}", base=data) for seed in (0, 1)), graph_step("probe/2", base=data)]
    lines = mermaid(steps).splitlines()
    assert lines[:4] == ["graph LR", '  data_films["data/films"]', '  pet_1__["pet/1 x 2"]', '  probe_2["probe/2"]']
    assert lines[4:] == ["  data_films --> pet_1__", "  data_films --> probe_2"]
