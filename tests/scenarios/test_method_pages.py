"""Every command of the pages that lead from terms of the literature to recipes can be planned."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from tests.support.paths import ROOT


def commands(page: str) -> list[str]:
    """Returns the commands of the table of a page."""
    return re.findall(r"`(clozeline plan [^`]+)` \|$", (ROOT / "docs/reference" / page).read_text("utf-8"), re.M)


def test_both_languages_have_the_same_commands() -> None:
    assert len(commands("methods.md")) >= 20
    assert commands("methods.md") == commands("methods.zh.md")


@pytest.mark.parametrize("command", commands("methods.md"))
def test_command_has_steps(command: str) -> None:
    recipe, *options = shlex.split(command)[2:]
    values: dict[str, Any] = {"-o": [], "--until": []}
    for flag, value in zip(options[::2], options[1::2], strict=True):
        values[flag].append(value)
    steps = build_steps(read_recipe(find_recipe(recipe), PipelineConfig, values["-o"]))
    for target in values["--until"]:
        assert any(re.fullmatch(target.replace("*", ".*"), step.name) for step in steps)
