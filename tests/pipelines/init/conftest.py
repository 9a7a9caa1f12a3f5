"""A small model for `init`, and recipes that init writes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small masked model."""
    from tests.support.init_files import save_small_backbone

    folder = tmp_path_factory.mktemp("backbone")
    save_small_backbone(folder)
    return str(folder)


@pytest.fixture
def start(backbone: str) -> Callable[..., PipelineConfig]:
    """Runs init with the small model, and reads the recipe."""
    from tests.support.init_files import init

    def call(data: str, *arguments: str) -> PipelineConfig:
        done = init(
            data, "--output", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score", *arguments
        )
        assert done.exit_code == 0, done.exception
        return read_recipe(Path("made.yaml"), PipelineConfig)

    return call
