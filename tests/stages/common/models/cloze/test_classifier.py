"""Tests of the cloze classifier: its losses and predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.multi_task import multi_task_logits
from stages.common.protocols import NullRecorder
from tests.support.small_models import FAMILIES, backbone_config, film_examples, film_task


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_is_cross_entropy_over_the_labels(name: str, backbones: dict[str, Backbone]) -> None:
    """Computes by hand the negative log-probability of the gold label, from mean logits of its words."""
    backbone = backbones[name]
    task = film_task(name)
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config("unused"))
    items = classifier.items(film_examples(3))
    assert [item.label for item in items] == [0, 1, 0]
    ids = {
        word: backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1]
        for word in ("bad", "terrible", "good", "great")
    }
    total = 0.0
    with torch.inference_mode():
        actual = float(classifier.loss(items))
        for item in items:
            logits = dict(zip(ids, _alone(backbone, item.cloze[0], list(ids.values())), strict=True))
            scores = [(logits["bad"] + logits["terrible"]) / 2, (logits["good"] + logits["great"]) / 2]
            total -= math.log(math.exp(scores[item.label]) / sum(math.exp(value) for value in scores))
    assert actual == pytest.approx(total / 3, abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_vocabulary_loss_is_cross_entropy_over_the_vocabulary(name: str, backbones: dict[str, Backbone]) -> None:
    """The mean over the words of the gold label, each the target of a language model. Predictions stay the same."""
    backbone = backbones[name]
    config = backbone_config("unused")
    classifier = ClozeClassifier.of(film_task(name), "review", backbone, config, loss_kind="vocabulary")
    items = classifier.items(film_examples(4))
    losses = []
    with torch.inference_mode():
        actual = float(classifier.loss(items))
        for item in items:
            logits_1V = backbone.vocabulary_logits(backbone.batch(item.cloze))
            for word in classifier.verbalizer.words[item.label]:
                losses.append(torch.nn.functional.cross_entropy(logits_1V, torch.tensor(word)))
        (multi_task,) = multi_task_logits([(classifier, [item.cloze for item in items])], training=True)
        shared = float(classifier.compute_loss(multi_task, items))
    assert len(losses) == 8
    assert actual == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)
    assert shared == pytest.approx(actual, abs=1e-5), "also in a batch of several prompts"
    plain = ClozeClassifier.of(film_task(name), "review", backbone, config)
    examples = film_examples(3)
    assert classifier.predict(examples, NullRecorder(), "") == pytest.approx(
        plain.predict(examples, NullRecorder(), "")
    )


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_vocabulary_loss_of_words_of_several_tokens_is_their_likelihood(
    name: str, backbones: dict[str, Backbone]
) -> None:
    task = film_task(name).model_copy(update={"verbalizer": {"rotten": ["very bad"], "fresh": ["good and fine"]}})
    classifier = ClozeClassifier.of(task, "review", backbones[name], backbone_config("unused"), loss_kind="vocabulary")
    items = classifier.items(film_examples(4))
    with torch.inference_mode():
        scores = classifier.logits([item.cloze for item in items], training=True)
        expected = -float(scores[range(4), [item.label for item in items]].mean())
        assert float(classifier.loss(items)) == pytest.approx(expected, abs=1e-5)


def test_weights_and_soft_labels_change_the_loss(backbones: dict[str, Backbone]) -> None:
    """A soft label has the expected loss; weights are factors in a mean."""
    classifier = ClozeClassifier.of(film_task("bert"), "review", backbones["bert"], backbone_config("unused"))
    items = classifier.items(film_examples(2))
    soft = replace(items[1], label_probabilities=(0.3, 0.7), weight=0.5)
    with torch.inference_mode():
        first, other, right = (
            float(classifier.loss([item])) for item in (items[0], replace(items[1], label=0), items[1])
        )
        actual = float(classifier.loss([replace(items[0], weight=3.0), soft]))
    assert actual == pytest.approx((3 * first + 0.5 * (0.3 * other + 0.7 * right)) / 2, abs=1e-5)
    assert abs(other - right) > 0.01


def _alone(backbone: Backbone, encoded: object, ids: list[int]) -> list[float]:
    return backbone.word_logits(backbone.batch([encoded]), ids)[0].tolist()


@dataclass
class Progress(NullRecorder):
    """Keeps the last progress."""

    last: tuple[int, int] = (0, 0)

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        del info
        self.last = (done, total)


@pytest.mark.parametrize("name", FAMILIES)
def test_predict_returns_logits_in_the_order_of_the_examples(name: str, backbones: dict[str, Backbone]) -> None:
    classifier = ClozeClassifier.of(film_task(name), "summary", backbones[name], backbone_config("unused"))
    examples = film_examples(60)
    recorder = Progress()
    actual = classifier.predict(examples, recorder, "test")
    assert actual.shape == (60, 2)
    assert recorder.last == (60, 60)
    with torch.inference_mode():
        for row in (0, 17, 59):
            separate = classifier.logits([classifier.encode(examples[row])])[0].numpy()
            assert actual[row] == pytest.approx(separate, abs=1e-4)
    assert len(np.unique(actual.round(3), axis=0)) > 5
