"""Generates the recipe reference from the models that read recipes: a JSON schema for editors, Markdown for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field
from pydantic.json_schema import GenerateJsonSchema

from pipelines.schema.config import PipelineConfig

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ROOT = "Recipe"
NONE = "*none*"
NAMED = ("properties", "patternProperties", "$defs")
"""Keywords whose value maps names of any kind to schemas."""
UNKNOWN = ("discriminator", "identity")
"""Keywords that are not JSON schema's: strict validators refuse them."""


class _Untitled(GenerateJsonSchema):
    """A field's title would say no more than its key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def recipe_schema() -> Schema:
    """The JSON schema of a recipe, draft 2020-12."""
    found = _tidy(PipelineConfig.model_json_schema(schema_generator=_Untitled))
    return {"$schema": DIALECT, **found, "title": "clozeline recipe"}


def schema_text() -> str:
    """The JSON schema as the file docs/recipe.schema.json holds it."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def _tidy(value: Any) -> Any:
    """Without keywords of others. A mapping whose keys have a form refuses keys of another, as pydantic does."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    made: Schema = {}
    for key, item in value.items():
        if key in NAMED:
            made[key] = {name: _tidy(inner) for name, inner in item.items()}
        elif key not in UNKNOWN:
            made[key] = item if key in ("default", "enum", "const") else _tidy(item)
    if "patternProperties" in made:
        made["additionalProperties"] = False
    return made


def reference_markdown() -> str:
    """The reference as the file docs/reference.md holds it: a table for each section."""
    whole = recipe_schema()
    models = {ROOT: whole, **_in_order(whole)}
    parts = [
        "# Reference of recipes",
        "Written by `make docs` from the models that read recipes; mend their descriptions, not this page. The same "
        "as a JSON schema: [recipe.schema.json](recipe.schema.json). What the sections are for is told in "
        "[pet.md](pet.md), [prompts.md](prompts.md) and [ppt.md](ppt.md); "
        "[demo.yaml](../pipelines/recipes/demo.yaml) is a whole recipe.",
        "An editor with a YAML language server checks a recipe while it is written, if this is its first line: "
        "`# yaml-language-server: $schema=PATH/recipe.schema.json`; `clozeline schema` prints that file.",
        "Unknown keys are refused. *required*: there is no default. *none* is YAML's `null`: as if the key were left "
        "out. A *name* has lower case letters, digits, `_`, `.` and `-`. `<name>` stands for any key, `<n>` for the "
        "number of an item, counted from 0, as in `-o prompts.tasks.0.pattern=review`.",
    ]
    places: dict[str, list[str]] = {name: [] for name in models}
    for place, name in _places(whole, "", models):
        places[name].append(place)
    for name, model in models.items():
        parts.append(f"## {heading(name)}")
        if places[name]:
            parts.append(f"Stands at {', '.join(f'`{place}`' for place in places[name])}.")
        parts.extend([_paragraphs(model["description"]), _table(model, models)])
    return "\n\n".join(parts) + "\n"


def heading(name: str) -> str:
    """Name of a model -> heading: PromptTaskConfig -> Prompt task."""
    words = re.findall(r"[A-Z][a-z0-9]*", re.sub(r"(Section|Config)$", "", name))
    return " ".join(words).capitalize()


def _paragraphs(text: str) -> str:
    """A docstring without its line breaks inside of paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _in_order(whole: Schema) -> dict[str, Schema]:
    """Every other model, in the order in which a reader of the tables meets them."""
    found: dict[str, Schema] = Field({})
    waiting = [whole]
    while waiting:
        for name in _refs(waiting.pop(0)):
            if name not in found:
                found[name] = whole["$defs"][name]
                waiting.append(found[name])
    return found


def _refs(value: Any) -> Iterator[str]:
    """Names of the models that a schema names, in order."""
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
    """Dotted place in a recipe, and the model that stands there."""
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
    # of a section as a whole, what it has anyway stands in its own table
    for name in _refs(field) if value and isinstance(value, dict) else ():
        own = {key: item.get("default") for key, item in models[name]["properties"].items()}
        if all(key in own for key in value):
            value = {key: item for key, item in value.items() if item != own[key]}
            if not value:
                return "its own defaults"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def plain(value: Schema) -> str:
    """A schema in plain words."""
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
