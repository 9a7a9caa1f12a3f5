"""What the documents show is what the program takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from pipelines.schema.loader import find_recipe, load_config
from stages.common.errors import InputError
from tests.support.paths import ROOT

PAGES = ("pet", "ppt", "prompts")


def blocks(page: str) -> list[dict[str, Any]]:
    found = re.findall(r"```yaml\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.S)
    return [yaml.safe_load(text) for text in found]


BLOCKS = [(page, number) for page in PAGES for number in range(len(blocks(page)))]
FIRST = blocks("pet")[0]["task"]


def recipe(block: dict[str, Any], page: str = "pet") -> dict[str, Any]:
    """`smoke` with one block on top, section by section; for the page on PET without prompts, with its own task."""
    values = yaml.safe_load(find_recipe("smoke").read_text())
    if page == "pet":
        values["prompts"] = None
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


def test_the_pages_have_their_blocks() -> None:
    assert len(BLOCKS) >= 12


@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_every_block_of_a_page_is_a_valid_part_of_a_recipe(page: str, number: int) -> None:
    config = load_config(recipe(blocks(page)[number], page))
    assert config.task.name


def test_a_wrong_block_would_be_found() -> None:
    with pytest.raises((ValueError, InputError)):
        load_config(recipe({"pet": {"patterns": ["nowhere"]}}))


def commands(page: str) -> list[str]:
    """The commands of the block that lists them."""
    listed = re.search(r"^```\n(clozeline init .*?)```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    assert listed
    return re.findall(r"^clozeline (\w+)", listed[1], re.M)


def test_both_readmes_list_the_commands_that_there_are() -> None:
    from pipelines.cli.app import app

    known = {item.name or str(item.callback.__name__) for item in app.registered_commands if item.callback}
    assert set(commands("README.md")) == known
    assert commands("README.zh.md") == commands("README.md")


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()] == []
