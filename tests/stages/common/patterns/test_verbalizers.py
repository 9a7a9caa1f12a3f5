"""Label words: one token each, found with the space before it."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer

from stages.common.errors import VerbalizerError
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.label_word_scores import label_scores
from stages.common.patterns.config import LabelScore
from stages.common.patterns.verbalizers import Verbalizer, word_tokens
from tests.support.small_models import FAMILIES


@pytest.mark.parametrize(
    ("name", "token"),
    [("bert", "great"), ("roberta", "Ġgreat"), ("llama", "Ġgreat"), ("gpt2", "Ġgreat"), ("t5", "▁great")],
)
def test_a_word_is_the_token_that_follows_a_space(name: str, token: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    found = Verbalizer.of({"fresh": ["great"], "rotten": [" bad"]}, backbone.tokenizer, backbone.family)
    assert found.labels == ("fresh", "rotten")
    assert backbone.tokenizer.convert_ids_to_tokens([word[0] for word in found.flat]) == [
        token,
        token.replace("great", "bad"),
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bare_tokenizer_finds_the_same_ids(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    words = {"fresh": ["great", "good"], "rotten": ["bad"]}
    bare = Tokenizer.from_file(f"{backbone.tokenizer.name_or_path}/tokenizer.json")
    assert Verbalizer.of(words, bare, backbone.family) == Verbalizer.of(words, backbone.tokenizer, backbone.family)
    assert word_tokens("great", bare) == word_tokens("great", backbone.tokenizer)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("bare", [True, False])
def test_a_word_may_have_several_tokens(name: str, bare: bool, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    tokenizer = backbone.tokenizer.backend_tokenizer if bare else backbone.tokenizer
    found = Verbalizer.of({"fresh": ["great"], "rotten": ["badly"]}, tokenizer, backbone.family)
    single, several = found.flat
    assert len(single) == 1
    assert len(several) == found.longest > 1
    assert backbone.tokenizer.decode(list(several)).strip() == "badly"
    assert found.needs_likelihood


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.parametrize("bare", [True, False])
def test_a_word_outside_the_vocabulary_is_refused(name: str, bare: bool, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    tokenizer = backbone.tokenizer.backend_tokenizer if bare else backbone.tokenizer
    with pytest.raises(VerbalizerError, match=r"'映画' of 'fresh' is not in the backbone's vocabulary"):
        Verbalizer.of({"fresh": ["映画"], "rotten": ["bad"]}, tokenizer, backbone.family)


def test_an_empty_word_is_refused(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(VerbalizerError, match="' ' of 'fresh' is not in"):
        Verbalizer.of({"fresh": [" "], "rotten": ["bad"]}, backbones["bert"].tokenizer, "masked")


@pytest.mark.parametrize(
    "words", [{"a": ["good"], "b": ["good"]}, {"a": ["good", "great"], "c": ["bad"], "b": ["great", "good"]}]
)
def test_labels_with_the_same_words_are_refused(words: dict[str, list[str]], backbones: dict[str, Backbone]) -> None:
    with pytest.raises(VerbalizerError, match="'a' and 'b' have the same words") as caught:
        Verbalizer.of(words, backbones["roberta"].tokenizer, "masked")
    assert "words of its own" in caught.value.remedy


def test_labels_may_share_some_words(backbones: dict[str, Backbone]) -> None:
    words = {"a": ["good"], "b": ["good", "great"]}
    assert len(Verbalizer.of(words, backbones["gpt2"].tokenizer, "causal").flat) == 3


WORDS = (((4,), (9,)), ((2,),), ((1,), (3,), (5,)))
LOGITS_BW = torch.tensor([[1.0, 3.0, -2.0, 0.0, 1.0, 5.0], [0.5, -0.5, 7.0, 3.0, 3.0, 3.0]])


@pytest.mark.parametrize("score", ["mean_logit", "log_likelihood"])
def test_a_label_scores_the_mean_of_its_words(score: LabelScore) -> None:
    verbalizer = Verbalizer(("a", "b", "c"), WORDS, score)
    assert verbalizer.flat == ((4,), (9,), (2,), (1,), (3,), (5,))
    assert label_scores(verbalizer, LOGITS_BW).tolist() == [[2.0, -2.0, 2.0], [0.0, 7.0, 3.0]]
    assert verbalizer.needs_likelihood is (score == "log_likelihood")


def test_probabilities_of_words_add_up() -> None:
    verbalizer = Verbalizer(("a", "b", "c"), WORDS, "sum_probability")
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.05, 0.05, 0.1]])
    found = label_scores(verbalizer, probabilities.log())
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.3, 0.2]]).log())
    assert verbalizer.needs_likelihood
