"""The page of a report: self-contained, readable on a phone, and with all parts of the report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.kinds import KINDS
from pipelines.palette import DARK_GRAY, GRAY
from pipelines.report.page import charts, html, writer
from tests.support.page_checks import StrictPage
from tests.support.reports import RUN, graph_step, report_on, write_predictions


def test_each_kind_with_a_color_has_it_in_bars_and_in_the_graph(page: str) -> None:
    colored = {name: kind for name, kind in KINDS.items() if kind.color not in (GRAY, DARK_GRAY)}
    assert [kind.row for kind in colored.values() if kind.row and not re.search(rf"\.fill\.{kind.row}\b", page)] == []
    assert [name for name in colored if not re.search(rf"rect\.k-{name}\b", page)] == []


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The page of a small run whose recipe has special characters in its name."""
    write_predictions(tmp_path, "zero_shot/review", [1] * 10 + [0] * 10)
    write_predictions(tmp_path, "pet/review/0", [1] * 15 + [0] * 5, losses=[0.9, 0.5, 0.2])
    write_predictions(tmp_path, "distill/small/0", [1] * 16 + [0] * 4, losses=[0.8, 0.4])
    write_predictions(tmp_path, "distill/small/1", [1] * 12 + [0] * 8, losses=[0.7, 0.3])
    name = "<films & more>"
    result = report_on(tmp_path, "zero_shot/review", "pet/review/0", "distill/small/0", "distill/small/1", recipe=name)
    run = {**RUN, "versions": {"torch": "2.9"}, "commit": "abc123"}
    report = writer.build_report(name, result, {"distill/small/0": 2.0}, run)
    data = graph_step("data/films")
    steps = [data, graph_step("distill/small/0", base=data), graph_step("distill/small/1", base=data)]
    details = json.loads((tmp_path / "report/details.json").read_text())
    graph = charts.graph_svg(steps, {"distill/small/0": 2.0})
    writer.write_report(report, tmp_path / "report/leaderboard.png", tmp_path / "pages", details, graph)
    return (tmp_path / "pages/report.html").read_text()


def test_page_is_self_contained(page: str) -> None:
    parsed = StrictPage(page)
    assert not parsed.all("script") and not parsed.all("iframe") and not parsed.all("img")
    links = [attrs.get(key) for _, attrs, _ in parsed.tags for key in ("src", "href", "xlink:href") if key in attrs]
    assert links == ["data:,"], "the icon, so that browsers request none"
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {"#tip"}


def test_page_fits_phones_and_dark_mode(page: str) -> None:
    parsed = StrictPage(page)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in parsed.all("meta")
    assert "@media (prefers-color-scheme: dark)" in page
    wide = [parents for tag, attrs, parents in parsed.tags if tag == "table" or attrs.get("class") == "graph"]
    assert len(wide) >= 3
    assert all("div" in parents for parents in wide)
    boxes = [attrs for attrs in parsed.all("div") if attrs.get("class") == "scroll"]
    assert len(boxes) == len(wide), "each has its own scroll box"
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes), "keys can scroll it"


def test_colors_of_light_and_dark_mode_have_the_same_names(page: str) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]
    names = [set(re.findall(r"(--[a-z]+):", part)) for part in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--[a-z]+)\)", page)) - {"--fraction", "--own"} <= names[0]


def test_names_are_escaped(page: str) -> None:
    assert "<films" not in page
    assert any("<films & more>" in word for word in StrictPage(page).words)


def test_bars_show_mean_and_deviation(page: str) -> None:
    spans = StrictPage(page).all("span")
    fills = {str(span["class"]): span["style"] for span in spans if str(span.get("class")).startswith("fill")}
    assert fills == {"fill zero-shot": "width: 50.0%", "fill sub-model": "width: 75.0%", "fill student": "width: 70.0%"}
    (error,) = [span["style"] for span in spans if span.get("class") == "error"]
    assert error == "left: 55.86%; width: 28.28%", "70 ± 14.14"


def test_page_has_suggestions_versions_and_curves(page: str) -> None:
    words = " ".join(StrictPage(page).words)
    assert "Run more seeds of student/small" in words
    assert "abc123" in words and "2.9" in words
    assert "3 steps executed" in words
    assert page.count("<polyline") == 3 + 2, "three loss curves, reliability and coverage"


def test_page_names_and_highlights_the_classifier_to_use(page: str) -> None:
    parsed = StrictPage(page)
    assert "Use student/small. It is the student, trained on the soft labels of the ensemble." in " ".join(parsed.words)
    assert [item.get("class") for item in parsed.all("tr")].count("delivered") == 1


def test_students_of_several_sizes_have_a_column_each() -> None:
    shared = {"accuracy": {"mean": 0.5, "std": 0.1}, "num_parameters": 2_000_000}
    small = {**shared, "kind": "student", "student": "small"}
    large = {"accuracy": {"mean": 0.75, "std": None}, "num_parameters": 9_000_000, "student": "large"}
    rows = [{**large, "kind": "student"}, small, {**large, "kind": "baseline"}]
    probe = {**shared, "kind": "probe", "student": "", "num_parameters": None}
    sizes = html.accuracy_by_size([*rows, probe])
    assert sizes is not None
    assert sizes["columns"] == ["small (2.0M)", "large (9.0M)"]
    assert [row["cells"] for row in sizes["rows"]] == [
        ("student", "50.0 ± 10.0", "75.0"), ("baseline", "", "75.0"),
    ]  # fmt: skip
    assert str(sizes["chart"]).count("<polyline") == 2
    fast = html.accuracy_by_size([{**small, "texts_per_second": 1234.5}, *rows])
    assert fast is not None
    assert fast["rows"][-1]["cells"] == ("texts per second, one thread", "1,234", "")
    assert html.accuracy_by_size([small, {**small, "kind": "baseline"}, probe]) is None, "one size"


def test_report_without_rows_is_a_page() -> None:
    empty: dict[str, Any] = {"rows": [], "comparisons": [], "notes": [], "suggestions": [], "delivered": None}
    words = " ".join(StrictPage(writer.report_html(writer.build_report("films", empty, {}, RUN))).words)
    assert "No rule found a problem" in words and "Training loss" not in words


def test_inits_have_a_table_row_and_a_line_each() -> None:
    shared = {"task": "films", "accuracy_std": None}
    ppt = {**shared, "method": "ppt", "init": "ppt", "accuracy": 0.8, "last_loss": 0.4, "losses": [(1, 0.8), (2, 0.4)]}
    random = {**shared, "method": "random", "init": "normal", "accuracy": 0.7, "last_loss": None, "losses": []}
    (table,) = html.prompt_inits([{**ppt, "accuracy_std": 0.01}, random])
    assert [row["cells"] for row in table["rows"]] == [
        ("ppt", "ppt", "80.0 ± 1.0", "0.400"), ("random", "normal", "70.0", ""),
    ]  # fmt: skip
    assert len({row["color"] for row in table["rows"]}) == 2
    assert str(table["chart"]).count("<polyline") == 2


def test_learning_curve_has_a_column_per_size_and_error_bars() -> None:
    shared = {"method": "baseline", "num_seeds": 2}
    points = [
        {**shared, "num_labeled": 4, "accuracy": 0.5, "accuracy_std": 0.1},
        {**shared, "num_labeled": 16, "accuracy": 0.75, "accuracy_std": None},
    ]
    curve = html.learning_curve(points)
    assert curve is not None
    assert curve["sizes"] == [4, 16]
    assert curve["rows"][0]["cells"] == ("baseline", "50.0 ± 10.0", "75.0")
    assert str(curve["chart"]).count('<line class="s0"') == 1, "one point has a deviation"
    assert html.learning_curve([]) is None


def test_rounds_of_labeling_are_a_curve_of_their_own() -> None:
    points = [
        {"method": "student/small", "num_labeled": size, "accuracy": 0.7, "accuracy_std": None, "num_seeds": 1}
        for size in (32, 52)
    ]
    (curve,) = html.label_curves({"rounds": points, "learning_curve": []})
    assert (curve["title"], curve["sizes"]) == ("Accuracy by round of labeling", [32, 52])
    assert [item["title"] for item in html.label_curves({"rounds": points, "learning_curve": points})] == [
        "Accuracy by number of labeled examples",
        "Accuracy by round of labeling",
    ]
    assert html.label_curves({}) == []
