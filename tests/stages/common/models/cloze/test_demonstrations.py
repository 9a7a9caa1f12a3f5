"""Tests of demonstrations: which are sampled, where they are, how long they are, and predictions with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.config import SampledDemonstrationsConfig
from stages.common.models.cloze.demonstrations import Demonstrations, load_demonstrations
from stages.common.models.encoders.config import EncoderConfig
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder
from stages.common.seeds import python_rng
from tests.support.small_models import backbone_config, film_example, film_examples, film_task

SILENT = NullRecorder()
LABELED = film_examples(8)


def built(backbone: Backbone, task: Task, labeled: list[Example] | None = None, **settings: Any) -> Demonstrations:
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config(Path("unused")))
    config = SampledDemonstrationsConfig(**{"num_samples": 3, **settings})
    return Demonstrations(classifier, config, LABELED if labeled is None else labeled, seed=5)


def classifier_of(demonstrations: Demonstrations) -> ClozeClassifier:
    return demonstrations._classifier


def texts_of(demonstrations: Demonstrations, example: Example) -> list[str]:
    """The first sample with its text, decoded."""
    classifier = classifier_of(demonstrations)
    [cloze] = next(demonstrations.samples([classifier.encode(example)], [example]))
    return [classifier.backbone.tokenizer.decode(item.ids) for item in cloze]


PLAIN = {"rotten": ["bad"], "fresh": ["great"]}


def test_masked_text_is_followed_by_one_filled_example_per_label(backbones: dict[str, Backbone]) -> None:
    demonstrations = built(backbones["bert"], film_task("bert").model_copy(update={"verbalizer": PLAIN}))
    example = film_example(20)
    [text] = texts_of(demonstrations, example)
    own, rotten, fresh, rest = (part.strip() for part in text.split("[SEP]"))
    assert own.startswith("[CLS] review") and "[MASK]" in own
    assert "[MASK]" not in rotten + fresh and rest == ""
    expected = {
        label: {
            backbones["bert"].tokenizer.decode(classifier_of(demonstrations).encoder.filled(item, word))
            for item in LABELED
            if item.label == label
        }
        for label, [word] in zip(("rotten", "fresh"), classifier_of(demonstrations).verbalizer.words, strict=True)
    }
    assert rotten in expected["rotten"] and fresh in expected["fresh"]
    assert "it was bad" in rotten and "it was great" in fresh


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_causal_text_is_preceded_by_demonstrations(name: str, backbones: dict[str, Backbone]) -> None:
    demonstrations = built(backbones[name], film_task(name).model_copy(update={"verbalizer": PLAIN}))
    example = film_example(20)
    [plain] = classifier_of(demonstrations).encode(example)
    [[encoded]] = next(demonstrations.samples([(plain,)], [example]))
    start = 1 if name == "llama" else 0
    assert encoded.ids[:start] == plain.ids[:start]
    assert encoded.ids[-len(plain.ids) + start :] == plain.ids[start:]
    assert encoded.mask_position == len(encoded.ids) - 1
    text = backbones[name].tokenizer.decode(encoded.ids)
    rotten, fresh, own = text.split("\n\n")
    assert rotten.endswith("Sentiment: bad") and fresh.endswith("Sentiment: great") and own.endswith("Sentiment:")


def test_demonstrations_of_a_seq2seq_model_follow_its_text(backbones: dict[str, Backbone]) -> None:
    demonstrations = built(backbones["t5"], film_task("t5").model_copy(update={"verbalizer": PLAIN}))
    example = film_example(20)
    [plain] = classifier_of(demonstrations).encode(example)
    [[encoded]] = next(demonstrations.samples([(plain,)], [example]))
    assert encoded.ids[: len(plain.ids)] == plain.ids and encoded.mask_position == plain.mask_position
    sentinel = plain.ids[plain.mask_position]
    assert encoded.ids.count(sentinel) == 1 and encoded.ids.count(backbones["t5"].tokenizer.eos_token_id) == 3


@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gpt2", "t5"])
def test_long_demonstrations_are_cut_and_the_text_is_not(name: str, backbones: dict[str, Backbone]) -> None:
    def longer(item: Example) -> Example:
        return replace(item, fields={"text": item.fields["text"] * 9})

    words = {"rotten": ["very bad", "bad"], "fresh": ["great"]}
    task = film_task(name).model_copy(update={"verbalizer": words})
    demonstrations = built(backbones[name], task, [longer(item) for item in LABELED], max_length=20)
    example = longer(film_example(20))
    [plain] = classifier_of(demonstrations).encode(example)
    assert 60 <= len(plain.ids) <= 64
    [[encoded]] = next(demonstrations.samples([(plain,)], [example]))
    assert 34 <= len(encoded.ids) - len(plain.ids) <= 40, "two demonstrations of at most 20 tokens"
    start = 0 if name in ("bert", "roberta", "t5") else len(encoded.ids) - len(plain.ids)
    num_special = 1 if name == "llama" else 0
    assert encoded.ids[start + num_special :][: len(plain.ids) - num_special] == plain.ids[num_special:]


def test_a_text_is_never_its_own_demonstration(backbones: dict[str, Backbone]) -> None:
    demonstrations = built(backbones["bert"], film_task("bert"), film_examples(4), num_samples=1)
    assert demonstrations._candidates(film_examples(4)) == [[[2], [1, 3]], [[0, 2], [3]], [[0], [1, 3]], [[0, 2], [1]]]
    assert demonstrations._candidates([film_example(30)]) == [[[0, 2], [1, 3]]]


def test_most_similar_examples_are_sampled(backbones: dict[str, Backbone]) -> None:
    labeled = [
        Example(str(row), {"text": text}, label)
        for row, (text, label) in enumerate(
            [
                ("the music was bad", "rotten"),
                ("a bad lobby", "rotten"),
                ("the music was fine", "fresh"),
                ("a warm story", "fresh"),
                ("the hero", "fresh"),
            ]
        )
    ]
    demonstrations = built(backbones["bert"], film_task("bert"), labeled, most_similar=0.5)
    [[rotten, fresh]] = demonstrations._candidates([Example("x", {"text": "great music"})])
    assert rotten == [0] and fresh[0] == 2 and len(fresh) == 2, "half of them, rounded up"


def test_similarity_may_be_that_of_an_encoder(
    backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    encoder = EncoderConfig(asset=str(backbone_folders["roberta"]), max_length=32)
    demonstrations = built(backbones["bert"], film_task("bert"), most_similar=0.25, encoder=encoder)
    [by_label] = demonstrations._candidates([replace(LABELED[0], fields={"text": LABELED[0].fields["text"] + " fine"})])
    assert by_label[0] == [0], "the same text, but for a word"


def test_predictions_average_the_samples(backbones: dict[str, Backbone]) -> None:
    demonstrations = built(backbones["bert"], film_task("bert"))
    classifier, examples = classifier_of(demonstrations), film_examples(5, start=30)
    actual = classifier.predict(examples, SILENT, "test")
    expected = []
    with torch.inference_mode():
        for number in range(3):
            for example in examples:
                rng = python_rng(5, "demonstrations", number, example.fields["text"])
                rows = [[0, 2, 4, 6][rng.randrange(4)], [1, 3, 5, 7][rng.randrange(4)]]
                words = classifier.verbalizer.words
                ids = [
                    token
                    for label, row in enumerate(rows)
                    for token in (*classifier.encoder.filled(LABELED[row], words[label][0]), *classifier.encoder.tail)
                ]
                encoded = classifier.encode(example)[0].followed_by(tuple(ids))
                expected.append(classifier.logits([(encoded,)])[0].numpy())
    assert actual == pytest.approx(np.reshape(expected, (3, 5, 2)).mean(axis=0), abs=1e-4)
    assert np.ptp(np.reshape(expected, (3, 5, 2)), axis=0).max() > 1e-3, "samples differ"


def test_training_draws_again_in_each_step(backbones: dict[str, Backbone]) -> None:
    demonstrations = built(backbones["bert"], film_task("bert"))
    items = classifier_of(demonstrations).items(LABELED)
    batches = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        batches.append([item.cloze for item in demonstrations.draw(items, 0)])
    assert batches[0] == batches[1] != batches[2]


def test_saved_demonstrations_predict_the_same(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    demonstrations = built(backbones["gpt2"], film_task("gpt2"), most_similar=0.5)
    demonstrations.save(tmp_path)
    other = ClozeClassifier.of(film_task("gpt2"), "review", backbones["gpt2"], backbone_config(Path("unused")))
    examples = film_examples(4, start=30)
    without = other.predict(examples, SILENT, "")
    load_demonstrations(tmp_path, other)
    loaded = other.predict(examples, SILENT, "")
    assert loaded == pytest.approx(classifier_of(demonstrations).predict(examples, SILENT, ""), abs=1e-6)
    assert np.abs(loaded - without).max() > 1e-3


def test_each_label_needs_two_texts(backbones: dict[str, Backbone]) -> None:
    labeled = [*film_examples(3), replace(film_example(1, "fresh"), uid="again")]
    with pytest.raises(InputError, match="'fresh' has 1") as caught:
        built(backbones["bert"], film_task("bert"), labeled)
    assert caught.value.key == "pet.demonstrations"


def test_an_encoder_needs_a_fraction_of_similar_examples() -> None:
    with pytest.raises(ValueError, match="encoder is set"):
        SampledDemonstrationsConfig(encoder=EncoderConfig(asset="x"))
