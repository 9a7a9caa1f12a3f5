"""Reads request bodies: limits their bytes, parses the JSON, extracts the texts, and reports errors by field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.serving.predictors import TASK, Predictor
from stages.common.errors import DataError

DRAINED = 16 * 2**20
"""Bytes beyond the limit that are read and thrown away: a client that is still sending does not read our answer."""


class RequestError(Exception):
    """A request that cannot be answered. `field` is the place in its body, `status` the HTTP code."""

    def __init__(
        self, status: int, problem: str, remedy: str, field: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(status, problem, remedy)
        self.status = status
        self.retry_after_s = retry_after_s
        self.about = {"error": problem, "remedy": remedy, **({"field": field} if field else {})}


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """`max_texts` in a request; `max_bytes` of its body."""

    max_texts: int = 256
    max_bytes: int = 2 * 2**20


async def read_body(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """The body.

    Raises:
        RefusedError: it is too large. Most of the rest has been read then, and none of it kept.
    """
    body, num_bytes = bytearray(), 0
    async for chunk in chunks:
        num_bytes += len(chunk)
        if num_bytes <= max_bytes:
            body += chunk
        elif num_bytes > max_bytes + DRAINED:
            break
    if num_bytes > max_bytes:
        raise RequestError(
            413, f"the body is larger than {max_bytes} bytes.", "Send fewer texts a request, or raise --max-bytes."
        )
    return bytes(body)


def texts_of(body: bytes, predictor: Predictor[Any], limits: RequestLimits) -> list[Any]:
    """What the labeller is to answer, in order.

    Raises:
        RefusedError: 400 for what is no JSON object, 413 for too many texts, 422 for a field that is missing or wrong.
    """
    rows, name = _rows(_object(body), predictor)
    if len(rows) > limits.max_texts:
        raise RequestError(
            413, f"{len(rows)} texts are more than {limits.max_texts}.",
            "Send them in several requests, or raise --max-texts.", name,
        )  # fmt: skip
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(predictor.parse_row(row, str(number)))
        except DataError as error:
            place = f"{name}[{number}]" if name == "texts" and error.key != TASK else f"{name}[{number}].{error.key}"
            raise RequestError(422, error.problem, error.remedy, place) from None
    return found


def _object(body: bytes) -> Mapping[str, Any]:
    how = 'Send {"texts": ["some text"]} as UTF-8.'
    try:
        found = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8 (byte {error.start}).", how) from None
    except json.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON ({error.msg}, character {error.pos}).", how) from None
    except (RecursionError, ValueError):  # thousands of brackets; a number of thousands of digits
        raise RequestError(400, "the body is JSON of a kind that is not read here.", how) from None
    if not isinstance(found, dict):
        raise RequestError(400, f"the body is {_kind(found)}, not a JSON object.", how)
    return found


def _rows(about: Mapping[str, Any], predictor: Predictor[Any]) -> tuple[list[Mapping[str, Any]], str]:
    """The rows, and the field in which they stand."""
    example = json.dumps({"inputs": [predictor.example()]}, ensure_ascii=False)
    names = [name for name in ("texts", "inputs") if name in about]
    if len(names) != 1:
        problem = "both texts and inputs are given" if names else "neither texts nor inputs are given"
        raise RequestError(422, f"{problem}.", f"Send one of them, as in {example}.", "texts")
    (name,) = names
    unknown = [key for key in about if key not in (name, TASK)]
    if unknown:
        raise RequestError(422, f"the field {unknown[0]!r} is not known.", f"Send {example}.", unknown[0])
    values = about[name]
    kind = str if name == "texts" else dict
    if not isinstance(values, list):
        raise RequestError(422, f"{name} is {_kind(values)}, not a list.", f"Send {example}.", name)
    for number, value in enumerate(values):
        if not isinstance(value, kind):
            wanted = "text" if kind is str else "an object"
            raise RequestError(422, f"it is {_kind(value)}, not {wanted}.", f"Send {example}.", f"{name}[{number}]")
    task = {TASK: about[TASK]} if TASK in about else {}
    if name == "inputs":
        return [{**task, **value} for value in values], name
    return _plain_rows(values, task, predictor, example), name


def _plain_rows(
    texts: list[str], task: Mapping[str, Any], predictor: Predictor[Any], example: str
) -> list[Mapping[str, Any]]:
    named = task.get(TASK)
    if len(predictor.tasks) > 1 and (not isinstance(named, str) or named not in predictor.tasks):
        problem = "no task is named for texts" if named is None else f"the task {named!r} has no prompt here"
        raise RequestError(
            422, f"{problem}.", f'Add "task" with one of: {", ".join(predictor.tasks)}; or send {example}.', TASK
        )
    field = predictor.plain_field(named if isinstance(named, str) else None)
    if field is None:
        raise RequestError(422, "each text has several fields here.", f"Send inputs: {example}.", "texts")
    return [{**task, field: text} for text in texts]


def _kind(value: Any) -> str:
    """`a number`; what JSON calls it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "a number")
