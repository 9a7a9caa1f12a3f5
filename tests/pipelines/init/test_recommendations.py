"""`clozeline recommend`: its rules, the facts that they read, and the recipe that it writes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForMaskedLM, LlamaConfig

from cluster.parallel.memory import GIB, ModelShape
from pipelines.init.recommendations import TaskProfile, gather_task_profile, recommend_settings, write_recommended
from pipelines.preflight.memory import shape_of
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.assets.cache import resolve
from stages.common.errors import InputError

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


def causal(millions: int, num_layers: int, width: int) -> ModelShape:
    """The shape of a Llama of this size."""
    return ModelShape(
        num_parameters=millions * 1_000_000, weights=(millions * 1_000_000,), largest_module=49152 * width,
        num_layers=num_layers, num_decoder_layers=0, width=width, inner=3 * width, num_heads=width // 64,
        vocabulary=49152, kept_inner=3, adapted={}, reads_vocabulary=False,
    )  # fmt: skip


SMALL = TaskProfile(
    num_labeled=32, num_tokens=60, shape=causal(135, 30, 576), num_positions=2048, memory=24 * GIB, num_cores=4,
    computes_in_bf16=True,
)  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"shape": causal(4, 2, 128)},
    "135M": {},
    "1B": {"shape": causal(1_000, 16, 2048)},
    "11B": {"shape": causal(11_000, 48, 4096)},
    "70B": {"shape": causal(70_000, 80, 8192)},
}


def recommended(**changes: Any) -> dict[str, Any]:
    settings = recommend_settings(replace(SMALL, **changes))
    assert all(item.reason and item.source for item in settings)
    return {item.setting: item.value for item in settings}


@pytest.mark.parametrize(
    ("size", "tune", "method", "num_virtual_tokens"),
    [
        ("tiny", "full", "prompt_tuning", 10),
        ("135M", "lora", "prompt_tuning", 10),
        ("1B", "lora", "p_tuning_v2", 20),
        ("11B", "prompt", "prompt_tuning", 100),
        ("70B", "prompt", "prompt_tuning", 100),
    ],
)
def test_method_depends_on_the_size_of_the_backbone(size: str, tune: str, method: str, num_virtual_tokens: int) -> None:
    found = recommended(**SIZES[size])
    assert found["pet.tune"] == tune
    assert found["prompts: method"].startswith(method)
    assert found["ppt.num_virtual_tokens"] == num_virtual_tokens
    assert found["pet.training.learning_rate"] == {"full": 1e-5, "lora": 1e-3}.get(
        tune, found["prompts.training.learning_rate"]
    )


def test_backbone_that_does_not_fit_needs_several_workers() -> None:
    key = "pet.workers"
    assert key not in recommended()
    assert recommended(**SIZES["70B"], memory=80 * GIB)["prompts.strategy"] == "zero3"
    few, many = (recommended(**SIZES["70B"], memory=gib * GIB)[key] for gib in (80, 24))
    assert 2 <= few < many
    assert many * 24 * 0.8 / 2 >= 70e9 * 2 / GIB, "the weights fit into half of the usable memory"


@pytest.mark.parametrize("size", SIZES)
def test_less_memory_never_recommends_more(size: str) -> None:
    weight = {"full": 2, "lora": 1, "prompt": 0}
    before: dict[str, Any] = {}
    for gib in (640, 80, 24, 8, 2, 1):
        found = recommended(**SIZES[size], memory=gib * GIB)
        if before:
            assert weight[found["pet.tune"]] <= weight[before["pet.tune"]]
            assert found.get("sub-models at a time (--max-parallel)", 0) <= before.get(
                "sub-models at a time (--max-parallel)", 99
            )
            assert found.get("pet.training.micro_batch_size", 0) <= before.get("pet.training.micro_batch_size", 99)
        before = found


def test_max_length_depends_on_texts_and_positions() -> None:
    assert recommended(num_tokens=61)["backbone.max_length"] == 64
    assert recommended(num_tokens=5)["backbone.max_length"] == 16
    assert recommended(num_tokens=600, num_positions=512)["backbone.max_length"] == 502, (
        "ten positions are for the prompt"
    )
    assert "backbone.max_length" not in recommended(num_tokens=None)


def test_batches_are_not_larger_than_the_labeled_set() -> None:
    assert recommended(num_labeled=4)["pet.training.batch_size"] == 4
    assert recommended(num_labeled=4)["pet.tune"] == "lora"


def test_recommendations_without_labels_train_nothing() -> None:
    assert set(recommended(num_labeled=0)) == {
        "backbone.max_length",
        "sub-models",
        "sub-models at a time (--max-parallel)",
    }


def test_parameters_are_counted_without_loading_weights(tmp_path: Path) -> None:
    small = {
        "vocab_size": 90,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    model = BertForMaskedLM(BertConfig(**small))
    model.config.architectures = ["BertForMaskedLM"]
    model.config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert shape_of(tmp_path).num_parameters == sum(item.numel() for item in model.parameters())
    large = LlamaConfig(
        hidden_size=8192,
        num_hidden_layers=80,
        intermediate_size=28672,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    large.architectures = ["LlamaForCausalLM"]
    large.save_pretrained(tmp_path / "large")
    assert shape_of(tmp_path / "large").num_parameters == pytest.approx(70.6e9, rel=0.01)


@pytest.fixture
def smoke() -> PipelineConfig:
    """The recipe smoke, whose texts are on this machine: a recommendation does not download any."""
    config = read_recipe(find_recipe("smoke"), PipelineConfig)
    for source in config.data.sources.values():
        resolve(source.asset)
    return config


def test_profile_has_the_facts_of_the_recipe(smoke: PipelineConfig) -> None:
    found = gather_task_profile(smoke, 2 * GIB, lambda *_: None)
    assert (found.num_labeled, found.memory) == (16, 2 * GIB)
    assert found.shape.num_layers == 2
    assert 20 < (found.num_tokens or 0) < 80
    assert gather_task_profile(smoke, None, lambda *_: None).memory > GIB


def test_output_is_a_recipe_with_the_recommendations(
    tmp_path: Path, clozeline: Clozeline, smoke: PipelineConfig
) -> None:
    target = tmp_path / "better.yaml"
    done = clozeline("recommend", "smoke", "-o", "distill.temperature=3", "--memory", "4", "--output", str(target))
    assert done.returncode == 0, done.stderr
    assert "backbone.max_length" in done.stdout
    config = read_recipe(target, PipelineConfig)
    assert config.pet.tune == "full"
    assert config.pet.training is not None
    assert config.pet.training.learning_rate == 1e-5
    assert config.task == smoke.task
    assert config.students == smoke.students, "a YAML anchor that backbone and student share is not changed for both"
    assert config.backbone.max_length != smoke.backbone.max_length
    assert config.distill.temperature == 3, "overrides are kept"
    assert "#   pet.tune: full (was" in target.read_text()
    again = clozeline("recommend", "smoke", "--output", str(target))
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_output_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write_recommended(
            read_recipe(find_recipe("smoke"), PipelineConfig),
            recommend_settings(SMALL),
            tmp_path / "missing" / "x.yaml",
        )


def test_recommendations_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, ("pet.tune=lora", "pet.mlm={}"))
    huge = recommend_settings(replace(SMALL, **SIZES["11B"]))
    with pytest.raises(InputError, match="do not fit this recipe"):
        write_recommended(config, huge, tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_backbone_must_be_on_this_machine(clozeline: Clozeline) -> None:
    done = clozeline("recommend", "smoke", "-o", "backbone.asset=hf:missing/nothing")
    assert done.returncode == 2
    assert "is not on this machine" in done.stderr
    assert json.dumps("config.json")[1:-1] in done.stderr
