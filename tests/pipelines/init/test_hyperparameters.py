"""Recommendations: rules as functions of facts, facts from real configs, and a recipe written with them."""

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
from pipelines.preflight.model_shapes import shape_of
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.errors import InputError

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


def causal(millions: int, num_layers: int, width: int) -> ModelShape:
    """The shape of a Llama of such a size."""
    return ModelShape(
        num_parameters=millions * 1_000_000, weights=(millions * 1_000_000,), largest_module=49152 * width,
        num_layers=num_layers, num_decoder_layers=0, width=width, inner=3 * width, num_heads=width // 64,
        vocabulary=49152, kept_inner=3, adapted={}, reads_vocabulary=False,
    )  # fmt: skip


SMALL = TaskProfile(
    num_classes=2, num_labeled=32, tokens=60, family="causal", shape=causal(135, 30, 576),
    positions=2048, memory=24 * GIB, cores=4, computes_in_bf16=True,
)  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"shape": causal(4, 2, 128)},
    "135M": {},
    "1B": {"shape": causal(1_000, 16, 2048)},
    "11B": {"shape": causal(11_000, 48, 4096)},
    "70B": {"shape": causal(70_000, 80, 8192)},
}


def advised(**changes: Any) -> dict[str, Any]:
    found = recommend_settings(replace(SMALL, **changes))
    assert all(item.reason and item.source for item in found)
    return {item.setting: item.value for item in found}


@pytest.mark.parametrize(
    ("size", "tune", "method", "vectors"),
    [
        ("tiny", "full", "prompt_tuning", 10),
        ("135M", "lora", "prompt_tuning", 10),
        ("1B", "lora", "p_tuning_v2", 20),
        ("11B", "prompt", "prompt_tuning", 100),
        ("70B", "prompt", "prompt_tuning", 100),
    ],
)
def test_the_size_of_the_backbone_decides_the_method(size: str, tune: str, method: str, vectors: int) -> None:
    found = advised(**SIZES[size])
    assert found["pet.tune"] == tune
    assert found["prompts: method"].startswith(method)
    assert found["ppt.num_vectors"] == vectors
    assert found["pet.training.learning_rate"] == {"full": 1e-5, "lora": 1e-3}.get(
        tune, found["prompts.training.learning_rate"]
    )


def test_a_backbone_that_does_not_fit_is_spread() -> None:
    key = "pet.workers"
    assert key not in advised()
    assert advised(**SIZES["70B"], memory=80 * GIB)["prompts.strategy"] == "zero3"
    few, many = (advised(**SIZES["70B"], memory=gib * GIB)[key] for gib in (80, 24))
    assert 2 <= few < many
    assert many * 24 * 0.8 / 2 >= 70e9 * 2 / GIB, "the weights fit into half of what is planned with"


@pytest.mark.parametrize("size", SIZES)
def test_less_memory_never_asks_for_more(size: str) -> None:
    weight = {"full": 2, "lora": 1, "prompt": 0}
    before: dict[str, Any] = {}
    for gib in (640, 80, 24, 8, 2, 1):
        found = advised(**SIZES[size], memory=gib * GIB)
        if before:
            assert weight[found["pet.tune"]] <= weight[before["pet.tune"]]
            assert found.get("sub-models at once (--max-parallel)", 0) <= before.get(
                "sub-models at once (--max-parallel)", 99
            )
            assert found.get("pet.training.micro_batch_size", 0) <= before.get("pet.training.micro_batch_size", 99)
        before = found


def test_lengths_follow_the_texts_and_the_room() -> None:
    assert advised(tokens=61)["backbone.max_length"] == 64
    assert advised(tokens=5)["backbone.max_length"] == 16
    assert advised(tokens=600, positions=512)["backbone.max_length"] == 502, "ten vectors stand before the text"
    assert "backbone.max_length" not in advised(tokens=None)


def test_few_labels_make_small_batches() -> None:
    assert advised(num_labeled=4)["pet.training.batch_size"] == 4
    assert advised(num_labeled=4)["pet.tune"] == "lora"


def test_without_labels_nothing_is_trained_on_labels() -> None:
    assert set(advised(num_labeled=0)) == {"backbone.max_length", "sub-models", "sub-models at once (--max-parallel)"}


def test_parameters_are_counted_without_weights(tmp_path: Path) -> None:
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


def test_facts_are_those_of_the_recipe() -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig)
    found = gather_task_profile(config, 2 * GIB, lambda *_: None)
    assert (found.num_classes, found.num_labeled, found.family, found.memory) == (2, 16, "masked", 2 * GIB)
    assert found.shape.num_layers == 2
    assert 20 < (found.tokens or 0) < 80
    assert gather_task_profile(config, None, lambda *_: None).memory > GIB


def test_a_recipe_is_written_and_is_one(tmp_path: Path, clozeline: Clozeline) -> None:
    target = tmp_path / "better.yaml"
    done = clozeline("recommend", "smoke", "-o", "distill.temperature=3", "--memory", "4", "--apply", str(target))
    assert done.returncode == 0, done.stderr
    assert "backbone.max_length" in done.stdout
    config = read_recipe(target, PipelineConfig)
    assert config.pet.tune == "full"
    assert config.pet.training is not None
    assert config.pet.training.learning_rate == 1e-5
    before = read_recipe(find_recipe("smoke"), PipelineConfig)
    assert config.task == before.task
    assert config.student == before.student, "an anchor that the student shares with the backbone is left alone"
    assert config.backbone.max_length != before.backbone.max_length
    assert config.distill.temperature == 3, "what was overridden is kept"
    assert "#   pet.tune: full (was" in target.read_text()
    again = clozeline("recommend", "smoke", "--apply", str(target))
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_nothing_is_written_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_recommended(
            read_recipe(find_recipe("smoke"), PipelineConfig),
            recommend_settings(SMALL),
            tmp_path / "nowhere" / "x.yaml",
        )


def test_advice_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, ("pet.tune=lora", "pet.mlm={}"))
    huge = recommend_settings(replace(SMALL, **SIZES["11B"]))
    with pytest.raises(InputError, match="does not fit this recipe"):
        write_recommended(config, huge, tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_a_backbone_that_is_not_here_is_said(clozeline: Clozeline) -> None:
    done = clozeline("recommend", "smoke", "-o", "backbone.asset=hf:nobody/nothing")
    assert done.returncode == 2
    assert "is not on this machine" in done.stderr
    assert json.dumps("config.json")[1:-1] in done.stderr
