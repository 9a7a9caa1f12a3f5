"""MLflow's pages as `make ui` shows them: nested runs, curves, figures, models with their alias."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
WAIT_MS = 90_000
TRAINING = "workflowType=machine_learning"
"""Selects MLflow's pages for models. The default is the pages for agents."""

CHAMPION = re.compile(r"^@\s*champion$")


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    parent: str | None


@pytest.fixture(scope="module")
def runs(smoke_run: tuple[Path, str]) -> list[Run]:
    """The runs in MLflow's database, parents before children."""
    with closing(sqlite3.connect(smoke_run[0] / "mlflow.db")) as database:
        parents = dict(database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
        names = database.execute("select run_uuid, name from runs order by start_time").fetchall()
    all_runs = [Run(key, name, parents.get(key)) for key, name in names]
    return sorted(all_runs, key=lambda run: depth(run.id, parents))


@pytest.fixture(scope="module")
def visitor(browser: Browser, ui: str) -> Iterator[BrowserContext]:
    """A browser session in which the assistant of MLflow is closed."""
    with browser.new_context(viewport={"width": 1600, "height": 1000}, color_scheme="light") as context:
        context.set_default_timeout(WAIT_MS)
        first = context.new_page()
        first.goto(f"{ui}/#/experiments?{TRAINING}")
        first.get_by_label("Close", exact=True).click()
        first.close()
        yield context


@pytest.fixture
def page(visitor: BrowserContext) -> Iterator[Page]:
    page = visitor.new_page()
    yield page
    page.close()


def test_steps_are_nested_under_their_run(page: Page, ui: str, runs: list[Run], screenshots: Path) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 1600, "height": 1400})  # the table creates only visible rows
    page.goto(f"{ui}/#/experiments/1/runs?{TRAINING}")
    opened: set[str] = set()
    for run in runs:
        if run.parent is not None and run.parent not in opened:
            assert row(page, run).count() == 0, "hidden until its parent is opened"
            row(page, next(item for item in runs if item.id == run.parent)).get_by_role("button").click()
            opened.add(run.parent)
        expect(row(page, run).get_by_role("link")).to_have_text(run.name, timeout=WAIT_MS)
    assert {"smoke", "pet"} <= {run.name for run in runs if run.id in opened}, "three levels"
    assert sum(run.parent is None for run in runs) == 1
    page.screenshot(path=screenshots / "mlflow-runs.png")


def test_run_page_has_metrics_and_steps(page: Page, ui: str, runs: list[Run], screenshots: Path) -> None:
    (top,) = (run for run in runs if run.parent is None)
    page.goto(f"{ui}/#/experiments/1/runs/{top.id}?{TRAINING}")
    page.get_by_role("link", name="report", exact=True).wait_for()
    accuracy = page.get_by_role("link", name="accuracy", exact=True).first
    accuracy.wait_for()
    page.screenshot(path=screenshots / "mlflow-run.png")
    assert is_on_first_screen(page, accuracy)
    page.get_by_text("leaderboard/student/small/accuracy").first.wait_for()
    assert page.get_by_text("No description").count() == 0


def test_curve_is_drawn(page: Page, ui: str, runs: list[Run], screenshots: Path) -> None:
    page.goto(f"{ui}/#/experiments/1/runs/{named(runs, 'distill/small/0').id}/model-metrics?{TRAINING}")
    page.get_by_placeholder("Search metric charts").fill("train/loss")
    line = page.locator(".js-plotly-plot .scatterlayer .js-line").first
    line.wait_for(state="attached")
    page.screenshot(path=screenshots / "mlflow-curve.png")
    assert (line.get_attribute("d") or "").count("L") == 7, "eight steps"
    box = line.bounding_box()
    assert box and box["width"] > 50 and box["height"] > 50


@pytest.mark.parametrize("figure", ["confusion", "reliability", "coverage"])
def test_figure_of_a_step_is_shown(figure: str, page: Page, ui: str, runs: list[Run], screenshots: Path) -> None:
    page.goto(
        f"{ui}/#/experiments/1/runs/{named(runs, 'distill/small/0').id}/artifacts/figures/{figure}.png?{TRAINING}"
    )
    shown = page.locator("img[src*='blob:'], img[src*='get-artifact']").first
    shown.wait_for()
    page.wait_for_function("(image) => image.complete && image.naturalWidth > 100", arg=shown.element_handle())
    assert shown.is_visible()
    page.screenshot(path=screenshots / f"mlflow-{figure}.png")


def test_registered_classifier_is_the_champion(page: Page, ui: str, screenshots: Path) -> None:
    page.goto(f"{ui}/#/models?{TRAINING}")
    news = page.get_by_role("dialog").filter(has_text="Model Registry UI")  # shown once
    news.get_by_role("button", name="Try it now").click()
    news.wait_for(state="hidden")
    classifier = page.get_by_role("row").filter(has_text="smoke.classifier")
    classifier.get_by_text(CHAMPION).wait_for()
    assert classifier.count() == 1
    page.screenshot(path=screenshots / "mlflow-models.png", animations="disabled")  # the dialog fades away
    page.goto(f"{ui}/#/models/smoke.classifier/versions/1?{TRAINING}")
    page.get_by_text(CHAMPION).first.wait_for()
    page.get_by_role("link", name="distill/small/0").first.wait_for()
    page.screenshot(path=screenshots / "mlflow-classifier.png")


def is_on_first_screen(page: Page, locator: Locator) -> bool:
    """Returns True if an element is visible without scrolling."""
    box, size = locator.bounding_box(), page.viewport_size
    assert box is not None and size is not None
    return box["y"] >= 0 and box["y"] + box["height"] <= size["height"]


def row(page: Page, run: Run) -> Locator:
    """Returns the cell of the table of runs that has the name of the run, and its button."""
    return page.locator(f"[row-id='{run.id}'] [col-id*='Run Name']")


def named(runs: list[Run], name: str) -> Run:
    return next(run for run in runs if run.name == name)


def depth(run: str, parents: dict[str, str]) -> int:
    return 1 + depth(parents[run], parents) if run in parents else 0
