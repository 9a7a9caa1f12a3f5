"""Checks of backbones with an adapter or with code, before a run and in a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from pipelines.dag.fewshot import build_steps
from pipelines.preflight.checks import check_local, check_recipe
from pipelines.preflight.memory import cached_shape
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.schema.locations import errors_located_in
from stages.common.errors import InputError
from stages.common.models.backbones.folders import backbone_folder, is_ready
from tests.support.recipe_files import VOCABULARY
from tests.support.remote_code import write_scaled_bert


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def adapter(recipe: Path) -> Path:
    """Returns the folder of an adapter for the backbone of the recipe, which gets weights."""
    base, folder = recipe.parent / "backbone", recipe.parent / "adapter"
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(VOCABULARY) + 2, max_position_embeddings=64, **shape)
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(base)
    settings = LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    get_peft_model(AutoModelForMaskedLM.from_pretrained(base), settings).save_pretrained(folder)
    return folder


def read(recipe: Path, *overrides: str) -> PipelineConfig:
    return read_recipe(recipe, PipelineConfig, overrides)


def error_of(recipe: Path, *overrides: str, check: object = None) -> InputError:
    with pytest.raises(InputError) as caught, errors_located_in(recipe):
        config = read(recipe, *overrides)
        check_local(config) if check is check_local else check_recipe(config, lambda *task: None)
    return caught.value


def test_adapter_is_merged_before_a_run_and_not_by_a_plan(recipe: Path, adapter: Path) -> None:
    config = read(recipe, f"backbone.adapter={adapter}")
    check_local(config)
    assert not is_ready(config.language_model)
    check_recipe(config, lambda *task: None)
    assert is_ready(config.language_model)
    merged = backbone_folder(config.language_model)
    assert json.loads((merged / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert (merged / "tokenizer.json").read_text() == (recipe.parent / "backbone" / "tokenizer.json").read_text()
    assert cached_shape(config.language_model) == cached_shape(read(recipe).language_model)


def test_adapter_is_an_asset_of_every_step_with_the_backbone(recipe: Path, adapter: Path) -> None:
    config = read(recipe, f"backbone.adapter={adapter}")
    assert config.assets["backbone.adapter"] == str(adapter)

    def digests() -> dict[str, str]:
        steps = build_steps(config)
        return {step.name: step.assets["backbone.adapter"] for step in steps if "backbone.adapter" in step.assets}

    before = digests()
    with_backbone = {step.name for step in build_steps(config) if "backbone.asset" in step.assets}
    assert before.keys() == with_backbone and len(with_backbone) > 4
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    assert all(digest != before[name] for name, digest in digests().items())


def test_wrong_base_is_one_error_before_a_run(recipe: Path, adapter: Path) -> None:
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(VOCABULARY) + 2, max_position_embeddings=64, **shape)
    BertForMaskedLM(config).save_pretrained(recipe.parent / "backbone")
    error = error_of(recipe, f"backbone.adapter={adapter}")
    assert error.key == "backbone.adapter"
    assert "does not fit the model" in error.problem and "size mismatch" in error.problem
    assert error.remedy.startswith("Set asset to the model that it was trained on")
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "P_TUNING"])
def test_plan_refuses_prompts_of_peft(kind: str, recipe: Path, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    error = error_of(recipe, f"backbone.adapter={adapter}", check=check_local)
    assert (error.key, kind in error.problem) == ("backbone.adapter", True)


def test_plan_names_the_setting_for_an_adapter_in_the_place_of_a_model(recipe: Path, adapter: Path) -> None:
    error = error_of(recipe, f"backbone.asset={adapter}", check=check_local)
    assert error.key == "backbone.asset"
    assert error.remedy == f"Set asset to its model, and adapter: {adapter}."


def test_code_of_a_model_is_refused_or_named_by_a_plan(recipe: Path, adapter: Path) -> None:
    folder = write_scaled_bert(recipe.parent / "backbone", recipe.parent / "scaled")
    error = error_of(recipe, f"backbone.asset={folder}", check=check_local)
    assert error.key == "backbone.asset"
    assert "set trust_remote_code: true" in error.remedy
    config = read(recipe, f"backbone.asset={folder}", "backbone.trust_remote_code=true")
    for warnings in (check_local(config).warnings, check_recipe(config, lambda *task: None)):
        (warning,) = [item for item in warnings if item.startswith("backbone.trust_remote_code: ")]
        assert "configuration_scaled.py, modeling_scaled.py" in warning
    shape = cached_shape(config.language_model)
    assert shape is not None and shape.width == 16
    encoder = error_of(recipe, f"students.small.asset={folder}", check=check_local)
    assert encoder.key == "students.small.asset"
    assert "not run for encoders" in encoder.problem
