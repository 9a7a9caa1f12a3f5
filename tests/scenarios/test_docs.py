"""Recipes, commands and links of the documentation are valid."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from pipelines.cli.app import COMMANDS
from pipelines.schema.loader import find_recipe, load_config
from stages.common.errors import InputError
from stages.common.patterns.config import Task
from tests.support.documented_commands import check
from tests.support.paths import ROOT

MARKDOWN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PAGES = ("pet", "ppt", "prompts")


def blocks(page: str) -> list[dict[str, Any]]:
    """Returns the YAML blocks of a page."""
    texts = re.findall(r"```yaml\n(.*?)```", (ROOT / f"docs/how-to/{page}.md").read_text(encoding="utf-8"), re.S)
    return [yaml.safe_load(text) for text in texts]


BLOCKS = [(page, number) for page in PAGES for number in range(len(blocks(page)))]
FIRST = blocks("pet")[0]["task"]


def recipe(block: dict[str, Any], page: str = "pet") -> dict[str, Any]:
    """Returns the recipe `smoke` with the sections of a block; for the page on PET, with its task and no prompts."""
    values = yaml.safe_load(find_recipe("smoke").read_text())
    if page == "pet":
        values["prompts"] = None
        values["task"] = {**values["task"], **FIRST}
    values["data"] = {**values["data"], "dev_shots": 2}
    for name, section in block.items():
        replaces_task = name == "task" and "options" in section
        values[name] = (
            section if replaces_task or not isinstance(values.get(name), dict) else {**values[name], **section}
        )
    if "verbalizer_search" in block:
        values["task"].pop("verbalizer")
    for source in values["data"].values():
        if isinstance(source, dict):  # the files of `smoke` get the fields of the task of the block
            source["fields"] = {**source.get("fields", {}), **{name: name for name in Task(**values["task"]).fields}}
    if values["data"].get("shots") == 0:
        values["baseline"] = None
    return values


def test_pages_have_recipe_blocks() -> None:
    assert len(BLOCKS) >= 12


@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_recipe_blocks_are_valid(page: str, number: int) -> None:
    config = load_config(recipe(blocks(page)[number], page))
    assert config.task.name


def test_wrong_block_is_an_error() -> None:
    with pytest.raises((ValueError, InputError)):
        load_config(recipe({"pet": {"patterns": ["unknown"]}}))


def test_command_reference_lists_all_commands() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^clozeline (\w+)", page, re.M) == sorted(
        COMMANDS, key=lambda name: page.index(f"\nclozeline {name}")
    )
    assert set(re.findall(r"^clozeline (\w+)", page, re.M)) == set(COMMANDS)


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in MARKDOWN])
def test_commands_of_pages_exist(page: str) -> None:
    for block in re.findall(r"^```.*?^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S):
        for line in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?(clozeline (?!COMMAND)[a-z][^|#\n]*)", block, re.M):
            check(line.split(), whole=False)


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in MARKDOWN])
def test_links_of_pages_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()] == []
