"""The OpenAPI page of the service in a browser: routes and requests, on a phone and a desktop, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stages.common.examples import Example
from stages.common.models.tfidf_classifier import TfidfClassifier
from tests.support.page_checks import overflow, watch
from tests.support.services import service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
KEY = "some-key"


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the page of `clozeline serve`, for a classifier with an API key."""
    folder = tmp_path_factory.mktemp("served")
    examples = [Example(f"{n}", {"text": ("warm", "dull")[n % 2]}, ("good", "bad")[n % 2]) for n in range(8)]
    (folder / "model").mkdir()
    TfidfClassifier(("bad", "good"), ("text",), "word").fit(examples).save(folder / "model")
    with service(str(folder / "model"), "--api-key", KEY) as running:
        yield f"http://127.0.0.1:{running.port}/docs"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_routes_are_shown_and_a_request_is_answered(
    size: str, scheme: str, page_url: str, browser: Browser, screenshots: Path
) -> None:
    width, height = SIZES[size]
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:
        page = context.new_page()
        log = watch(page)
        page.goto(page_url, wait_until="networkidle")
        routes = page.locator("#routes summary code").all_inner_texts()
        assert set(routes) == {"POST /predict", "POST /generate", "GET /", "GET /health", "GET /ready", "GET /metrics"}
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("Body of POST /predict").fill('{"texts": ["so warm", "so dull"]}')
        page.get_by_role("button", name="Send").click()
        page.get_by_text('"label": "good"').wait_for()
        assert page.locator("#answer").inner_text().startswith("200\n")
        page.get_by_text("POST /predict", exact=True).last.click()
        page.get_by_text('"maxItems"').first.wait_for()
        page.screenshot(path=screenshots / f"openapi-{size}-{scheme}.png", full_page=True)
        assert overflow(page) <= 0
        assert log.errors == []


def test_a_request_without_the_key_shows_the_error(page_url: str, browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(page_url, wait_until="networkidle")
        page.get_by_role("button", name="Send").click()
        page.locator("#answer", has_text="401").wait_for()
        assert '"remedy"' in page.locator("#answer").inner_text()
