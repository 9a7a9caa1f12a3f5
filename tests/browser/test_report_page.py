"""The page of the report in a browser: offline, without errors, on a phone and a desktop, in light and dark mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.page_checks import overflow, watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
CONTRAST = 4.5
"""Minimum contrast of text in WCAG 2.2 AA."""

TEXT_COLORS = """() => {
  const hasText = (item) => [...item.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const isVisible = (item) => hasText(item) && item.getClientRects().length > 0;
  const texts = [...document.querySelectorAll("body *")].filter(isVisible);
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const painted = (...colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const backgrounds = (item) => {
    const colors = [];
    for (let at = item; at; at = at.parentElement) colors.unshift(getComputedStyle(at).backgroundColor);
    return colors;
  };
  return texts.map((item) => {
    const style = getComputedStyle(item), ground = backgrounds(item);
    const ink = item instanceof SVGElement ? style.fill : style.color;
    return [item.textContent.trim(), painted(...ground, ink), painted(...ground)];
  });
}"""
"""JavaScript that returns each text of the page with its color and its background color."""
WIDE_TABLES = """() => [...document.querySelectorAll('.scroll')]
  .filter(region => region.querySelector('table') && region.scrollWidth > region.clientWidth)
  .map(region => region.getAttribute('aria-label'))"""
"""JavaScript that returns the labels of tables with columns outside the page."""


@pytest.fixture
def report(smoke_run: tuple[Path, str]) -> Path:
    return smoke_run[0] / "reports" / "smoke" / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_report_works_offline_and_fits(
    size: str, scheme: str, report: Path, browser: Browser, screenshots: Path
) -> None:
    width, height = SIZES[size]
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:
        page = context.new_page()
        log = watch(page)
        page.goto(report.as_uri(), wait_until="networkidle")
        page.screenshot(path=screenshots / f"report-{size}-{scheme}.png", full_page=True)
        assert log.errors == []
        assert log.requests == [report.as_uri()]
        assert overflow(page) <= 0
        assert page.locator("svg.chart").count() >= 4 and page.locator("svg.graph").is_visible()
        assert low_contrast(page) == []


def test_all_columns_of_tables_are_visible(report: Path, browser: Browser) -> None:
    width, height = SIZES["desktop"]
    with browser.new_context(viewport={"width": width, "height": height}) as context:
        page = context.new_page()
        page.goto(report.as_uri())
        assert page.locator(".suspects td").count() > 4
        assert page.evaluate(WIDE_TABLES) == []


def test_color_schemes_have_dark_and_light_backgrounds(report: Path, browser: Browser) -> None:
    backgrounds = {}
    for scheme in ("light", "dark"):
        with browser.new_context(color_scheme=scheme) as context:
            page = context.new_page()
            page.goto(report.as_uri())
            backgrounds[scheme] = luminance(page.evaluate(TEXT_COLORS)[0][2])
    assert backgrounds["light"] > 0.9 and backgrounds["dark"] < 0.1, backgrounds


def test_checks_find_the_problems_of_a_bad_page(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<style>body { background: white; color: #999 }</style><p style='width: 3000px'>wide and faint</p>"
        "<img src='http://127.0.0.1:9/missing.png'><script>throw new Error('broken')</script>"
    )
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        log = watch(page)
        page.goto(bad.as_uri(), wait_until="networkidle")
        assert "http://127.0.0.1:9/missing.png" in log.requests
        assert any("broken" in error for error in log.errors)
        assert overflow(page) > 2000
        assert [text for text, _ in low_contrast(page)] == ["wide and faint"]


def low_contrast(page: Page) -> list[tuple[str, float]]:
    """Returns the texts whose contrast to their background is too low, with the contrast."""
    texts = [(text, round(contrast(ink, ground), 2)) for text, ink, ground in page.evaluate(TEXT_COLORS)]
    return [(text, ratio) for text, ratio in texts if ratio < CONTRAST]


def contrast(ink: list[int], ground: list[int]) -> float:
    """Returns the contrast ratio of WCAG 2.2, from 1 to 21."""
    low, high = sorted((luminance(ink), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: list[int]) -> float:
    """Returns the relative luminance of an sRGB color of three bytes."""
    parts = [part / 255 for part in color]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
