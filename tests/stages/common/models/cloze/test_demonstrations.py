"""Demonstrations before the text, in the order and form in which the model reads them."""

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


def test_every_class_has_its_demonstrations_and_the_seed_decides() -> None:
    chosen = sample_demonstrations(TRAIN, ("rotten", "fresh"), 3, 5)
    assert sorted(item.label for item in chosen) == ["fresh"] * 3 + ["rotten"] * 3
    assert len({item.uid for item in chosen}) == 6
    assert (
        chosen
        == sample_demonstrations(TRAIN, ("rotten", "fresh"), 3, 5)
        != sample_demonstrations(TRAIN, ("rotten", "fresh"), 3, 6)
    )


def test_more_demonstrations_than_examples_are_refused() -> None:
    with pytest.raises(InputError, match="'rotten' has 4 labelled examples") as caught:
        sample_demonstrations(TRAIN, ("rotten", "fresh"), 5, 0)
    assert "Lower priming.shots" in caught.value.remedy


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta"])
def test_the_text_follows_its_demonstrations(name: str, backbones: dict[str, Backbone]) -> None:
    primed, plain = classifier(backbones[name], name), classifier(backbones[name], name)
    prepend_demonstrations(primed, TRAIN[:2])
    text = primed.backbone.tokenizer.decode(list(primed.encode(TRAIN[2])[0].ids))
    parts = [text.find(word) for word in ("dull", "bad", "warm", "good", TRAIN[2].fields["text"].split()[-1])]
    assert -1 not in parts
    first = primed.backbone.tokenizer.decode(list(plain.encode(TRAIN[0])[0].ids))
    assert "The plot 0" in first or "the plot 0" in first
    alone = plain.encode(TRAIN[2])[0].ids
    before = len(plain.encoder.specials.before)
    assert primed.encode(TRAIN[2])[0].ids[-(len(alone) - before) :] == alone[before:]
    mask_ids = plain.encoder.mask_ids
    if mask_ids:
        assert primed.encode(TRAIN[2])[0].ids.count(mask_ids[0]) == 1, "the demonstrations are filled in"


def test_a_primed_causal_model_scores_the_whole_text(backbones: dict[str, Backbone]) -> None:
    primed = classifier(backbones["llama"], "llama")
    prepend_demonstrations(primed, TRAIN[:2])
    found = primed.predict(TRAIN[2:4], NullRecorder(), "")
    for row, example in enumerate(TRAIN[2:4]):
        ids = torch.tensor([primed.encode(example)[0].ids])
        with torch.inference_mode():
            last = primed.backbone.model(input_ids=ids).logits[0, -1]
        words = [[float(last[token]) for (token,) in label] for label in primed.verbalizer.words]
        assert found[row] == pytest.approx([sum(label) / len(label) for label in words], abs=1e-4)


def test_demonstrations_that_do_not_fit_are_refused(backbones: dict[str, Backbone]) -> None:
    primed = classifier(backbones["bert"], "bert", max_length=64)
    with pytest.raises(InputError, match="more than the 160 positions") as caught:
        prepend_demonstrations(primed, TRAIN)
    assert caught.value.key == "priming.shots"
