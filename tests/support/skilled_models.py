"""Small models that can write two kinds of sentences about a table, so that a soft prompt can choose one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from stages.common.models.backbones.loader import load_backbone
from stages.common.prompts.soft_prompt import Prompt, PromptEmbedding
from stages.generation.examples import GenerationExample
from stages.generation.model import TextGenerator
from tests.support.generation_data import TABLES, tables
from tests.support.small_models import TOKENIZERS, backbone_config, small_model

SENTENCES = {"great": "{name} praised the {food} food.", "bad": "The food of {name} was {food}."}
"""Word before the table -> the sentence that follows from it."""


def with_sentences(examples: list[GenerationExample], word: str) -> list[GenerationExample]:
    """Returns tables with the sentences that follow a word."""
    return [replace(item, references=(SENTENCES[word].format(**item.fields),)) for item in examples]


def write_skilled_model(name: str, folder: Path, steps: int = 300) -> Path:
    """Trains all weights of a small model; writes it to `folder` with its tokenizer."""
    tokenizer = TOKENIZERS[name]()
    torch.manual_seed(7)
    small_model(name, len(tokenizer), tokenizer).save_pretrained(folder / "untrained")
    tokenizer.save_pretrained(folder / "untrained")
    config = backbone_config(folder / "untrained")
    backbone = load_backbone(config, frozen=False)
    backbone.model.eval()
    prompt = Prompt(PromptEmbedding(torch.zeros(1, backbone.embedding_size))).requires_grad_(False)
    items = []
    for word in SENTENCES:
        task = TABLES.model_copy(update={"pattern": f"It was {word}. {TABLES.pattern}"})
        model = TextGenerator(task, backbone, config, prompt)
        items += model.items(with_sentences(tables(32), word))
    optimizer = torch.optim.AdamW(backbone.model.parameters(), lr=0.004)
    for step in range(steps):
        torch.manual_seed(step)
        model.loss([items[index] for index in torch.randperm(len(items))[:16]]).backward()
        optimizer.step()
        optimizer.zero_grad()
    backbone.model.save_pretrained(folder / "skilled")
    tokenizer.save_pretrained(folder / "skilled")
    return folder / "skilled"
