"""The report's page: that it stands alone, that nothing in it is wider than a phone, and what its drawings show."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.report import stage as report
from pipelines.report.config import ReportConfig
from pipelines.report.page import charts, html, writer
from pipelines.report.page.data import page_data
from pipelines.report.page.graph import layout
from pipelines.report.page.graph_plot import HEIGHT
from stages.common.data.step_outputs import write_logits, write_losses
from stages.common.engine import InProcessEngine
from stages.common.examples import Example
from stages.common.protocols import NullRecorder
from tests.support.steps import toy

LABELS = ("rotten", "fresh")
VOID = {"meta", "link", "br", "img", "wbr"}


class Page(HTMLParser):
    """Reads a page strictly: every element that is opened must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = tuple(item.split(" ")[0] for item in self._open)
        self.tags.append((tag, dict(attrs), classes))
        if tag not in VOID:
            self._open.append(f"{tag} {dict(attrs).get('class', '')}".strip())

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop().split(" ")[0] == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs, _ in self.tags if name == tag]


def put(root: Path, step: str, num_right: int, losses: list[float] | None = None, size: int = 20) -> None:
    """A step that is right about the first texts, and surest about the very first."""
    folder = root / step
    folder.mkdir(parents=True)
    texts = [Example(f"test-{number}", {"text": "x"}, LABELS[number % 2]) for number in range(size)]
    logits = np.zeros((size, 2))
    for number in range(size):
        right = number % 2
        logits[number, right if number < num_right else 1 - right] = 3 - 2.5 * number / size
    write_logits(folder / "test_logits.jsonl", texts, logits, LABELS)
    write_losses(folder, losses or [])
    share = num_right / size
    test = {"accuracy": share, "macro_f1": share, "mcc": 0.5, "ece": 0.1, "exact_match": None, "num_examples": size}
    about = {"num_labeled": 16, "num_unlabeled": 9, "trainable_parameters": 2048}
    (folder / "result.json").write_text(json.dumps({"test": test, **about}))


@pytest.fixture
def made(tmp_path: Path) -> tuple[dict[str, Any], str]:
    """The details of a small run whose recipe has an awkward name, and its page."""
    put(tmp_path, "zero_shot/review", 10)
    put(tmp_path, "pet/review/0", 15, [0.9, 0.5, 0.2])
    put(tmp_path, "distill/0", 16, [0.8, 0.4])
    put(tmp_path, "distill/1", 12, [0.7, 0.3])
    steps = ("zero_shot/review", "pet/review/0", "distill/0", "distill/1")
    out = tmp_path / "out"
    out.mkdir()
    config = ReportConfig(recipe="<films & more>", task="films", steps=steps)
    inputs = report.Inputs(measured=tuple(tmp_path / step for step in steps))
    result = report.run(config, inputs, out, NullRecorder(), InProcessEngine())
    from cluster.canonical_json import plain

    run = {"executed": 4, "cached": 0, "wall_s": 5.0, "versions": {"torch": "2.9"}, "commit": "abc123"}
    content = writer.build_report("<films & more>", plain(result), {"distill/0": 2.0}, run)
    data = toy("data/films")
    graph = charts.graph_svg([data, toy("distill/0", base=data), toy("distill/1", base=data)], {"distill/0": 2.0})
    read = json.loads((out / "details.json").read_text())
    writer.write_report(content, out / "leaderboard.png", tmp_path / "pages", read, graph)
    return read, (tmp_path / "pages" / "report.html").read_text()


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_stands_alone(made: tuple[dict[str, Any], str]) -> None:
    text = made[1]
    read = Page(text)
    assert not read.all("script") and not read.all("iframe") and not read.all("img")
    links = [attrs.get(key) for _, attrs, _ in read.tags for key in ("src", "href", "xlink:href") if key in attrs]
    assert links == ["data:,"], "the icon, so that browsers ask nobody for one"
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#tip"}


def test_it_is_made_for_phones_and_for_light_and_dark(made: tuple[dict[str, Any], str]) -> None:
    read = Page(made[1])
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all("meta")
    assert "@media (prefers-color-scheme: dark)" in made[1]
    wide = [(tag, around) for tag, attrs, around in read.tags if tag == "table" or attrs.get("class") == "graph"]
    assert len(wide) >= 3
    assert all("div" in around for _, around in wide)
    boxes = [attrs for attrs in read.all("div") if attrs.get("class") == "scroll"]
    assert len(boxes) == len(wide), "each in a box of its own"
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes), "and keys scroll it"


def test_colours_of_dark_and_light_have_the_same_names(made: tuple[dict[str, Any], str]) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", made[1], re.DOTALL)[:2]
    names = [set(re.findall(r"(--[a-z]+):", part)) for part in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--[a-z]+)\)", made[1])) - {"--share", "--own"} <= names[0]


def test_whatever_people_write_is_text(made: tuple[dict[str, Any], str]) -> None:
    assert "<films" not in made[1]
    assert html._breakable("a/<b>") == "a/<wbr>&lt;b&gt;"
    assert any("<films & more>" in word for word in Page(made[1]).words)


def test_bars_have_their_lengths_and_spreads(made: tuple[dict[str, Any], str]) -> None:
    spans = Page(made[1]).all("span")
    fills = {str(span["class"]): span["style"] for span in spans if str(span.get("class")).startswith("fill")}
    assert fills == {"fill zero-shot": "width: 50.0%", "fill sub-model": "width: 75.0%", "fill student": "width: 70.0%"}
    (error,) = [span["style"] for span in spans if span.get("class") == "error"]
    assert error == "left: 55.86%; width: 28.28%", "70 ± 14.14"


def test_what_to_try_and_how_it_was_made_stand_there(made: tuple[dict[str, Any], str]) -> None:
    words = " ".join(Page(made[1]).words)
    assert "Run more seeds of student" in words
    assert "abc123" in words and "2.9" in words
    assert "4 steps executed" in words


def test_a_report_without_details_is_a_page_too() -> None:
    empty: dict[str, Any] = {"rows": [], "comparisons": [], "notes": [], "advice": []}
    content = writer.build_report("films", empty, {}, {"executed": 0, "cached": 0, "wall_s": 0.0})
    words = " ".join(Page(writer.report_html(content)).words)
    assert "None of the rules" in words and "Training loss" not in words


# --- what it shows --------------------------------------------------------------------------------------------------


def test_details_hold_the_curves_of_every_seed(made: tuple[dict[str, Any], str]) -> None:
    curves = made[0]["curves"]
    assert list(curves) == ["pet/review", "student"], "what was not trained has none"
    assert curves["student"] == {"distill/0": [[1, 0.8], [2, 0.4]], "distill/1": [[1, 0.7], [2, 0.3]]}
    assert made[1].count("<polyline") == 3 + 2, "three trainings, reliability and coverage"


def test_confidence_is_over_all_seeds(made: tuple[dict[str, Any], str]) -> None:
    student = made[0]["confidence"]["student"]
    assert sum(map(sum, student["confusion"])) == 40
    assert student["confusion"][0][0] + student["confusion"][1][1] == 16 + 12
    assert sum(item["count"] for item in student["bins"]) == 40
    assert student["coverage"][-1] == [1.0, 0.7]
    assert student["coverage"][0][1] == 1.0


def test_steps_without_logits_or_with_other_labels_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "distill/0", 10)
    put(tmp_path, "distill/1", 10)
    folders = {step: tmp_path / step for step in ("distill/0", "distill/1")}
    (tmp_path / "distill/1/test_logits.jsonl").unlink()
    assert page_data({"student": ("distill/0", "distill/1")}, folders)["confidence"]["student"]["num_seeds"] == 1
    (tmp_path / "distill/0/test_logits.jsonl").unlink()
    assert page_data({"student": ("distill/0", "distill/1")}, folders) == {"curves": {}, "confidence": {}}


# --- the drawings ---------------------------------------------------------------------------------------------------


def test_a_line_goes_from_corner_to_corner() -> None:
    drawing = str(charts.line_chart([[(0, 0), (10, 5)]], x_label="<x>", y_label="y", x=(0, 10), y=(0, 5)))
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    low, high = charts.HEIGHT - charts.BOTTOM, charts.TOP
    assert f'points="{left}.0,{low}.0 {right}.0,{high}.0"' in drawing
    assert "&lt;x&gt;" in drawing and "<x>" not in drawing
    assert Page(drawing).all("svg")[0]["role"] == "img"


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, 0.0), (2, 0.0)], [(1, -3.0), (2, 5000.0)]])
def test_odd_curves_are_drawn_within_the_frame(points: list[tuple[int, float]]) -> None:
    read = Page(str(charts.line_chart([points], x_label="x", y_label="y")))
    (line,) = read.all("polyline")
    places = [tuple(map(float, pair.split(","))) for pair in str(line["points"]).split()]
    assert len(places) == len(points)
    assert all(charts.LEFT <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in places)


def test_the_graph_has_a_box_for_each_group_with_its_seconds() -> None:
    data = toy("data/films")
    students = [toy(f"distill/{seed}", base=data) for seed in (0, 1)]
    read = Page(str(charts.graph_svg([data, *students], {"distill/0": 3.0, "distill/1": 5.0, "data/films": 0.2})))
    assert [box["class"] for box in read.all("rect")] == ["k-data", "k-distill"]
    assert {"data/films", "0 s", "distill", "2 × 4 s"} <= set(read.words)
    assert sum(item.get("class") == "edge" for item in read.all("path")) == 1
    width, height = (float(read.all("svg")[0][name] or 0) for name in ("width", "height"))
    for box in read.all("rect"):
        assert 0 <= float(box["x"] or 0) <= width - charts.BOX_WIDTH
        assert 0 <= float(box["y"] or 0) <= height - charts.BOX_HEIGHT


def test_arrows_pass_the_boxes_that_they_do_not_mean() -> None:
    data = toy("data/films")
    voting = [toy(f"pet/{name}/0", base=data) for name in "ab"]
    others = [toy(f"zero_shot/{name}", base=data) for name in "cdefg"]
    labels = toy("soft_labels", parts=tuple(voting))
    last = toy("report", parts=(labels, *others))
    _, places, edges = layout([data, *voting, *others, labels, last])
    x, y = places["soft_labels"]
    for start, end in edges:
        (x0, y0), (x1, y1) = places[start], places[end]
        if x0 < x < x1:
            assert abs(y0 + (y1 - y0) * (x - x0) / (x1 - x0) - y) > HEIGHT / 2, (start, end)
    highest = max(height for _, height in places.values())
    assert min(height for _, height in places.values()) == -highest == -3, "no column sticks out of the tallest"
