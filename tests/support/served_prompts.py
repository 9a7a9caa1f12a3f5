"""Small prompts on disk over one small backbone, as steps of prompt tuning write them, but untrained."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.common.models.backbones.loader import load_backbone
from stages.common.prompts.config import PromptConfig, PromptServingConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.peft_format import save_prompt
from stages.common.prompts.soft_prompt import Prompt, PromptEmbedding
from tests.support.small_models import TOKENIZERS, backbone_config, film_task, small_model

TEXTS = ("A warm and clever story.", "Dull.", "The plot, in three acts, with a hero.")


def save_backbone(folder: Path) -> Path:
    """Writes a small BERT with random weights."""
    torch.manual_seed(0)
    tokenizer = TOKENIZERS["bert"]()
    small_model("bert", len(tokenizer), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_prompts(backbone_folder: Path, folder: Path, names: dict[str, int], num_virtual_tokens: int = 4) -> list[Path]:
    """Writes a prompt per task with random vectors, so that each predicts other probabilities.

    Args:
        backbone_folder: The model.
        folder: Where to write the folders.
        names: Name of a task -> seed of its vectors.
        num_virtual_tokens: Vectors per prompt.
    """
    config = backbone_config(backbone_folder)
    backbone = load_backbone(config, frozen=True)
    folders = []
    for name, seed in names.items():
        vectors = torch.randn(
            num_virtual_tokens, backbone.embedding_size, generator=torch.Generator().manual_seed(seed)
        )
        path = folder / f"{name}-{seed}"
        save_prompt(Prompt(PromptEmbedding(3 * vectors)), backbone, path / "prompt")
        task = film_task("bert").only("review").model_copy(update={"name": name})
        PromptServingConfig(task=task, pattern="review", backbone=config).save(path)
        folders.append(path)
    return folders


def save_text_prompt(backbone_folder: Path, folder: Path, name: str, settings: PromptConfig) -> Path:
    """Writes a prompt that depends on the text, with random weights, for the task `name`; returns its folder."""
    config = backbone_config(backbone_folder)
    backbone = load_backbone(config, frozen=True)
    task = film_task("bert").only("review").model_copy(update={"name": name})
    torch.manual_seed(0)
    sources = torch.randn(len(settings.sources), settings.num_virtual_tokens, backbone.embedding_size).unbind()
    prompt = new_prompt(settings, backbone, task.pattern("review"), seed=1, sources=sources)
    assert prompt is not None
    for parameter in prompt.parameters():
        torch.nn.init.normal_(parameter)
    save_prompt(prompt, backbone, folder / "prompt")
    PromptServingConfig(task=task, pattern="review", backbone=config).save(folder)
    return folder
