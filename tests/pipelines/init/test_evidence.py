"""What the labeled examples say about patterns and label words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.init.evidence import Evidence, Words
from stages.common.examples import Example
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task
from tests.support.small_models import TOKENIZERS, backbone_config, film_examples, film_task, small_model

GOOD_FIRST: Words = {"rotten": ["bad"], "fresh": ["good"]}
BAD_FIRST: Words = {"rotten": ["good"], "fresh": ["bad"]}


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> BackboneConfig:
    """A small causal model whose logits differ between texts."""
    folder = tmp_path_factory.mktemp("causal")
    tokenizer = TOKENIZERS["llama"]()
    torch.manual_seed(7)
    model = small_model("llama", len(tokenizer), tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.4)
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return backbone_config(folder)


def evidence(causal: BackboneConfig, examples: list[Example]) -> Evidence:
    task = film_task("llama")
    patterns = {**task.patterns, "inside": "It was{mask}. {text}"}
    return Evidence(Task(name="films", labels=task.labels, patterns=patterns), causal, examples)


def test_each_pattern_has_the_words_that_suit_it_best(causal: BackboneConfig) -> None:
    judge = evidence(causal, film_examples(24))
    both = judge.compare([GOOD_FIRST, BAD_FIRST])
    alone = [{item.pattern: item for item in judge.compare([words])} for words in (GOOD_FIRST, BAD_FIRST)]
    assert {item.pattern for item in both} == {"review", "summary", "inside"}
    for item in both:
        best = max((found[item.pattern] for found in alone), key=lambda found: (found.accuracy, -found.loss))
        assert (item.words, item.accuracy) == (best.words, best.accuracy)
        assert item.loss == pytest.approx(best.loss, rel=1e-4)
    assert [item.accuracy for item in both] == sorted((item.accuracy for item in both), reverse=True)


def test_words_of_several_tokens_do_not_change_the_others(causal: BackboneConfig) -> None:
    """All words are scored in one pass. The sets are compared as if each had its own."""
    judge = evidence(causal, film_examples(24))
    long: Words = {"rotten": ["bad terrible story"], "fresh": ["warm and clever"]}
    with_long = {item.pattern: item for item in judge.compare([GOOD_FIRST, long])}
    for item in judge.compare([GOOD_FIRST]):
        assert with_long[item.pattern].accuracy >= item.accuracy
        if with_long[item.pattern].words == GOOD_FIRST:
            assert with_long[item.pattern].loss == pytest.approx(item.loss, rel=1e-3)


def test_found_words_are_judged_by_examples_that_they_were_not_found_in(causal: BackboneConfig) -> None:
    """With random labels the words fit the examples in which they were found, but no others."""
    labels = np.random.default_rng(3).permutation(["rotten", "fresh"] * 16)
    random = [replace(item, label=str(label)) for item, label in zip(film_examples(32), labels, strict=True)]
    judge = evidence(causal, random)
    found = judge.search("causal")
    assert {item.pattern for item in found} == {"review", "summary"}, "a causal model finds words at the end only"
    assert all(len(words) == 10 for item in found for words in item.words.values())
    fitted = {item.pattern: judge.compare([item.words]) for item in found}
    gaps = [
        next(other for other in fitted[item.pattern] if other.pattern == item.pattern).accuracy - item.accuracy
        for item in found
    ]
    assert sum(gaps) > 0.1
    assert judge.search("causal") == found


def test_one_example_per_label_is_judged_without_calibration(causal: BackboneConfig) -> None:
    judge = evidence(causal, film_examples(2))
    assert judge.search("causal") == []
    assert all(item.accuracy in (0, 0.5, 1) for item in judge.compare([GOOD_FIRST]))


def test_a_guess_is_the_most_frequent_label(causal: BackboneConfig) -> None:
    balanced = evidence(causal, film_examples(32))
    assert balanced.majority == 0.5
    assert [balanced.is_above_guess(value) for value in (0.4, 0.53, 0.75)] == [False, False, True]
    examples = film_examples(32)
    rare = [item for item in examples if item.label == "rotten"][:5]
    skewed = evidence(causal, [item for item in examples if item.label == "fresh"] + rare)
    assert skewed.majority == pytest.approx(16 / 21)
    assert [skewed.is_above_guess(value) for value in (0.75, 18 / 21, 1.0)] == [False, False, True]


def test_evidence_is_deterministic(causal: BackboneConfig) -> None:
    judge = evidence(causal, film_examples(12))
    assert judge.compare([GOOD_FIRST, BAD_FIRST]) == judge.compare([GOOD_FIRST, BAD_FIRST])
