"""Tests of demonstrations before the text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.demonstrations import prepend_demonstrations, sample_demonstrations
from stages.common.protocols import NullRecorder
from tests.support.small_models import backbone_config, film_examples, film_task

TRAIN = film_examples(8)


def classifier(backbone: Backbone, name: str, max_length: int = 40) -> ClozeClassifier:
    config = backbone_config(Path(backbone.tokenizer.name_or_path), max_length)
    return ClozeClassifier.of(film_task(name), "review", backbone, config)


def test_sample_demonstrations_draws_per_class_by_seed() -> None:
    chosen = sample_demonstrations(TRAIN, ("rotten", "fresh"), 3, 5)
    assert sorted(item.label for item in chosen) == ["fresh"] * 3 + ["rotten"] * 3
    assert len({item.uid for item in chosen}) == 6
    assert (
        chosen
        == sample_demonstrations(TRAIN, ("rotten", "fresh"), 3, 5)
        != sample_demonstrations(TRAIN, ("rotten", "fresh"), 3, 6)
    )


def test_sample_demonstrations_rejects_too_many_shots() -> None:
    with pytest.raises(InputError, match="'rotten' has 4 labeled examples") as caught:
        sample_demonstrations(TRAIN, ("rotten", "fresh"), 5, 0)
    assert "Lower priming.shots" in caught.value.remedy


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta"])
def test_text_follows_the_demonstrations(name: str, backbones: dict[str, Backbone]) -> None:
    primed, plain = classifier(backbones[name], name), classifier(backbones[name], name)
    prepend_demonstrations(primed, TRAIN[:2])
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
    primed = classifier(backbones["llama"], "llama")
    prepend_demonstrations(primed, TRAIN[:2])
    actual = primed.predict(TRAIN[2:4], NullRecorder(), "")
    for row, example in enumerate(TRAIN[2:4]):
        ids = torch.tensor([primed.encode(example)[0].ids])
        with torch.inference_mode():
            last = primed.backbone.model(input_ids=ids).logits[0, -1]
        words = [[float(last[token]) for (token,) in label] for label in primed.verbalizer.words]
        assert actual[row] == pytest.approx([sum(label) / len(label) for label in words], abs=1e-4)


def test_prepend_demonstrations_rejects_too_long_ones(backbones: dict[str, Backbone]) -> None:
    primed = classifier(backbones["bert"], "bert", max_length=64)
    with pytest.raises(InputError, match="exceed the 160 positions") as caught:
        prepend_demonstrations(primed, TRAIN)
    assert caught.value.key == "priming.shots"
