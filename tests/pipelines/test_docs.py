"""What the documents show is what the program takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.config import PipelineConfig
from pipelines.recipe import find_recipe
from stages.errors import InputError

ROOT = Path(__file__).parents[2]
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/pet.md").read_text(), re.S)]
FIRST = BLOCKS[0]["task"]


def recipe(block: dict[str, Any]) -> dict[str, Any]:
    """`smoke`, without prompts, with the page's own task and one block on top, section by section."""
    values = {**yaml.safe_load(find_recipe("smoke").read_text()), "prompts": None}
    values["task"] = {**values["task"], **FIRST}
    values["data"] = {**values["data"], "dev_shots": 2}
    for name, section in block.items():
        whole = name == "task" and "options" in section
        values[name] = section if whole or not isinstance(values.get(name), dict) else {**values[name], **section}
    if "verbalizer_search" in block:
        values["task"].pop("verbalizer")
    if values["data"].get("shots") == 0:
        values["baseline"] = None
    return values


def test_the_page_has_its_blocks() -> None:
    assert len(BLOCKS) >= 7


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_of_the_page_is_a_valid_part_of_a_recipe(number: int) -> None:
    config = PipelineConfig.model_validate(recipe(BLOCKS[number]))
    assert config.task.name


def test_a_wrong_block_would_be_found() -> None:
    with pytest.raises((ValueError, InputError)):
        PipelineConfig.model_validate(recipe({"pet": {"patterns": ["nowhere"]}}))
