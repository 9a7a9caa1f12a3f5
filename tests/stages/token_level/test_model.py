"""Tests of token-level models: padding and the windows of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.protocols import NullRecorder
from stages.token_level.examples import Answer, Question
from stages.token_level.heads import SpanExtractor, TokenClassifier
from tests.support.small_models import FAMILIES, backbone_config
from tests.support.token_level_data import ANSWERS, ENTITIES, METHODS, questions, tagged_texts


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", ["prompt_tuning", "idpg"])
@pytest.mark.parametrize("model_class", [TokenClassifier, SpanExtractor])
def test_loss_of_a_batch_is_the_mean_of_single_losses(
    name: str, method: Any, model_class: Any, backbones: dict[str, Backbone]
) -> None:
    is_tagger = model_class is TokenClassifier
    backbone, task = backbones[name], ENTITIES if is_tagger else ANSWERS
    prompt = new_prompt(PromptConfig(method=method, num_virtual_tokens=3), backbone, None, seed=1)
    assert prompt is not None
    model = model_class(task, backbone, backbone_config(Path()), prompt)
    torch.manual_seed(0)
    for weight in (model.head.linear.weight, *prompt.parameters()):
        torch.nn.init.normal_(weight)
    items = model.items((tagged_texts if is_tagger else questions)(6, 5))
    losses = torch.stack([model.loss([item]).detach() for item in items])
    sizes = torch.tensor([len(item.window.words) if is_tagger else 1 for item in items])
    assert float(model.loss(items).detach()) == pytest.approx(float((losses * sizes).sum() / sizes.sum()), rel=1e-4)


def test_dev_loss_has_no_dropout(backbone_folders: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_config(backbone_folders["bert"]), frozen=False)
    model = TokenClassifier(
        ENTITIES, backbone, backbone_config(Path()), new_prompt(METHODS["prompt_tuning"], backbone, None, seed=1)
    )
    torch.nn.init.normal_(model.head.linear.weight)
    examples = tagged_texts(6, 5)
    backbone.model.train()  # as while adapters are trained; the config has a dropout of 0.1
    first, again = (float(model.loss(model.items(examples)).detach()) for _ in range(2))
    assert first != again
    assert model.validate(examples, NullRecorder()) == model.validate(examples, NullRecorder())
    assert backbone.model.training


def test_answer_is_in_the_windows_that_contain_all_of_it(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    long = " ".join(["plot"] * 30)
    item = Question("1", "Is it true?", f"{long} great food {long}", (Answer("great food", len(long) + 1),))
    prompt = new_prompt(METHODS["prompt_tuning"], backbone, None, seed=1)
    windows = SpanExtractor(ANSWERS, backbone, backbone_config(Path(), max_length=24), prompt).items([item])
    assert 1 <= sum(window.first != window.window.no_answer for window in windows) < len(windows)
    for window in windows:
        characters = window.window.characters
        if window.first != window.window.no_answer:
            first, last = (characters[position - window.window.start] for position in (window.first, window.last))
            assert item.context[first.start : last.end] == "great food"
        else:
            assert window.last == window.window.no_answer
            assert characters[0].start > len(long) + 1 or characters[-1].end < len(long) + 11
