"""The OpenAPI document of the service, and the page that shows it and sends requests."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.serving.service.request_parsing import RequestLimits

PAGE = Path(__file__).with_name("docs.html")


def openapi_document(limits: RequestLimits, *, needs_key: bool, has_admin: bool) -> dict[str, Any]:
    """Returns the document, which does not name the served model."""
    row = {"type": "object", "additionalProperties": True, "examples": [{"text": "Some text."}]}
    task = {"type": "string", "description": "The task of all texts, if several tasks are served."}
    body: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "texts": {"type": "array", "items": {"type": "string"}, "maxItems": limits.max_texts},
            "inputs": {"type": "array", "items": row, "maxItems": limits.max_texts},
            "task": task,
        },
        "oneOf": [{"required": ["texts"]}, {"required": ["inputs"]}],
    }
    predictions = {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}},
    }
    prediction = {
        "type": "object",
        "description": "What the model predicts; of a classifier, the label and a probability per label.",
        "properties": {
            "label": {
                "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
                "description": "A list if a text has any number of labels.",
            },
            "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    }
    error = {
        "type": "object",
        "required": ["error", "remedy"],
        "properties": {"error": {"type": "string"}, "remedy": {"type": "string"}, "field": {"type": "string"}},
    }
    reasons = {
        "400": "The body is not UTF-8, not JSON, or not an object.",
        "413": f"More than {limits.max_texts} texts or {limits.max_bytes} bytes.",
        "422": "A field is missing, empty, unknown or has the wrong type.",
        "500": "The model failed on a text.",
        "503": "The model is loading, or the queue is full. Retry-After says when to try again.",
        **({"401": "The API key is missing or wrong."} if needs_key else {}),
        **(
            {"429": "More texts of a task than its limits allow. Retry-After says when to try again."}
            if has_admin
            else {}
        ),
    }
    errors = {code: _response(text, {"$ref": "#/components/schemas/Error"}) for code, text in sorted(reasons.items())}
    predict = {
        "summary": "Predict each text, in the order of the request",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": {"texts": ["Some text."]}}},
        },
        "responses": {"200": _response("The predictions.", predictions), **errors},
    }
    any_object = {"type": "object"}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "clozeline", "version": _version(), "summary": "Text classification over HTTP"},
        "paths": {
            "/predict": {"post": predict},
            "/generate": {"post": _generate(body, predictions, errors)},
            "/": {"get": _get("Describe the model: labels, fields, origin, limits", any_object)},
            "/health": {"get": _get("Return 200 while the process lives", any_object, is_open=True)},
            "/ready": {"get": _get("Return 200 once the model is loaded, 503 before", any_object, is_open=True)},
            "/metrics": {"get": _get("Prometheus metrics", {"type": "string"}, media_type="text/plain")},
        },
        "components": {"schemas": {"Prediction": prediction, "Error": error}},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    if has_admin:
        document["paths"] |= _admin_paths()
        document["components"].setdefault("securitySchemes", {})["admin"] = {"type": "http", "scheme": "bearer"}
    return document


def _generate(body: dict[str, Any], predictions: dict[str, Any], errors: dict[str, Any]) -> dict[str, Any]:
    """Returns the route that generates texts. Its body and answer are those of predictions, or the parts of a text."""
    stream = {"type": "boolean", "description": "If true, one text is sent in parts, as server-sent events."}
    schema = {**body, "properties": {**body["properties"], "stream": stream}}
    events = {"schema": {"type": "string"}, "example": 'data: {"text": "a part"}\n\n'}
    generated = _response("The texts, or the events of one.", predictions)
    return {
        "summary": "Generate a text for each input, or stream one text",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": {"texts": ["Some text."], "stream": True}}},
        },
        "responses": {
            "200": {**generated, "content": {**generated["content"], "text/event-stream": events}},
            **errors,
        },
    }


def _admin_paths() -> dict[str, Any]:
    """Returns the routes that change the tasks."""
    name = {"type": "string"}
    names = {"type": "array", "items": name}
    rate = {"type": "number", "exclusiveMinimum": 0, "description": "Texts per second on average."}
    waiting = {"type": "integer", "minimum": 1, "description": "Texts at the same time."}
    limits = {"type": "object", "properties": {"texts_per_second": rate, "max_waiting": waiting}}
    version = {
        "type": "object",
        "required": ["folder"],
        "properties": {"folder": name, "version": name, "aliases": names, "limits": limits},
    }
    alias = {"type": "object", "required": ["version"], "properties": {"version": name}}
    task = "/v1/tasks/{task}"
    return {
        "/v1/tasks": {"get": _admin("List tasks, versions, aliases and limits")},
        task: {
            "get": _admin("Return one task", "task"),
            "put": _admin("Add a version of a task, or a task", "task", body=version),
            "delete": _admin("Remove a task", "task", code="204"),
        },
        f"{task}/versions/{{version}}": {"delete": _admin("Remove a version", "task", "version")},
        f"{task}/aliases/{{alias}}": {
            "put": _admin("Move an alias to a version", "task", "alias", body=alias),
            "delete": _admin("Remove an alias", "task", "alias"),
        },
        f"{task}/limits": {"put": _admin("Replace the limits of a task", "task", body=limits)},
    }


def _admin(summary: str, *parameters: str, body: Any = None, code: str = "200") -> dict[str, Any]:
    reasons = {
        "401": "The admin key is missing or wrong.",
        "404": "The service has no such task, version or alias.",
        "409": "The change does not fit what the service has.",
        "422": "A field is wrong, or the folder has no prompt that works.",
    }
    error = {"$ref": "#/components/schemas/Error"}
    operation: dict[str, Any] = {
        "summary": summary,
        "security": [{"admin": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parameters
        ],
        "responses": {
            code: {"description": f"{summary}."} if code == "204" else _response(f"{summary}.", {"type": "object"}),
            **{key: _response(text, error) for key, text in reasons.items()},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _get(summary: str, schema: Any, *, is_open: bool = False, media_type: str = "application/json") -> dict[str, Any]:
    operation = {"summary": summary, "responses": {"200": _response(f"{summary}.", schema, media_type)}}
    return {**operation, "security": []} if is_open else operation


def _response(description: str, schema: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _version() -> str:
    try:
        return version("clozeline")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0"
