"""How a new recipe is written."""

from __future__ import annotations

from typing import Any

import yaml

from pipelines.init.recipe_writer import recipe_text

SECTIONS: dict[str, Any] = {
    "name": "no",
    "seed": 42,
    "task": {
        "name": "no",
        "labels": ["no", "1.5", "a: b", "#x"],
        "patterns": {"one": "{text}\nIs it{mask}", "two": 'He said "{text}":{mask}'},
        "verbalizer": {"no": ["no"], "1.5": ["one", "two"]},
    },
    "data": {
        "train": {"asset": "some data.csv", "fields": {"text": "my text"}, "label": "label"},
        "unlabeled": [
            {"asset": "a.csv", "fields": {"text": "x"}},
            {"asset": "b.csv", "filter": {"label": ["", "None"]}},
        ],
        "test_size": 5,
    },
    "zero_shot": False,
    "members": {"small": {"kind": "probe", "encoder": {"asset": "pypi:x==1/y", "prefix": "query: "}}},
    "distill": {"seeds": [0, 1], "training": {"learning_rate": 5e-5, "steps": 20}},
}


def test_text_has_the_values_of_the_sections() -> None:
    assert yaml.safe_load(recipe_text(SECTIONS, ["one: two"], {})) == SECTIONS


def test_sections_are_blocks_and_settings_are_lines() -> None:
    lines = recipe_text(SECTIONS, ["The first line."], {"data.train": "5 texts"}).splitlines()
    assert lines[:4] == ["# The first line.", "name: 'no'", "seed: 42", ""]
    assert r'    one: "{text}\nIs it{mask}"' in lines
    assert "    '1.5': [one, two]" in lines
    assert "  train:                         # 5 texts" in lines
    assert "    - asset: a.csv" in lines and "      fields: {text: x}" in lines
    assert "  training: {learning_rate: 5.0e-05, steps: 20}" in lines
    assert "      prefix: 'query: '" in lines
    assert any(line.startswith("distill:  ") and "#" in line for line in lines)


def test_blank_lines_separate_sections() -> None:
    lines = recipe_text(SECTIONS, [], {}).splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#", "name", "seed")):
            assert not lines[number - 1], line
    assert "\n\n\n" not in "\n".join(lines)
