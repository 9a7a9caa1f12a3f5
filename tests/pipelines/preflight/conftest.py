"""A valid recipe, which the tests of this folder change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.recipe_files import write_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Returns the path of a valid recipe."""
    return write_recipe(tmp_path)
