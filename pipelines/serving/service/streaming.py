"""The route that sends a generated text while it is written, as server-sent events.

POST /generate {"inputs": [{...}], "stream": true} ->
    data: {"text": "..."}                         a part of the text; all parts together are the text
    event: end    data: {"generated_text": "..."} the whole text
    event: error  data: {"error": ..., "remedy": ...}

The text is written in the thread of the model, as all predictions, so other requests wait until it has ended. It ends
early when its client closes the connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pipelines.serving.predictors import Predictor
from pipelines.serving.service import request_parsing
from pipelines.serving.service.batcher import DynamicBatcher, ModelFailedError, QueueFullError
from pipelines.serving.service.middleware import NUM_TEXTS
from pipelines.serving.service.request_parsing import RequestError, RequestLimits
from pipelines.serving.streamed_text import StreamedText

STREAM = "stream"
"""The field of a request for a streamed text."""
FULL_RETRY_S = 1
EVENTS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Headers that stop proxies from collecting the parts."""


class _Service(Protocol):
    """What the route needs of the service."""

    queue: DynamicBatcher
    limits: RequestLimits


async def generate(service: Any, predictor: Predictor[Any], request: Request) -> Response:
    """Returns a stream of events or, without `stream: true`, the predictions of all texts.

    Raises:
        RequestError: the model writes no texts or has beams, or the request is wrong.
    """
    own: _Service = service
    if not hasattr(predictor, "can_stream"):
        raise RequestError(422, "the served model writes no texts.", "Use POST /predict.")
    try:
        body = await request_parsing.read_body(request.stream(), own.limits.max_bytes)
    except ClientDisconnect:
        return Response(status_code=400)  # the client has gone
    body, is_streamed = _without_stream(body)
    items = request_parsing.parse_items(body, predictor, own.limits)
    request.scope["state"][NUM_TEXTS] = len(items)
    if not is_streamed:
        return JSONResponse({"predictions": await _outcome(own.queue.predict(items))})
    if len(items) != 1:
        raise RequestError(422, f"{len(items)} texts cannot be streamed.", "Send one text per request.", STREAM)
    if not predictor.can_stream:
        raise RequestError(
            422, "the task is decoded with beams, which write no text before its end.",
            "Remove stream, or train the recipe with decoding: {strategy: greedy}.", STREAM,
        )  # fmt: skip
    loop, parts = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def emit(part: str) -> None:
        loop.call_soon_threadsafe(parts.put_nowait, part)

    text = StreamedText(items[0], emit)
    task = asyncio.create_task(own.queue.predict([text]))
    task.add_done_callback(lambda _: parts.put_nowait(None))
    await asyncio.sleep(0)  # a full queue refuses the text at once
    if task.done():
        await _outcome(task)
    return StreamingResponse(_events(text, task, parts), media_type="text/event-stream", headers=EVENTS)


async def _outcome(predictions: Any) -> list[dict[str, Any]]:
    try:
        result: list[dict[str, Any]] = await predictions
    except QueueFullError:
        raise RequestError(503, "the queue is full.", "Retry later.", retry_after_s=FULL_RETRY_S) from None
    except ModelFailedError as error:
        raise RequestError(500, f"the model failed ({error}).", "Read the log of the service.") from None
    return result


async def _events(
    text: StreamedText, task: asyncio.Task[list[dict[str, Any]]], parts: asyncio.Queue[str | None]
) -> AsyncIterator[str]:
    """Yields the events of a text. If the client closes the connection, this generator ends, and the model stops."""
    try:
        while (part := await parts.get()) is not None:
            yield _event({"text": part})
        try:
            (prediction,) = await _outcome(task)
        except RequestError as error:
            yield _event(error.about, "error")
        else:
            yield _event(prediction, "end")
    finally:
        text.canceled.set()
        with suppress(asyncio.CancelledError):
            task.cancel()


def _event(data: Any, name: str = "") -> str:
    return f"{f'event: {name}' + chr(10) if name else ''}data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _without_stream(body: bytes) -> tuple[bytes, bool]:
    """Returns the body without the field `stream`, and its value. What is no object is reported later.

    Raises:
        RequestError: the field is no boolean.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return body, False
    if not isinstance(fields, dict) or STREAM not in fields:
        return body, False
    is_streamed = fields.pop(STREAM)
    if not isinstance(is_streamed, bool):
        raise RequestError(422, f"{STREAM} is neither true nor false.", f'Send "{STREAM}": true.', STREAM)
    return json.dumps(fields).encode(), is_streamed
