"""Reads request bodies: limits their bytes, parses the JSON, extracts the texts, and reports errors by field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.serving.predictors import TASK, Predictor
from stages.common.errors import DataError

MAX_DRAINED_BYTES = 16 * 2**20
"""Bytes over the limit that are read and discarded: a client reads no response while it is still sending."""


class RequestError(Exception):
    """A request that the service rejects. `status` is the HTTP code, `field` the field of the body."""

    def __init__(
        self, status: int, problem: str, remedy: str, field: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(status, problem, remedy)
        self.status = status
        self.retry_after_s = retry_after_s
        self.about = {"error": problem, "remedy": remedy, **({"field": field} if field else {})}


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """Maximum number of texts in a request, and of bytes in its body."""

    max_texts: int = 256
    max_bytes: int = 2 * 2**20


async def read_body(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Returns the body.

    Raises:
        RequestError: the body is too large. The rest is read, up to `MAX_DRAINED_BYTES`, and discarded.
    """
    body, num_bytes = bytearray(), 0
    async for chunk in chunks:
        num_bytes += len(chunk)
        if num_bytes <= max_bytes:
            body += chunk
        elif num_bytes > max_bytes + MAX_DRAINED_BYTES:
            break
    if num_bytes > max_bytes:
        raise RequestError(
            413,
            f"the body is larger than {max_bytes} bytes.",
            "Send fewer texts per request, or start the service with a higher --max-bytes.",
        )
    return bytes(body)


def parse_items(body: bytes, predictor: Predictor[Any], limits: RequestLimits) -> list[Any]:
    """Returns what the predictor gets, in order.

    Raises:
        RequestError: 400 if the body is not a JSON object, 413 for too many texts, 422 for a missing or wrong field.
    """
    rows, name = _rows(json_object(body), predictor)
    if len(rows) > limits.max_texts:
        raise RequestError(
            413, f"{len(rows)} texts exceed the maximum of {limits.max_texts}.",
            "Send several requests, or start the service with a higher --max-texts.", name,
        )  # fmt: skip
    items = []
    for number, row in enumerate(rows):
        try:
            items.append(predictor.parse_row(row, str(number)))
        except DataError as error:
            place = f"{name}[{number}]" if name == "texts" and error.key != TASK else f"{name}[{number}].{error.key}"
            raise RequestError(422, error.problem, error.remedy, place) from None
    return items


def json_object(body: bytes, example: str = '{"texts": ["some text"]}') -> Mapping[str, Any]:
    """Parses a body.

    Raises:
        RequestError: 400 if the body is not a JSON object in UTF-8.
    """
    remedy = f"Send {example} as UTF-8."
    try:
        parsed = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8 (byte {error.start}).", remedy) from None
    except json.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON ({error.msg}, character {error.pos}).", remedy) from None
    except (RecursionError, ValueError):  # thousands of brackets, or a number with thousands of digits
        raise RequestError(400, "the body is JSON with too many levels or digits.", remedy) from None
    if not isinstance(parsed, dict):
        raise RequestError(400, f"the body is {_json_type(parsed)}, not a JSON object.", remedy)
    return parsed


def _rows(fields: Mapping[str, Any], predictor: Predictor[Any]) -> tuple[list[Mapping[str, Any]], str]:
    """Returns the rows and the name of the field that has them."""
    example = json.dumps({"inputs": [predictor.example()]}, ensure_ascii=False)
    names = [name for name in ("texts", "inputs") if name in fields]
    if len(names) != 1:
        problem = "the body has both texts and inputs" if names else "the body has neither texts nor inputs"
        raise RequestError(422, f"{problem}.", f"Send one of them, for example {example}.", "texts")
    (name,) = names
    unknown = [key for key in fields if key not in (name, TASK)]
    if unknown:
        raise RequestError(422, f"unknown field {unknown[0]!r}.", f"Send {example}.", unknown[0])
    values = fields[name]
    kind = str if name == "texts" else dict
    if not isinstance(values, list):
        raise RequestError(422, f"{name} is {_json_type(values)}, not a list.", f"Send {example}.", name)
    for number, value in enumerate(values):
        if not isinstance(value, kind):
            expected = "a string" if kind is str else "an object"
            raise RequestError(
                422, f"the item is {_json_type(value)}, not {expected}.", f"Send {example}.", f"{name}[{number}]"
            )
    task = {TASK: fields[TASK]} if TASK in fields else {}
    if name == "inputs":
        return [{**task, **value} for value in values], name
    return _plain_rows(values, task, predictor, example), name


def _plain_rows(
    texts: list[str], task: Mapping[str, Any], predictor: Predictor[Any], example: str
) -> list[Mapping[str, Any]]:
    named = task.get(TASK)
    if len(predictor.tasks) > 1 and (not isinstance(named, str) or not predictor.has_task(named)):
        problem = "the field task is missing" if named is None else f"the task {named!r} has no prompt here"
        raise RequestError(
            422, f"{problem}.", f'Set "task" to one of {", ".join(predictor.tasks)}, or send {example}.', TASK
        )
    field = predictor.plain_field(named if isinstance(named, str) else None)
    if field is None:
        raise RequestError(422, "a text has several fields in this task.", f"Send {example}.", "texts")
    return [{**task, field: text} for text in texts]


def _json_type(value: Any) -> str:
    """Returns the name of a JSON type, such as `a number`."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "a number")
