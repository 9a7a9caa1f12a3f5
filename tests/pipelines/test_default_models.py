"""Tests of the default models: their references are pinned, documented, and those of the demo."""

from __future__ import annotations

import pytest

from pipelines import default_models
from pipelines.default_models import MINILM, MULTILINGUAL_E5, QWEN_CODER, SMOLLM2, ModelAsset
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.assets.cache import identity
from stages.common.assets.references import Asset
from tests.support.paths import ROOT

MODELS = {name: item for name, item in vars(default_models).items() if isinstance(item, ModelAsset)}


@pytest.mark.parametrize("name", MODELS)
def test_reference_is_pinned_and_documented(name: str) -> None:
    model = MODELS[name]
    assert identity(model.asset).startswith("sha256:")
    assert Asset.parse(model.hub_asset).name == model.hub
    page = (ROOT / "docs/reference/assets.md").read_text()
    assert model.asset in page and model.hub in page


def test_demo_uses_the_defaults() -> None:
    demo = read_recipe(find_recipe("demo"), PipelineConfig)
    assert (demo.backbone.asset, demo.students["small"].asset) == (SMOLLM2.asset, MINILM.asset)


def test_reads_knows_the_languages_of_a_model() -> None:
    assert SMOLLM2.reads("en") and not SMOLLM2.reads("zh")
    assert QWEN_CODER.reads("zh") and not QWEN_CODER.reads("sw")
    assert MULTILINGUAL_E5.reads("sw")
