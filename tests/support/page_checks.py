"""What a page does besides being looked at: what it asks for, and what it complains of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page


@dataclass
class Heard:
    """Addresses that a page asked for (those of data that stand in the page itself aside), and its complaints."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def watch(page: Page) -> Heard:
    """Listens to a page from now on."""
    heard = Heard()

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            heard.errors.append(message.text)

    page.on("console", console)
    page.on("pageerror", lambda error: heard.errors.append(str(error)))
    page.on("request", lambda one: heard.requests.append(one.url) if not one.url.startswith("data:") else None)
    return heard


def overflow(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
