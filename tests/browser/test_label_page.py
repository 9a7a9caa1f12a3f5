"""The label page in a browser: keyboard only, resumable, on a phone and a desktop, in light and dark mode."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.labeling.label_file import LabelFile
from tests.browser.conftest import free_port, stop, wait_for
from tests.support.page_checks import overflow, watch
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.labels.csv"
    path.write_text("text,label\nit crashes,\ntoo much,\n" + "a very long text without an end " * 20 + ",\n")
    return path


@pytest.fixture
def page_url(file: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of `clozeline label` for the file."""
    port, log = free_port(), tmp_path / "log"
    labels = [word for label in ("bug", "money", "other") for word in ("--label", label)]
    command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", "label", str(file), *labels]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/", server, log)
            yield f"http://127.0.0.1:{port}/"
        finally:
            stop(server)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_texts_are_labeled_with_the_keyboard(
    size: str, scheme: str, file: Path, page_url: str, browser: Browser, screenshots: Path
) -> None:
    width, height = SIZES[size]
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:
        page = context.new_page()
        log = watch(page)
        page.goto(page_url, wait_until="networkidle")
        page.get_by_text("it crashes").wait_for()
        page.screenshot(path=screenshots / f"label-{size}-{scheme}.png", full_page=True)
        assert overflow(page) <= 0
        page.keyboard.press("1")
        page.get_by_text("too much").wait_for()
        page.keyboard.press("2")
        page.get_by_text("a very long text").wait_for()
        assert overflow(page) <= 0
        page.keyboard.press("ArrowLeft")
        page.get_by_text("too much").wait_for()
        page.keyboard.press("Backspace")
        page.get_by_text("has no label now").wait_for()
        assert [row["label"] for row in LabelFile.open(file).rows] == ["bug", "", ""]
        page.reload(wait_until="networkidle")
        page.get_by_text("too much").wait_for()
        assert page.locator("#count").inner_text() == "Text 2 of 3, 1 with a label", "it goes on where it stopped"
        page.keyboard.press("3")
        page.get_by_text("a very long text").wait_for()
        page.keyboard.press("1")
        page.get_by_text("All texts have a label.").wait_for()
        assert log.errors == []
    assert [row["label"] for row in LabelFile.open(file).rows] == ["bug", "other", "bug"]
