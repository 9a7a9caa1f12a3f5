"""What happens to every request: an id, metrics, a line in the access log, and the check of the API key."""

from __future__ import annotations

import hmac
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.service.batcher import Metrics

PREDICT = "/predict"
OPEN_PATHS = ("/health", "/ready", "/docs", "/openapi.json")
"""Paths that need no API key: probes cannot send one, and the pages do not name the model."""
PATHS = ("/", PREDICT, "/generate", "/metrics", *OPEN_PATHS)
TASKS = "/v1/tasks"
"""Prefix of the paths that change the tasks."""
REQUEST_ID = "x-request-id"
NUM_TEXTS = "num_texts"
"""Key of the state of a request with its number of texts."""
_VALID_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
AccessLog = Callable[[Mapping[str, Any]], object]


class ObserveRequests:
    """Gives each request an id, counts and times all responses, errors included, and writes the access log."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: AccessLog | None) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        path = scope["path"] if scope["path"] in PATHS else TASKS if _is_admin(scope) else "other"
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        status = 499  # as in nginx: the client has closed the connection

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
                self._metrics.requests.labels(path, str(status)).inc()
                if path == PREDICT:
                    self._metrics.request_seconds.observe(time.monotonic() - start)
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        finally:
            if self._access_log is not None:
                self._access_log(
                    {
                        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "request_id": request_id,
                        "client": (scope.get("client") or ("",))[0],
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "seconds": round(time.monotonic() - start, 6),
                        "texts": state.get(NUM_TEXTS, 0),
                    }
                )


class RequireApiKey:
    """Answers requests without the key with 401. Changes of the tasks need the admin key."""

    def __init__(self, app: ASGIApp, key: str | None, admin_key: str | None) -> None:
        self._app = app
        self._key = key
        self._admin_key = admin_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            key, name = (self._admin_key, "admin key") if _is_admin(scope) else (self._key, "API key")
            given = Headers(scope=scope).get("authorization", "")
            if key is not None and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
                about = {
                    "error": f"the {name} is wrong." if given else f"the {name} is missing.",
                    "remedy": "Send the header Authorization: Bearer KEY.",
                }
                await JSONResponse(about, 401, {"www-authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_admin(scope: Scope) -> bool:
    path = scope["path"]
    return bool(path == TASKS or path.startswith(f"{TASKS}/"))


def json_lines(write: Callable[[str], object]) -> AccessLog:
    """Returns an access log that writes one JSON object per line."""
    return lambda entry: write(json.dumps(entry) + "\n")
