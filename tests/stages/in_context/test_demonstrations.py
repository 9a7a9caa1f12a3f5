"""Tests of demonstrations before the text: how they are selected, what a model reads, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.protocols import NullRecorder
from stages.in_context.config import DemonstrationConfig
from stages.in_context.demonstrations import Demonstrations, sample_balanced, selector
from tests.support.small_models import backbone_config, film_examples, film_task

TRAIN = film_examples(8)
LABELS = ("rotten", "fresh")


def classifier(backbone: Backbone, name: str, max_length: int = 40) -> ClozeClassifier:
    config = backbone_config(Path(backbone.tokenizer.name_or_path), max_length)
    return ClozeClassifier.of(film_task(name), "review", backbone, config)


def primed_classifier(backbone: Backbone, name: str, rows: list[int]) -> ClozeClassifier:
    """Returns a classifier with these demonstrations before every text."""
    primed = classifier(backbone, name)
    Demonstrations(primed, TRAIN, lambda _: rows)
    return primed


def test_balanced_selection_draws_per_class_by_seed() -> None:
    chosen = sample_balanced(TRAIN, LABELS, 3, 5)
    assert sorted(TRAIN[row].label or "" for row in chosen) == ["fresh"] * 3 + ["rotten"] * 3
    assert len(set(chosen)) == 6
    assert chosen == sample_balanced(TRAIN, LABELS, 3, 5) != sample_balanced(TRAIN, LABELS, 3, 6)


def test_balanced_selection_rejects_too_many_shots() -> None:
    with pytest.raises(InputError, match="'rotten' has 4 labeled examples") as caught:
        sample_balanced(TRAIN, LABELS, 5, 0)
    assert "Lower priming.shots" in caught.value.remedy


def test_random_selection_needs_no_example_of_a_class() -> None:
    one_class = [item for item in TRAIN if item.label == "fresh"]
    select = selector(DemonstrationConfig(shots=3, selection="random"), one_class, LABELS, ("text",), 1)
    assert sorted(select(TRAIN[0])) == [0, 1, 2, 3], "all that there are"


def test_retrieved_demonstrations_are_the_most_similar_ones_but_never_the_text_itself() -> None:
    texts = ["the car is fast", "a red car", "a soup of fish", "fish and chips", "the sky is blue"]
    train_set = [Example(str(row), {"text": text}, "fresh") for row, text in enumerate(texts)]
    select = selector(DemonstrationConfig(shots=1, selection="retrieved"), train_set, LABELS, ("text",), 0)
    assert select(Example("x", {"text": "a car that is red"}))[-1] == 1, "the most similar one is last"
    assert set(select(Example("x", {"text": "fish"}))) == {2, 3}
    assert 1 not in select(Example("x", {"text": "a red car"}))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta"])
def test_text_follows_the_demonstrations(name: str, backbones: dict[str, Backbone]) -> None:
    plain, primed = classifier(backbones[name], name), primed_classifier(backbones[name], name, [0, 1])
    text = primed.backbone.tokenizer.decode(list(primed.encode(TRAIN[2])[0].ids))
    parts = [text.find(word) for word in ("dull", "bad", "warm", "good", TRAIN[2].fields["text"].split()[-1])]
    assert -1 not in parts
    first = primed.backbone.tokenizer.decode(list(plain.encode(TRAIN[0])[0].ids))
    assert "The plot 0" in first or "the plot 0" in first
    separate = plain.encode(TRAIN[2])[0].ids
    before = len(plain.encoder.specials.before)
    assert primed.encode(TRAIN[2])[0].ids[-(len(separate) - before) :] == separate[before:]
    mask_ids = plain.encoder.mask_ids
    if mask_ids:
        assert primed.encode(TRAIN[2])[0].ids.count(mask_ids[0]) == 1, "the demonstrations are filled in"


def test_causal_model_scores_text_with_demonstrations(backbones: dict[str, Backbone]) -> None:
    primed = primed_classifier(backbones["llama"], "llama", [0, 1])
    actual = primed.predict(TRAIN[2:4], NullRecorder(), "")
    for row, example in enumerate(TRAIN[2:4]):
        ids = torch.tensor([primed.encode(example)[0].ids])
        with torch.inference_mode():
            last = primed.backbone.model(input_ids=ids).logits[0, -1]
        words = [[float(last[token]) for (token,) in label] for label in primed.verbalizer.words]
        assert actual[row] == pytest.approx([sum(label) / len(label) for label in words], abs=1e-4)


def test_demonstrations_that_do_not_fit_are_left_out_as_a_whole(backbones: dict[str, Backbone]) -> None:
    primed = classifier(backbones["bert"], "bert", max_length=64)
    demonstrations = Demonstrations(primed, TRAIN, lambda _: list(range(8)))
    prefix = demonstrations(TRAIN[0])
    assert len(prefix) <= 160 - 64
    assert 0 < demonstrations.num_read < demonstrations.num_selected == 8
    last = classifier(backbones["bert"], "bert", max_length=64)
    assert prefix == Demonstrations(last, TRAIN, lambda _: list(range(8 - demonstrations.num_read, 8)))(TRAIN[0])


def test_backbone_without_room_for_one_demonstration_is_rejected(backbones: dict[str, Backbone]) -> None:
    primed = classifier(backbones["bert"], "bert", max_length=158)
    with pytest.raises(InputError, match="exceeds the 160 positions") as caught:
        Demonstrations(primed, TRAIN, lambda _: [0])
    assert caught.value.key == "backbone.max_length"
