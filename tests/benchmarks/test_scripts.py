"""Tests that every benchmark can be imported and started, and that its recipes are valid."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from tests.support.paths import ROOT

MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "benchmarks").rglob("*.py"))
SCRIPTS = [name for name in MODULES if '__name__ == "__main__"' in (ROOT / f"{name.replace('.', '/')}.py").read_text()]


@pytest.mark.parametrize("name", MODULES)
def test_benchmark_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmark_prints_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])

    with pytest.raises(SystemExit) as error:
        module.main()

    assert error.value.code == 0
    assert module.__doc__.splitlines()[0] in " ".join(capsys.readouterr().out.split())


def comparison_recipes() -> Iterator[dict[str, Any]]:
    """Yields the recipes of the comparisons, for the first seed of each set."""
    from benchmarks.quality import prompts
    from benchmarks.quality.splits import SEEDS

    for name in prompts.HARD:
        for kind in prompts.METHODS:
            yield prompts.recipe(name, SEEDS[name][0], kind, Path("splits"))


def test_recipes_of_the_comparisons_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for content in comparison_recipes():
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

        assert read_recipe(path, PipelineConfig).name == content["name"]
