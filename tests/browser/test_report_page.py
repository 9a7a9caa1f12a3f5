"""The report's page in a browser: alone, without complaints, on a phone and a desk, in light and dark."""

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
"""Of text, as WCAG 2.2 AA asks."""

COLOURS = """() => {
  const written = (item) => [...item.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const shown = (item) => written(item) && item.getClientRects().length > 0;
  const texts = [...document.querySelectorAll("body *")].filter(shown);
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const painted = (...colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = (item) => {
    const found = [];
    for (let at = item; at; at = at.parentElement) found.unshift(getComputedStyle(at).backgroundColor);
    return found;
  };
  return texts.map((item) => {
    const style = getComputedStyle(item), ground = behind(item);
    const ink = item instanceof SVGElement ? style.fill : style.color;
    return [item.textContent.trim(), painted(...ground, ink), painted(...ground)];
  });
}"""
"""Each text of the page, the colour it is written in, and that of what it stands on."""


@pytest.fixture
def report(smoke_run: tuple[Path, str]) -> Path:
    return smoke_run[0] / "reports" / "smoke" / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_report_asks_nobody_and_fits(
    size: str, scheme: str, report: Path, browser: Browser, pictures: Path
) -> None:
    width, height = SIZES[size]
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:
        page = context.new_page()
        heard = watch(page)
        page.goto(report.as_uri(), wait_until="networkidle")
        page.screenshot(path=pictures / f"report-{size}-{scheme}.png", full_page=True)
        assert heard.errors == []
        assert heard.requests == [report.as_uri()]
        assert overflow(page) <= 0
        assert page.locator("svg.chart").count() >= 4 and page.locator("svg.graph").is_visible()
        assert faint(page) == []


def test_dark_is_dark_and_light_is_light(report: Path, browser: Browser) -> None:
    found = {}
    for scheme in ("light", "dark"):
        with browser.new_context(color_scheme=scheme) as context:
            page = context.new_page()
            page.goto(report.as_uri())
            found[scheme] = luminance(page.evaluate(COLOURS)[0][2])
    assert found["light"] > 0.9 and found["dark"] < 0.1, found


def test_whatever_a_page_does_wrong_is_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<style>body { background: white; color: #999 }</style><p style='width: 3000px'>wide and faint</p>"
        "<img src='http://127.0.0.1:9/nobody.png'><script>throw new Error('broken')</script>"
    )
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        heard = watch(page)
        page.goto(bad.as_uri(), wait_until="networkidle")
        assert "http://127.0.0.1:9/nobody.png" in heard.requests
        assert any("broken" in error for error in heard.errors)
        assert overflow(page) > 2000
        assert [text for text, _ in faint(page)] == ["wide and faint"]


def faint(page: Page) -> list[tuple[str, float]]:
    """Texts that stand out too little from what is behind them, and by how much."""
    texts = [(text, round(contrast(ink, ground), 2)) for text, ink, ground in page.evaluate(COLOURS)]
    return [(text, found) for text, found in texts if found < CONTRAST]


def contrast(ink: list[int], ground: list[int]) -> float:
    """Ratio of WCAG 2.2, from 1 to 21."""
    low, high = sorted((luminance(ink), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: list[int]) -> float:
    """Relative luminance of an sRGB colour of three bytes."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
