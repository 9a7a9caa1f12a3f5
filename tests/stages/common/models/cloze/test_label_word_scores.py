"""Scores of label words of one and several tokens: each against a plain pass over one text."""

from __future__ import annotations

import math

import pytest
import torch

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.cloze.classifier import hinge_loss, label_loss
from stages.common.models.cloze.label_word_scores import Word, word_scores
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.patterns.verbalizers import word_tokens
from tests.support.small_models import FAMILIES, film_task

TEXTS = ("A dull plot.", "The film is a warm and clever story about two sisters.", "It drags.")
SINGLE = ("good", "bad", "great")
MIXED = ("good", "badly", "terribly", "goodish")
"""One, several and as many tokens again, in every vocabulary of the tests."""


def encode(backbone: Backbone, pattern: str) -> list[Encoded]:
    from stages.common.patterns.syntax import Pattern

    encoder = Encoder(Pattern.parse("p", pattern), backbone.tokenizer, backbone.family, 64, reserve=8)
    return [encoder(Example(text, {"text": text})) for text in TEXTS]


def ids(backbone: Backbone, words: tuple[str, ...]) -> list[Word]:
    found = [tuple(word_tokens(word, backbone.tokenizer)) for word in words]
    return [word[1:] if backbone.family == "seq2seq" and word[0] == T5_SPACE else word for word in found]


T5_SPACE = 3


@pytest.fixture(scope="module", params=["bert", "roberta"])
def masked(request: pytest.FixtureRequest, backbones: dict[str, Backbone]) -> Backbone:
    return backbones[request.param]


@pytest.mark.parametrize("name", FAMILIES)
def test_log_likelihoods_of_single_words_are_over_the_whole_vocabulary(
    name: str, backbones: dict[str, Backbone]
) -> None:
    backbone = backbones[name]
    encoded = encode(backbone, film_task(name).patterns["review"])
    words = ids(backbone, SINGLE)
    with torch.inference_mode():
        found = word_scores(backbone, encoded, words, likelihood=True)
        raw = word_scores(backbone, encoded, words, likelihood=False)
        whole = backbone.vocabulary_logits(backbone.batch(encoded))
    torch.testing.assert_close(found, raw - whole.logsumexp(dim=1, keepdim=True), atol=1e-4, rtol=0)
    torch.testing.assert_close(raw, whole[:, [word[0] for word in words]], atol=1e-4, rtol=0)


# --- masked models ------------------------------------------------------------------------------------------------


def plain_log_probabilities(backbone: Backbone, item: Encoded) -> torch.Tensor:
    """[L, V] of one text by the plain model."""
    arguments = {"input_ids": torch.tensor([item.ids])}
    if backbone.model.config.model_type == "bert":
        arguments["token_type_ids"] = torch.tensor([item.token_type_ids])
    return backbone.model(**arguments).logits[0].log_softmax(dim=1)


def filled_one_by_one(backbone: Backbone, encoded: Encoded, word: Word, decoding: str) -> float:
    """The original's loop, text by text and mask by mask."""
    item = encoded.with_masks(len(word))
    left = {item.mask_position + place: token for place, token in enumerate(word)}
    if decoding == "parallel":
        log_LV = plain_log_probabilities(backbone, item)
        return sum(float(log_LV[place, token]) for place, token in left.items())
    total = 0.0
    while left:
        log_LV = plain_log_probabilities(backbone, item)
        place = min(left) if decoding == "ltr" else max(left, key=lambda at: float(log_LV[at, left[at]]))
        total += float(log_LV[place, left[place]])
        filled = list(item.ids)
        filled[place] = left.pop(place)
        item = Encoded(tuple(filled), item.token_type_ids, item.mask_position)
    return total


@pytest.mark.parametrize("decoding", ["default", "ltr", "parallel"])
def test_masks_are_filled_in_batches_as_one_by_one(decoding: str, masked: Backbone) -> None:
    encoded = encode(masked, "{text} It was {mask}.")
    words = ids(masked, MIXED)
    assert len({len(word) for word in words}) >= 3
    with torch.inference_mode():
        found = word_scores(masked, encoded, words, likelihood=True, decoding=decoding)
        expected = [[filled_one_by_one(masked, item, word, decoding) for word in words] for item in encoded]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-3, rtol=1e-4)


def test_the_three_orders_differ(masked: Backbone) -> None:
    encoded, words = encode(masked, "{text} It was {mask}."), ids(masked, MIXED)
    with torch.inference_mode():
        first, second, third = (
            word_scores(masked, encoded, words, likelihood=True, decoding=order)
            for order in ("default", "ltr", "parallel")
        )
    several = [number for number, word in enumerate(words) if len(word) > 1]
    for one, other in ((first, second), (first, third), (second, third)):
        assert (one - other)[:, several].abs().max() > 0.01
        torch.testing.assert_close(one[:, 0], other[:, 0], atol=1e-4, rtol=0)


def test_training_reads_every_word_from_the_same_masks(masked: Backbone) -> None:
    encoded, words = encode(masked, "{text} It was {mask}."), ids(masked, MIXED)
    longest = max(len(word) for word in words)
    found = word_scores(masked, encoded, words, likelihood=True, training=True)
    for row, item in enumerate(encoded):
        wide = item.with_masks(longest)
        log_LV = plain_log_probabilities(masked, wide)
        expected = [sum(log_LV[wide.mask_position + at, token] for at, token in enumerate(word)) for word in words]
        torch.testing.assert_close(found[row], torch.stack(expected), atol=1e-3, rtol=1e-4)


def test_a_prompt_for_each_text_stays_with_its_text(masked: Backbone) -> None:
    encoded, words = encode(masked, "{text} It was {mask}."), ids(masked, MIXED)
    prompts = torch.randn(len(encoded), 4, 32, generator=torch.Generator().manual_seed(1)) * 0.5
    with torch.inference_mode():
        together = word_scores(masked, encoded, words, likelihood=True, prompt=SoftInput(before=prompts))
        alone = [
            word_scores(masked, [item], words, likelihood=True, prompt=SoftInput(before=prompt))
            for item, prompt in zip(encoded, prompts, strict=True)
        ]
        without = word_scores(masked, encoded, words, likelihood=True)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=1e-4)
    assert (together - without).abs().max() > 0.05


# --- causal and seq2seq models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("pattern", ["{text} It was{mask}", "{text} It was{mask}. The film", "{mask} News: {text}"])
def test_a_causal_model_scores_the_filled_text(name: str, pattern: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    encoded, words = encode(backbone, pattern), ids(backbone, MIXED)
    with torch.inference_mode():
        found = word_scores(backbone, encoded, words, likelihood=True)
        for row, item in enumerate(encoded):
            for column, word in enumerate(words):
                whole = [*item.ids, *word, *item.suffix]
                log_LV = backbone.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(dim=1)
                places = range(len(item.ids), len(whole))
                expected = sum(float(log_LV[place - 1, whole[place]]) for place in places)
                assert float(found[row, column]) == pytest.approx(expected, abs=2e-3, rel=1e-4)


def test_a_seq2seq_model_writes_the_word_behind_the_sentinel(backbones: dict[str, Backbone]) -> None:
    t5 = backbones["t5"]
    encoded, words = encode(t5, "{text} It was {mask}."), ids(t5, MIXED)
    sentinel = t5.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    with torch.inference_mode():
        found = word_scores(t5, encoded, words, likelihood=True)
        for row, item in enumerate(encoded):
            for column, word in enumerate(words):
                decoder = torch.tensor([[0, sentinel, *word]])
                logits = t5.model(input_ids=torch.tensor([item.ids]), decoder_input_ids=decoder).logits[0]
                log_TV = logits.log_softmax(dim=1)
                expected = sum(float(log_TV[1 + at, token]) for at, token in enumerate(word))
                assert float(found[row, column]) == pytest.approx(expected, abs=2e-3, rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_flow_through_words_of_several_tokens(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    prompt = torch.zeros(3, 32, requires_grad=True)
    encoded = encode(backbone, film_task(name).patterns["review"])
    scores = word_scores(
        backbone, encoded, ids(backbone, MIXED), likelihood=True, prompt=SoftInput(before=prompt), training=True
    )
    hinge_loss(scores, torch.tensor([0, 1, 2])).backward()
    assert (prompt.grad.abs().sum(dim=1) > 0).all()


# --- losses -------------------------------------------------------------------------------------------------------


def test_the_hinge_counts_every_wrong_label_that_is_not_far_enough_behind() -> None:
    scores = torch.tensor([[-1.0, -1.5, -4.0], [-3.0, -2.0, -2.5]])
    # first: right is 0, so max(0, 1 + 1 - 1.5) + max(0, 1 + 1 - 4); second: right is 2
    first = 0.5 + 0.0
    second = (1 + 2.5 - 3.0) + (1 + 2.5 - 2.0)
    assert float(hinge_loss(scores, torch.tensor([0, 2]))) == pytest.approx((first + second) / 2)
    assert float(hinge_loss(torch.tensor([[0.0, -1.0]]), torch.tensor([0]))) == 0.0


def test_the_label_loss_is_the_cross_entropy_over_labels() -> None:
    found = float(label_loss(torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 0])))
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert found == pytest.approx(by_hand, abs=1e-6)
