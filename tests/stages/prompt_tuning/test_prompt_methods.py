"""Tests of all prompt methods on all families of backbones: they learn, and are loaded as they were saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from stages.common.data.split_files import load_examples
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.config import Task
from stages.common.prompts.config import WORD_VECTORS, PromptConfig
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.loader import load_prompts
from stages.common.prompts.peft_format import load_prompt
from stages.common.prompts.soft_prompt import Prompt
from stages.common.training.config import TrainingConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from tests.support.small_models import FAMILIES, backbone_config, film_task
from tests.support.stage_runs import SILENT, assert_a_seed_decides, logits_of, run, written

LOOP = TrainingConfig(learning_rate=0.05, batch_size=4, steps=24, lr_scheduler="constant", weight_decay=0.0)
METHODS: dict[str, PromptConfig] = {
    "prompt_tuning": PromptConfig(num_virtual_tokens=5),
    "p_tuning_lstm": PromptConfig(method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=16),
    "p_tuning_mlp": PromptConfig(
        method="p_tuning", num_virtual_tokens=5, encoder_hidden_size=16, reparameterization="mlp"
    ),
    "prefix_tuning": PromptConfig(method="prefix_tuning", num_virtual_tokens=5, encoder_hidden_size=16),
    "p_tuning_v2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5),
    "p_tuning_v2_mlp": PromptConfig(
        method="p_tuning_v2", num_virtual_tokens=5, encoder_hidden_size=16, reparameterization="mlp"
    ),
    "low_rank": PromptConfig(num_virtual_tokens=5, rank=2),
    "low_rank_deep": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, rank=2),
    "with_lora": PromptConfig(num_virtual_tokens=5, lora=LoraConfig(rank=2)),
    "deep_with_lora": PromptConfig(method="p_tuning_v2", num_virtual_tokens=5, lora=LoraConfig(rank=2)),
}
SOFT = {
    "llama": "{soft:2}Review: {text}\n{soft:3:the film}{mask}",
    "gpt2": "{soft:2}Review: {text}\n{soft:3:the film}{mask}",
    "bert": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
    "roberta": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
    "t5": "{soft:2}Review: {text} {soft:3:the film} {mask}.",
}


def tuned(folder: Path, name: str, **settings: Any) -> PromptTuningConfig:
    values = {"training": LOOP, "seed": 1, "task": film_task(name).only("review")} | settings
    return PromptTuningConfig(pattern="review", backbone=backbone_config(folder), **values)


def soft_task(name: str) -> Task:
    return film_task(name).only("review").model_copy(update={"patterns": {"review": SOFT[name]}})


def check_learnt(config: PromptTuningConfig, data: Path, out: Path) -> Prompt:
    """Trains, checks that the loss falls, and that the saved prompt gives the written logits."""
    run(prompt_tuning, config, prompt_tuning.Inputs(data=data), out)
    train_set, test_set = (load_examples(data / f"{part}.jsonl") for part in ("train", "test"))
    backbone = load_backbone(config.backbone, frozen=True)
    start = initialize_prompt(config.prompt, config.task, "review", backbone, seed=config.seed, pretrained=None)
    classifier = ClozeClassifier.of(config.task, "review", backbone, config.backbone, start)
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
    return prompt


def loop_for(method: str) -> TrainingConfig:
    """Adapters diverge at the learning rate of a prompt."""
    return LOOP.model_copy(update={"learning_rate": 0.003, "steps": 60}) if METHODS[method].lora else LOOP


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_method_learns_and_is_loaded(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = tuned(backbone_folders[name], name, prompt=METHODS[method], training=loop_for(method))
    assert check_learnt(config, film_data, tmp_path / "out").num_virtual_tokens == 5


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_lstm", "low_rank", "with_lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_soft_blocks_learn(
    name: str, method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    loop = loop_for(method)
    config = tuned(backbone_folders[name], name, prompt=METHODS[method], task=soft_task(name), training=loop)
    prompt = check_learnt(config, film_data, tmp_path / "out")
    assert (prompt.position, prompt.num_virtual_tokens) == ("inside", 5)


def test_hard_prompt_steps_freeze_word_vectors_first(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    def trained(hard_prompt_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        prompt = PromptConfig(hard_prompt_steps=hard_prompt_steps)
        config = tuned(backbone_folders["gpt2"], "gpt2", prompt=prompt, task=soft_task("gpt2"))
        backbone = load_backbone(config.backbone, frozen=True)
        start = initialize_prompt(
            config.prompt, config.task, "review", backbone, seed=config.seed, pretrained=None
        ).vectors
        out = tmp_path / str(hard_prompt_steps)
        run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), out)
        return start, load_prompt(out / "prompt", backbone).vectors

    start, end = trained(LOOP.steps or 0)
    assert torch.equal(start[2:], end[2:]), "frozen to the end"
    assert not torch.equal(start[:2], end[:2])
    start, end = trained(3)
    assert (start[2:] != end[2:]).any(dim=1).all(), "freed after three steps"
    assert WORD_VECTORS == "table.words"


@pytest.mark.parametrize("method", ["p_tuning_lstm", "prefix_tuning", "p_tuning_v2", "low_rank", "with_lora"])
def test_prompt_method_follows_the_seed(
    method: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    def once(seed: int, where: str) -> dict[str, bytes]:
        loop = LOOP.model_copy(update={"steps": 2})
        config = tuned(backbone_folders["gpt2"], "gpt2", prompt=METHODS[method], seed=seed, training=loop)
        run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / where)
        return written(tmp_path / where)

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
    assert result.final_loss < 0.6, "a head that starts from zero starts at log 2"
    assert result.trainable_parameters == load_prompt(
        tmp_path / "out" / "prompt", load_backbone(config.backbone, frozen=True)
    ).vectors.numel() + 2 * (32 + 1)
    served = load_prompts([tmp_path / "out"])[0]
    test_set = load_examples(film_data / "test.jsonl")
    assert served.predict(test_set, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=5e-5)
