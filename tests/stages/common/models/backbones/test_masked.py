"""Tests of masked backbones: words of several tokens, compared with the loop of the original PET."""

from __future__ import annotations

import pytest
import torch

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.cloze.label_word_scores import Word, word_scores
from stages.common.patterns.encoding import Encoded
from tests.support.label_words import MIXED, encode, ids


@pytest.fixture(scope="module", params=["bert", "roberta"])
def masked(request: pytest.FixtureRequest, backbones: dict[str, Backbone]) -> Backbone:
    return backbones[request.param]


def plain_log_probabilities(backbone: Backbone, item: Encoded) -> torch.Tensor:
    """Returns log-probabilities [L, V] of one text by the plain model."""
    arguments = {"input_ids": torch.tensor([item.ids])}
    if backbone.model.config.model_type == "bert":
        arguments["token_type_ids"] = torch.tensor([item.token_type_ids])
    return backbone.model(**arguments).logits[0].log_softmax(dim=1)


def filled_one_by_one(backbone: Backbone, encoded: Encoded, word: Word, decoding: str) -> float:
    """The loop of the original PET, text by text and mask by mask."""
    item = encoded.with_masks(len(word))
    left = {item.mask_position + position: token for position, token in enumerate(word)}
    if decoding == "parallel":
        log_LV = plain_log_probabilities(backbone, item)
        return sum(float(log_LV[position, token]) for position, token in left.items())
    total = 0.0
    while left:
        log_LV = plain_log_probabilities(backbone, item)
        position = min(left) if decoding == "ltr" else max(left, key=lambda at: float(log_LV[at, left[at]]))
        total += float(log_LV[position, left[position]])
        filled = list(item.ids)
        filled[position] = left.pop(position)
        item = Encoded(tuple(filled), item.token_type_ids, item.mask_position)
    return total


@pytest.mark.parametrize("decoding", ["default", "ltr", "parallel"])
def test_filling_masks_in_batches_equals_filling_one_by_one(decoding: str, masked: Backbone) -> None:
    encoded = encode(masked, "{text} It was {mask}.")
    words = ids(masked, MIXED)
    assert len({len(word) for word in words}) >= 3
    with torch.inference_mode():
        actual = word_scores(masked, encoded, words, likelihood=True, decoding=decoding)
        expected = [[filled_one_by_one(masked, item, word, decoding) for word in words] for item in encoded]
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-3, rtol=1e-4)


def test_decoding_orders_give_different_scores(masked: Backbone) -> None:
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


def test_training_reads_all_words_from_the_same_masks(masked: Backbone) -> None:
    encoded, words = encode(masked, "{text} It was {mask}."), ids(masked, MIXED)
    longest = max(len(word) for word in words)
    actual = word_scores(masked, encoded, words, likelihood=True, training=True)
    for row, item in enumerate(encoded):
        wide = item.with_masks(longest)
        log_LV = plain_log_probabilities(masked, wide)
        expected = [sum(log_LV[wide.mask_position + at, token] for at, token in enumerate(word)) for word in words]
        torch.testing.assert_close(actual[row], torch.stack(expected), atol=1e-3, rtol=1e-4)


def test_separate_prompts_stay_with_their_texts(masked: Backbone) -> None:
    encoded, words = encode(masked, "{text} It was {mask}."), ids(masked, MIXED)
    prompts = torch.randn(len(encoded), 4, 32, generator=torch.Generator().manual_seed(1)) * 0.5
    with torch.inference_mode():
        batched = word_scores(masked, encoded, words, likelihood=True, prompt=SoftInput(before=prompts))
        separate = [
            word_scores(masked, [item], words, likelihood=True, prompt=SoftInput(before=prompt))
            for item, prompt in zip(encoded, prompts, strict=True)
        ]
        without = word_scores(masked, encoded, words, likelihood=True)
    torch.testing.assert_close(batched, torch.cat(separate), atol=1e-3, rtol=1e-4)
    assert (batched - without).abs().max() > 0.05
