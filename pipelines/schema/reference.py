"""Generates the recipe reference from the config models: a JSON schema for editors, Markdown for the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from pipelines.schema.config import PipelineConfig

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ROOT = "Recipe"
NONE = "*none*"
NAMED = ("properties", "patternProperties", "$defs")
"""Keywords whose value maps names to schemas."""
UNKNOWN = ("discriminator", "identity", "asset")
"""Keywords that are not part of JSON schema. Strict validators reject them."""


INTRO = """\
# Recipe keys

`make reference` writes this page from the config models. To change a text, edit the description in the code.
[recipe.schema.json](recipe.schema.json) is the same as a JSON schema. [Patterns, members and
students](../how-to/pet.md), [Soft prompts](../how-to/prompts.md) and [Prompt pretraining](../how-to/ppt.md) explain
the sections. `pipelines/recipes/demo.yaml` is a complete recipe.

An editor with a YAML language server checks a recipe while you write, if its first line is `# yaml-language-server:
$schema=PATH/recipe.schema.json`. `clozeline schema` prints that file.

Unknown keys are rejected. *required* means that the key has no default. *none* is YAML's `null` and has the same
effect as no key. A *name* consists of lower-case letters, digits, `_`, `.` and `-`. `<name>` represents any key, and
`<n>` the index of an item, counted from 0, as in `-o prompts.tasks.0.pattern=review`.
"""
"""The text before the tables."""


class _Untitled(GenerateJsonSchema):
    """Leaves out titles of fields, which repeat their keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def recipe_schema() -> Schema:
    """Returns the JSON schema of a recipe, draft 2020-12."""
    schema = _tidy(PipelineConfig.model_json_schema(schema_generator=_Untitled))
    return {"$schema": DIALECT, **schema, "title": "clozeline recipe"}


def schema_text() -> str:
    """Returns the text of docs/reference/recipe.schema.json."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def _tidy(value: Any) -> Any:
    """Removes unknown keywords. Mappings with a pattern for keys reject other keys, as pydantic does."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidied: Schema = {}
    for key, item in value.items():
        if key in NAMED:
            tidied[key] = {name: _tidy(inner) for name, inner in item.items()}
        elif key == "description":
            tidied[key] = _paragraphs(item)
        elif key not in UNKNOWN:
            tidied[key] = item if key in ("default", "enum", "const") else _tidy(item)
    if "patternProperties" in tidied:
        tidied["additionalProperties"] = False
    return tidied


def reference_markdown() -> str:
    """Returns the text of docs/reference/recipe.md: one table per section."""
    whole = recipe_schema()
    models = {ROOT: whole, **_in_order(whole)}
    parts = [_paragraphs(INTRO.strip())]
    places: dict[str, list[str]] = {name: [] for name in models}
    for place, name in _places(whole, "", models):
        places[name].append(place)
    for name, model in models.items():
        parts.append(f"## {heading(name)}")
        if places[name]:
            parts.append(f"Keys: {', '.join(f'`{place}`' for place in places[name])}.")
        parts.extend([model["description"], _table(model, models)])
    return "\n\n".join(parts) + "\n"


def heading(name: str) -> str:
    """Returns the heading of a model: PromptTaskConfig -> Prompt task."""
    words = re.findall(r"[A-Z][a-z0-9]*", re.sub(r"(Section|Config)$", "", name))
    return " ".join(words).capitalize()


def _paragraphs(text: str) -> str:
    """Removes line breaks inside paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _in_order(whole: Schema) -> dict[str, Schema]:
    """Returns every other model, in the order in which the tables refer to them."""
    models: dict[str, Schema] = {}
    waiting = [whole]
    while waiting:
        for name in _refs(waiting.pop(0)):
            if name not in models:
                models[name] = whole["$defs"][name]
                waiting.append(models[name])
    return models


def _refs(value: Any) -> Iterator[str]:
    """Yields the names of the models that a schema refers to, in order."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for key, item in value.items():
            if key not in ("$defs", "default"):
                yield from _refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _refs(item)


def _places(value: Schema, place: str, models: dict[str, Schema]) -> Iterator[tuple[str, str]]:
    """Yields the dotted key and the model of every section."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        yield place, name
        yield from _places({"properties": models[name]["properties"]}, place, models)
        return
    for key, item in value.get("properties", {}).items():
        yield from _places(item, f"{place}.{key}" if place else key, models)
    for item in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _places(item, place, models)
    for item in value.get("patternProperties", {}).values():
        yield from _places(item, f"{place}.<name>", models)
    if isinstance(value.get("additionalProperties"), dict):
        yield from _places(value["additionalProperties"], f"{place}.<name>", models)
    if "items" in value:
        yield from _places(value["items"], f"{place}.<n>", models)


def _table(model: Schema, models: dict[str, Schema]) -> str:
    rows = ["| key | type | default | what |", "|---|---|---|---|"]
    for key, field in model["properties"].items():
        default = "*required*" if key in model.get("required", ()) else _default(field, models)
        cells = (f"`{key}`", plain(field), default, field.get("description", ""))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def _default(field: Schema, models: dict[str, Schema]) -> str:
    value = field.get("default")
    if value is None:
        return NONE
    # The table of a section lists its defaults, so only differences from them are shown.
    for name in _refs(field) if value and isinstance(value, dict) else ():
        own = {key: item.get("default") for key, item in models[name]["properties"].items()}
        if all(key in own for key in value):
            value = {key: item for key, item in value.items() if item != own[key]}
            if not value:
                return "its own defaults"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def plain(value: Schema) -> str:
    """Describes a schema in words."""
    if "$ref" in value:
        title = heading(value["$ref"].rpartition("/")[2])
        return f"[{title}](#{title.lower().replace(' ', '-')})"
    for key in ("anyOf", "oneOf"):
        if key in value:
            some = [plain(item) for item in value[key] if item.get("type") != "null"]
            return " or ".join(some) + (f", or {NONE}" if len(some) < len(value[key]) else "")
    if "const" in value or "enum" in value:
        return " or ".join(f"`{item}`" for item in value.get("enum", [value.get("const")]))
    kind = value.get("type")
    if kind == "array":
        return _plain_list(value)
    if kind == "object":
        inner = next(iter(value.get("patternProperties", {}).values()), value.get("additionalProperties"))
        return f"mapping to {plain(inner)}" if isinstance(inner, dict) else "mapping"
    names = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
    if value.get("pattern"):
        return "name"
    return names.get(str(kind), "anything") + _range(value)


def _plain_list(value: Schema) -> str:
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])}: {', '.join(plain(item) for item in value['prefixItems'])}"
    least = f", {value['minItems']} or more" if value.get("minItems") else ""
    inner = plain(value.get("items", {}))
    return f"list of {inner if ' or ' not in inner else f'({inner})'}{least}"


def _range(value: Schema) -> str:
    low, above = value.get("minimum"), value.get("exclusiveMinimum")
    high, below = value.get("maximum"), value.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    found = [f"{low:g} or more"] if low is not None else [f"above {above:g}"] if above is not None else []
    found += [f"at most {high:g}"] if high is not None else [f"below {below:g}"] if below is not None else []
    return f", {', '.join(found)}" if found else ""
