"""Tests of patterns that share a cached prefix: equal scores with fewer tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.batching import round_up_length
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_sharing import predict_patterns
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder
from tests.support.small_models import backbone_config, film_examples, film_task

SILENT = NullRecorder()
PATTERNS = {
    "summary": "{text} In summary, the film is{mask}",
    "all": "{text} All in all, it was{mask}",
    "review": "Review: {text}\nSentiment:{mask}",
    "second": "Review: {text} It was{mask}",
    "bare": "{text}{mask}",
    "after": "{text} It was{mask}.",
}


def classifiers(backbone: Backbone, max_length: int = 64, **settings: object) -> list[ClozeClassifier]:
    words = film_task("llama").verbalizer
    task = Task(name="films", labels=("rotten", "fresh"), patterns=PATTERNS, verbalizer=words, **settings)
    config = backbone_config(Path(backbone.tokenizer.name_or_path), max_length)
    return [ClozeClassifier.of(task, name, backbone, config) for name in PATTERNS]


class Counting:
    """Counts the tokens that a model reads."""

    def __init__(self, backbone: Backbone) -> None:
        self.tokens = 0
        self.handle = backbone.model.base_model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module: torch.nn.Module, arguments: tuple, named: dict) -> None:
        del module, arguments
        ids, embeddings = named.get("input_ids"), named.get("inputs_embeds")
        self.tokens += ids.numel() if ids is not None else embeddings.shape[0] * embeddings.shape[1]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("score", ["mean_logit", "log_likelihood"])
@pytest.mark.parametrize("max_length", [64, 16])
def test_shared_scores_equal_those_of_each_pattern(
    name: str, score: str, max_length: int, backbones: dict[str, Backbone]
) -> None:
    """With 16 tokens each pattern truncates the texts differently."""
    examples = [*film_examples(5), Example("short", {"text": "It drags."})]
    actual = classifiers(backbones[name], max_length, label_score=score)
    shared = predict_patterns(actual, examples, SILENT, "")
    for scores, classifier in zip(shared, actual, strict=True):
        assert scores == pytest.approx(classifier.predict(examples, SILENT, ""), abs=1e-4)
    assert len({tuple(scores[0]) for scores in shared}) == len(PATTERNS)


def test_common_prefix_is_read_once(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["llama"]
    actual = classifiers(backbone)[:2]
    examples = film_examples(8)
    counts = []
    for read in (
        lambda: predict_patterns(actual, examples, SILENT, ""),
        lambda: [c.predict(examples, SILENT, "") for c in actual],
    ):
        counter = Counting(backbone)
        read()
        counter.handle.remove()
        counts.append(counter.tokens)
    encoded = [[item.encoder(example) for example in examples] for item in actual]
    stems = sum(item.prefix_length for item in encoded[0])
    endings = sum(len(item.ids) - item.prefix_length for items in encoded for item in items)
    assert counts[0] == stems + endings, "texts of equal length need no padding"
    assert (
        counts[1] == sum(round_up_length(len(item.ids)) for items in encoded for item in items) >= 2 * stems + endings
    )


def test_other_families_read_separately(backbones: dict[str, Backbone]) -> None:
    bert, task = backbones["bert"], film_task("bert")
    config = backbone_config(Path(bert.tokenizer.name_or_path))
    actual = [ClozeClassifier.of(task, name, bert, config) for name in task.patterns]
    examples = film_examples(4)
    for scores, classifier in zip(predict_patterns(actual, examples, SILENT, ""), actual, strict=True):
        assert scores == pytest.approx(classifier.predict(examples, SILENT, ""), abs=1e-6)
