"""The routes of the service.

POST /predict   {"texts": [...]} or {"inputs": [{...}, ...]} -> {"predictions": [...]}, in order
POST /generate  the same for a model that writes texts; with "stream": true, one text in parts (streaming.py)
GET  /          the served model: labels, fields, origin, limits, an example
GET  /ready     200 once the model is loaded, 503 before
GET  /health    200 while the process lives
GET  /metrics   Prometheus metrics
     /v1/tasks  changes tasks of prompts; see task_admin.py
GET  /docs      a page with all routes and a form; /openapi.json is its document
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan

from pipelines.serving.predictors import Predictor
from pipelines.serving.service import request_parsing, streaming
from pipelines.serving.service.batcher import CONTENT_TYPE, DynamicBatcher, Metrics, ModelFailedError, QueueFullError
from pipelines.serving.service.middleware import NUM_TEXTS, AccessLog, ObserveRequests, RequireApiKey
from pipelines.serving.service.openapi import PAGE, openapi_document
from pipelines.serving.service.request_parsing import RequestError, RequestLimits
from pipelines.serving.service.task_admin import TaskAdmin

LOADING_RETRY_S, FULL_RETRY_S = 5, 1
"""Seconds in the Retry-After header: while the model loads, and when the queue is full."""


@dataclass(frozen=True, slots=True)
class Service:
    """The routes and what they need. `about` describes the served model before it is loaded.

    Without `api_key` every client may send requests. With `admin` the tasks can change.
    """

    queue: DynamicBatcher
    limits: RequestLimits
    metrics: Metrics
    about: Mapping[str, Any]
    api_key: str | None = None
    access_log: AccessLog | None = None
    admin: TaskAdmin | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows changes of the tasks inside a `with` block. At its end, requests that wait are answered."""
        async with nullcontext() if self.admin is None else self.admin.following_file():
            yield
        self.queue.stop()

    def app(self, lifespan: Lifespan[Starlette]) -> ASGIApp:
        """The application; `lifespan` enters `running`."""
        app: ASGIApp = Starlette(
            lifespan=lifespan,
            routes=[
                Route("/", self.describe),
                Route("/health", self.health),
                Route("/ready", self.ready),
                Route("/docs", self.docs),
                Route("/openapi.json", self.openapi),
                Route("/metrics", self.metrics_text),
                Route("/predict", self.predict, methods=["POST"]),
                Route("/generate", self.generate, methods=["POST"]),
                *(self.admin.routes if self.admin is not None else ()),
            ],
            exception_handlers={RequestError: _request_error, HTTPException: _http_error, Exception: _internal_error},
        )
        if self.api_key is not None or self.admin is not None:
            app = RequireApiKey(app, self.api_key, None if self.admin is None else self.admin.key)
        return ObserveRequests(app, self.metrics, self.access_log)

    async def predict(self, request: Request) -> Response:
        """Returns a prediction for each text of the request."""
        predictor = self._loaded_predictor()
        try:
            body = await request_parsing.read_body(request.stream(), self.limits.max_bytes)
        except ClientDisconnect:
            return Response(status_code=400)  # the client has gone
        items = request_parsing.parse_items(body, predictor, self.limits)
        request.scope["state"][NUM_TEXTS] = len(items)
        try:
            return JSONResponse({"predictions": await self._predictions(predictor, items)})
        except QueueFullError:
            raise RequestError(503, "the queue is full.", "Retry later.", retry_after_s=FULL_RETRY_S) from None
        except ModelFailedError as error:
            raise RequestError(500, f"the model failed ({error}).", "Read the log of the service.") from None

    async def generate(self, request: Request) -> Response:
        """Returns generated texts, or the parts of one text while it is written."""
        return await streaming.generate(self, self._loaded_predictor(), request)

    async def _predictions(self, predictor: Predictor[Any], items: list[Any]) -> list[dict[str, Any]]:
        """Returns the predictions of items, within the limits of their tasks."""
        if self.admin is None:
            return await self.queue.predict(items)
        counts = Counter(predictor.task_of(item) for item in items)
        with self.admin.limits.admitted(counts):
            predictions = await self.queue.predict(items)
        for task, count in counts.items():
            self.metrics.task_texts.labels(task).inc(count)
        return predictions

    async def describe(self, request: Request) -> Response:
        """Describes the served model."""
        del request
        predictor = self.queue.predictor
        known = {} if predictor is None else _describe(predictor)
        return JSONResponse({**self.about, "ready": predictor is not None, **known, "limits": asdict(self.limits)})

    async def health(self, request: Request) -> Response:
        """Returns 200 while the process lives."""
        del request
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Returns 200 once the model is loaded."""
        del request
        self._loaded_predictor()
        return JSONResponse({"status": "ready"})

    async def docs(self, request: Request) -> Response:
        """Returns the page with all routes."""
        del request
        return FileResponse(PAGE)

    async def openapi(self, request: Request) -> Response:
        """Returns the OpenAPI document."""
        del request
        return JSONResponse(
            openapi_document(self.limits, needs_key=self.api_key is not None, has_admin=self.admin is not None)
        )

    async def metrics_text(self, request: Request) -> Response:
        """Returns the metrics as text."""
        del request
        if self.admin is not None and self.queue.predictor is not None:
            self.metrics.loaded_prompts.set(self.admin.num_loaded_prompts)
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    def _loaded_predictor(self) -> Predictor[Any]:
        if self.queue.predictor is None:
            raise RequestError(503, "the model is still loading.", "Retry later.", retry_after_s=LOADING_RETRY_S)
        return self.queue.predictor


def _describe(predictor: Predictor[Any]) -> dict[str, Any]:
    row = predictor.example()
    body = {"inputs": [row]} if predictor.plain_field() is None else {"texts": list(row.values())}
    about = {"kind": predictor.kind, "example": {"POST /predict": body}}
    tasks = {name: {"labels": predictor.labels[name], "fields": fields} for name, fields in predictor.tasks.items()}
    return {**about, **tasks[""]} if list(tasks) == [""] else {**about, "tasks": tasks}


async def _request_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestError)
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(error.about, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    route = f"{request.method} {request.url.path}"
    problem = f"{route} is not a route." if error.status_code in (404, 405) else f"{error.detail}."
    remedy = "Use POST /predict. GET /docs shows all routes."
    return JSONResponse({"error": problem, "remedy": remedy}, error.status_code, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    del request
    about = {"error": f"the service failed ({type(error).__name__}).", "remedy": "Read the log of the service."}
    return JSONResponse(about, 500)
