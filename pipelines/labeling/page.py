"""The page on which a person labels texts in a browser: one text at a time, one key per label.

GET  /              the page
GET  /state         labels, fields and rows of the label file
POST /label         {"row": 3, "label": "bug"} sets the label of a row; "" removes it. Writes the file
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from rich.console import Console
from rich.markup import escape
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from pipelines.labeling.label_file import LABEL_COLUMN, LabelFile
from pipelines.serving.service.server import ListenAddress, listen, url_of

PAGE = Path(__file__).with_name("label.html")
MAX_BODY = 10_000
"""Bytes of a request that sets a label."""


class LabelPage:
    """The routes for one file. The file is read once, and written after each label.

    Args:
        file: The rows.
        labels: The labels to choose from, in the order of their keys.
    """

    def __init__(self, file: LabelFile, labels: Sequence[str]) -> None:
        self._file = file
        self._labels = tuple(labels)
        self._lock = asyncio.Lock()

    def app(self) -> Starlette:
        """Returns the application."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/state", self.state),
                Route("/label", self.label, methods=["POST"]),
            ]
        )

    async def page(self, request: Request) -> Response:
        """Returns the page."""
        del request
        return FileResponse(PAGE)

    async def state(self, request: Request) -> Response:
        """Returns what the page shows."""
        del request
        file = self._file
        rows = [{"texts": [row[name] for name in file.fields], "label": row[LABEL_COLUMN]} for row in file.rows]
        return JSONResponse({"file": file.path.name, "labels": self._labels, "fields": file.fields, "rows": rows})

    async def label(self, request: Request) -> Response:
        """Sets the label of a row."""
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return _error(403, "another site sent this request.", "Label on the page of clozeline label.")
        body = await _read_body(request)
        row, label = (body.get("row"), body.get("label")) if isinstance(body, dict) else (None, None)
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < len(self._file.rows):
            return _error(422, "row is not the number of a row.", f"Send a number below {len(self._file.rows)}.")
        if label != "" and label not in self._labels:
            return _error(422, f"{label!r} is no label.", f"Send one of {', '.join(self._labels)}, or an empty text.")
        async with self._lock:
            before = self._file.rows[row][LABEL_COLUMN]
            self._file.rows[row][LABEL_COLUMN] = label
            try:
                await asyncio.to_thread(self._file.write)
            except OSError as error:
                self._file.rows[row][LABEL_COLUMN] = before
                return _error(500, f"{self._file.path} cannot be written ({error.strerror}).", "Make it writable.")
        return JSONResponse({"row": row, "label": label, "num_labeled": self._file.num_labeled})


async def _read_body(request: Request) -> Any:
    """Returns the JSON value of a request; None if it is too long or not JSON."""
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY:
            return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _error(status: int, problem: str, remedy: str) -> Response:
    return JSONResponse({"error": problem, "remedy": remedy}, status)


def show_page(page: LabelPage, address: ListenAddress, console: Console) -> None:
    """Shows the page until SIGTERM or Ctrl-C.

    Raises:
        InputError: the address is not free.
    """
    with closing(listen(address)) as listener:
        config = uvicorn.Config(page.app(), log_level="warning", access_log=False, server_header=False)
        console.print(f"ready     {escape(url_of(listener))}  (Ctrl-C stops)", highlight=False, soft_wrap=True)
        uvicorn.Server(config).run(sockets=[listener])
