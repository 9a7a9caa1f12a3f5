"""Checks of pages: their HTML, and in a browser their requests, errors and width."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page


@dataclass
class PageLog:
    """URLs that a page requested, without data URLs, and its errors and warnings."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def watch(page: Page) -> PageLog:
    """Records the requests and errors of a page from now on."""
    log = PageLog()

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            log.errors.append(message.text)

    page.on("console", console)
    page.on("pageerror", lambda error: log.errors.append(str(error)))
    page.on("request", lambda one: log.requests.append(one.url) if not one.url.startswith("data:") else None)
    return log


def overflow(page: Page) -> int:
    """Returns the number of pixels by which a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


VOID_TAGS = {"meta", "link", "br", "img", "wbr"}


class StrictPage(HTMLParser):
    """Parses a page strictly: each element must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        """Name, attributes and parent elements of each element."""
        self.words: list[str] = []
        """The text between the elements."""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), tuple(self._open)))
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Returns the attributes of all elements with this name."""
        return [attrs for name, attrs, _ in self.tags if name == tag]
