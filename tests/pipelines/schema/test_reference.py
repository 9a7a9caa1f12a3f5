"""The generated reference of recipes: up to date and complete, with a JSON schema that accepts valid recipes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from pipelines.schema import reference
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, load_config, shipped_recipes
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
VALIDATOR = jsonschema.Draft202012Validator(reference.recipe_schema())


def models(kind: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yields every model that a field of a recipe refers to."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind not in seen:
            seen.add(kind)
            yield kind
            for field in kind.model_fields.values():
                yield from models(field.annotation, seen)
        return
    for inner in get_args(kind):
        yield from models(inner, seen)


MODELS = list(models(PipelineConfig, set()))


def schema_errors(recipe: dict[str, Any]) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(recipe)]


@pytest.mark.parametrize(
    ("name", "make"), [("recipe.md", reference.reference_markdown), ("recipe.schema.json", reference.schema_text)]
)
def test_generated_files_are_up_to_date(name: str, make: Callable[[], str]) -> None:
    text = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    assert text == make(), f"docs/reference/{name} is out of date. Run: make reference"


def test_the_schema_is_valid_and_names_its_dialect() -> None:
    jsonschema.Draft202012Validator.check_schema(reference.recipe_schema())
    assert reference.recipe_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert not re.search(r'"(identity|asset_|discriminator)":', reference.schema_text())


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_fits_the_schema(name: str) -> None:
    assert schema_errors(yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pet.lop", {}),
        ("pet.training.learning_rate", 0),
        ("pet.tune", "everything"),
        ("task.labels", ["only"]),
        ("task.patterns", {"Capital": "{text} {mask}"}),
        ("members", {"other": {"kind": "oracle"}}),
        ("data.pool.fields", "text"),
    ],
)
def test_the_schema_rejects_invalid_values(key: str, value: Any) -> None:
    recipe = yaml.safe_load(find_recipe("smoke").read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    target = recipe
    for name in parents:
        target = target[name]
    target[last] = value
    assert schema_errors(recipe)
    with pytest.raises(ValueError, match=r"validation error"):
        load_config(recipe)


def test_every_model_has_a_section_and_every_field_a_row() -> None:
    assert len(MODELS) > 25
    sections = {part.partition("\n")[0]: part for part in reference.reference_markdown().split("\n## ")[1:]}
    named = {"Recipe" if model is PipelineConfig else reference.heading(model.__name__): model for model in MODELS}
    assert len(named) == len(MODELS), "two sections have the same heading"
    assert set(sections) == set(named)
    for heading, model in named.items():
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$", sections[heading], re.M)
        assert [row[0] for row in rows] == list(model.model_fields), heading
        for (key, _, default, text), field in zip(rows, model.model_fields.values(), strict=True):
            assert text.replace("\\|", "|") == " ".join((field.description or "").split()), key
            assert (default == "*required*") == field.is_required(), key


def test_every_link_of_the_reference_has_a_target() -> None:
    text = reference.reference_markdown()
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    assert all((ROOT / "docs/reference" / path).is_file() for path in re.findall(r"\]\(([^#)]+)\)", text))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "whole number, 1 or more"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number, above 0, at most 1"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "number from 0 to 1"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text, or *none*"),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1}, "list of (`a` or `b`), 1 or more"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "mapping to text"),
        ({"$ref": "#/$defs/PromptTaskConfig"}, "[Prompt task](#prompt-task)"),
        ({"type": "boolean"}, "true or false"),
    ],
)
def test_types_are_described_in_words(schema: dict[str, Any], words: str) -> None:
    assert reference.plain(schema) == words


def test_the_reference_has_defaults() -> None:
    rows = {tuple(row) for row in re.findall(r"^\| `(\w+)` \| .+? \| (.+?) \|", reference.reference_markdown(), re.M)}
    assert {("temperature", "`2.0`"), ("members", "`{}`"), ("init", "its own defaults"), ("ppt", "*none*")} <= rows


def test_the_command_prints_the_schema_and_writes_the_page(clozeline: Clozeline, tmp_path: Path) -> None:
    printed = clozeline("schema")
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout) == reference.recipe_schema()
    done = clozeline("schema", "--markdown", "--output", str(tmp_path / "reference.md"))
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "reference.md").read_text(encoding="utf-8") == reference.reference_markdown()
