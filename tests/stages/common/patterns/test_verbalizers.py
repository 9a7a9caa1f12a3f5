"""Tests of verbalizers: tokens of label words."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from stages.common.errors import VerbalizerError
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.verbalizers import Verbalizer, word_tokens
from tests.support.small_models import FAMILIES


@pytest.mark.parametrize(
    ("name", "token"),
    [("bert", "great"), ("roberta", "Ġgreat"), ("llama", "Ġgreat"), ("gpt2", "Ġgreat"), ("t5", "▁great")],
)
def test_word_is_the_token_after_a_space(name: str, token: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    actual = Verbalizer.of({"fresh": ["great"], "rotten": [" bad"]}, backbone.tokenizer, backbone.family)
    assert actual.labels == ("fresh", "rotten")
    assert backbone.tokenizer.convert_ids_to_tokens([word[0] for word in actual.flat]) == [
        token,
        token.replace("great", "bad"),
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_bare_tokenizer_returns_the_same_ids(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    words = {"fresh": ["great", "good"], "rotten": ["bad"]}
    bare = Tokenizer.from_file(f"{backbone.tokenizer.name_or_path}/tokenizer.json")
    assert Verbalizer.of(words, bare, backbone.family) == Verbalizer.of(words, backbone.tokenizer, backbone.family)
    assert word_tokens("great", bare) == word_tokens("great", backbone.tokenizer)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("bare", [True, False])
def test_word_can_have_several_tokens(name: str, bare: bool, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    tokenizer = backbone.tokenizer.backend_tokenizer if bare else backbone.tokenizer
    actual = Verbalizer.of({"fresh": ["great"], "rotten": ["badly"]}, tokenizer, backbone.family)
    single, several = actual.flat
    assert len(single) == 1
    assert len(several) == actual.longest > 1
    assert backbone.tokenizer.decode(list(several)).strip() == "badly"
    assert actual.needs_likelihood


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.parametrize("bare", [True, False])
def test_unknown_word_raises_an_error(name: str, bare: bool, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    tokenizer = backbone.tokenizer.backend_tokenizer if bare else backbone.tokenizer
    with pytest.raises(VerbalizerError, match=r"'映画' of 'fresh' is not in the backbone's vocabulary"):
        Verbalizer.of({"fresh": ["映画"], "rotten": ["bad"]}, tokenizer, backbone.family)


def test_empty_word_raises_an_error(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(VerbalizerError, match="' ' of 'fresh' is not in"):
        Verbalizer.of({"fresh": [" "], "rotten": ["bad"]}, backbones["bert"].tokenizer, "masked")


@pytest.mark.parametrize(
    "words", [{"a": ["good"], "b": ["good"]}, {"a": ["good", "great"], "c": ["bad"], "b": ["great", "good"]}]
)
def test_labels_with_equal_words_raise_an_error(words: dict[str, list[str]], backbones: dict[str, Backbone]) -> None:
    with pytest.raises(VerbalizerError, match="'a' and 'b' have the same words") as caught:
        Verbalizer.of(words, backbones["roberta"].tokenizer, "masked")
    assert "its own words" in caught.value.remedy


def test_labels_can_share_some_words(backbones: dict[str, Backbone]) -> None:
    words = {"a": ["good"], "b": ["good", "great"]}
    assert len(Verbalizer.of(words, backbones["gpt2"].tokenizer, "causal").flat) == 3
