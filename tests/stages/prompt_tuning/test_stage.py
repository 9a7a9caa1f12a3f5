"""Tests of the prompt-tuning stage: each method on each family of backbones learns, and is loaded as it was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from stages.common.data.step_outputs import read_losses
from stages.common.examples import load_examples
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.prompts.config import WORD_VECTORS, PromptConfig, TransferConfig
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.loader import load_prompts
from stages.common.prompts.peft_format import load_prompt
from stages.common.prompts.soft_prompt import Prompt
from stages.common.prompts.text_prompts import PromptMixture
from stages.common.training.config import TrainingConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from tests.support.prompt_methods import METHODS, soft_task
from tests.support.small_models import FAMILIES, backbone_config, film_task
from tests.support.stage_runs import SILENT, Kept, assert_a_seed_decides, logits_of, run, written

TRAINING = TrainingConfig(learning_rate=0.05, batch_size=4, steps=24, lr_scheduler="constant", weight_decay=0.0)
ADAPTER_TRAINING = TRAINING.model_copy(update={"learning_rate": 0.003, "steps": 60})
"""Adapters, an LSTM and the network of IDPG diverge at the learning rate of a prompt."""


def tuned(folder: Path, name: str, method: str = "prompt_tuning", **settings: Any) -> PromptTuningConfig:
    prompt = METHODS[method]
    training = ADAPTER_TRAINING if prompt.lora or prompt.encoder == "lstm" or prompt.reads_text else TRAINING
    values = {"prompt": prompt, "training": training, "seed": 1, "task": film_task(name).only("review")} | settings
    return PromptTuningConfig(pattern="review", backbone=backbone_config(folder), **values)


def train_and_load(
    config: PromptTuningConfig, data: Path, out: Path, recorder: Any = SILENT, sources: tuple[Path, ...] = ()
) -> Prompt:
    """Trains the prompt; checks that the loss decreases, and that the saved prompt predicts the written logits."""
    result = run(prompt_tuning, config, prompt_tuning.Inputs(data=data, sources=sources), out, recorder)
    train_set, test_set = (load_examples(data / f"{name}.jsonl") for name in ("train", "test"))
    backbone = load_backbone(config.backbone, frozen=True)
    initial = initialize_prompt(
        config.prompt, config.task, "review", backbone, seed=config.seed, pretrained=None, sources=sources
    )
    classifier = ClozeClassifier.of(config.task, "review", backbone, config.backbone, initial)
    items = classifier.items(train_set)
    with torch.inference_mode():
        before = float(classifier.loss(items))
    if config.prompt.lora:
        PeftModel.from_pretrained(backbone.model, out / "prompt" / "lora")
        backbone.freeze()
    prompt = load_prompt(out / "prompt", backbone)
    classifier.prompt = prompt
    with torch.inference_mode():
        after = float(classifier.loss(items))
    assert after < before - 0.02
    assert classifier.predict(test_set, SILENT, "") == pytest.approx(logits_of(out), abs=5e-5)
    assert read_losses(out)[-1] == pytest.approx(result.final_loss, abs=1e-6)
    return prompt


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_method_learns_on_each_family_and_is_loaded(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = tuned(backbone_folders[name], name, method)
    assert train_and_load(config, film_data, tmp_path / "out").num_virtual_tokens == 5


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_lstm", "low_rank", "idpg", "with_lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_soft_blocks_learn(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = tuned(backbone_folders[name], name, method, task=soft_task(name))
    prompt = train_and_load(config, film_data, tmp_path / "out")
    assert (prompt.position, prompt.num_virtual_tokens) == ("inside", 5)


def test_scores_and_inspection_are_logged(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    recorder = Kept()
    config = tuned(backbone_folders["gpt2"], "gpt2")
    result = run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / "out", recorder)
    assert result.trainable_parameters == 5 * 32
    assert [row["vector"] for row in recorder.tables["nearest_words"]] == [1, 2, 3, 4, 5]
    assert set(recorder.figures) == {"prompt_norms", "confusion"}
    assert recorder.metrics["test/mcc"] == result.test.mcc


def test_hard_prompt_steps_freeze_word_vectors_first(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    def train(hard_prompt_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        prompt = PromptConfig(hard_prompt_steps=hard_prompt_steps)
        config = tuned(backbone_folders["gpt2"], "gpt2", prompt=prompt, task=soft_task("gpt2"))
        backbone = load_backbone(config.backbone, frozen=True)
        initial = initialize_prompt(
            config.prompt, config.task, "review", backbone, seed=config.seed, pretrained=None
        ).vectors
        out = tmp_path / str(hard_prompt_steps)
        run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), out)
        return initial, load_prompt(out / "prompt", backbone).vectors

    initial, final = train(TRAINING.steps or 0)
    assert torch.equal(initial[2:], final[2:])
    assert not torch.equal(initial[:2], final[:2])
    initial, final = train(3)
    assert (initial[2:] != final[2:]).any(dim=1).all()
    assert WORD_VECTORS == "table.words"


@pytest.mark.parametrize(
    "method", ["prompt_tuning", "p_tuning_lstm", "prefix_tuning", "p_tuning_v2", "low_rank", "idpg", "with_lora"]
)
def test_result_depends_on_the_seed_only(
    method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        training = TRAINING.model_copy(update={"steps": 2})
        config = tuned(backbone_folders["gpt2"], "gpt2", method, seed=seed, training=training)
        run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_v2"])
@pytest.mark.parametrize("name", FAMILIES)
def test_linear_head_replaces_label_words(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    prompt = METHODS[method].model_copy(update={"head": "linear"})
    task = film_task(name).only("review").model_copy(update={"verbalizer": {}})
    config = tuned(backbone_folders[name], name, prompt=prompt, task=task)
    result = run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / "out")
    assert result.final_loss < 0.6  # a head of zeros has the loss log 2
    loaded = load_prompt(tmp_path / "out" / "prompt", load_backbone(config.backbone, frozen=True))
    assert result.trainable_parameters == loaded.vectors.numel() + 2 * (32 + 1)
    served = load_prompts([tmp_path / "out"])[0]
    test_set = load_examples(film_data / "test.jsonl")
    assert served.predict(test_set, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=5e-5)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_v2"])
def test_backbone_computes_with_dropout_if_configured(
    method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """GPT-2's config has a dropout of 0.1, Llama's has none."""

    def first_loss(name: str, *, dropout: bool) -> float:
        prompt = METHODS[method].model_copy(update={"backbone_dropout": dropout})
        config = tuned(backbone_folders[name], name, prompt=prompt, training=TRAINING.model_copy(update={"steps": 1}))
        out = tmp_path / f"{name}-{dropout}"
        result = run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), out)
        return float(result.final_loss)

    assert first_loss("gpt2", dropout=True) != pytest.approx(first_loss("gpt2", dropout=False), abs=1e-4)
    assert first_loss("llama", dropout=True) == pytest.approx(first_loss("llama", dropout=False), abs=1e-6)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_mixtures_of_trained_prompts_learn_and_leave_them_unchanged(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    short = TRAINING.model_copy(update={"steps": 4})
    sources = tuple(tmp_path / str(seed) for seed in range(2))
    for seed, folder in enumerate(sources):
        config = tuned(backbone_folders[name], name, training=short, seed=seed)
        run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), folder)
    prompt = PromptConfig(
        method="attempt", num_virtual_tokens=5, bottleneck_size=8, temperature=1.0,
        sources=("ppt", TransferConfig(task="films", method="tuning")),
    )  # fmt: skip
    config = tuned(backbone_folders[name], name, prompt=prompt)
    recorder = Kept()
    mixture = train_and_load(config, film_data, tmp_path / "out", recorder, sources).table
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["trainable_parameters"] == 5 * 32 + 2 * 8 * 32 + 2 * 32
    assert "nearest_words" not in recorder.tables
    weights = {row["prompt"]: row["mean weight"] for row in recorder.tables["mixture"]}
    assert list(weights) == ["ppt", "films/tuning", "its own"]
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3)
    backbone = load_backbone(config.backbone, frozen=True)
    expected = [load_prompt(folder / "prompt", backbone).vectors for folder in sources]
    assert isinstance(mixture, PromptMixture)
    assert torch.equal(mixture.sources, torch.stack(expected))
    served = load_prompts([tmp_path / "out"])[0]
    test_set = load_examples(film_data / "test.jsonl")
    assert served.predict(test_set, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=5e-5)
