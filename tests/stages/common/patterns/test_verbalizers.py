"""Tests of verbalizers: tokens of label words."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

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
    actual = Verbalizer.of({"fresh": ["great"], "rotten": [" bad"]}, backbone.tokenizer)
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
    assert Verbalizer.of(words, bare) == Verbalizer.of(words, backbone.tokenizer)
    assert word_tokens("great", bare) == word_tokens("great", backbone.tokenizer)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("bare", [True, False])
def test_word_can_have_several_tokens(name: str, bare: bool, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    tokenizer = backbone.tokenizer.backend_tokenizer if bare else backbone.tokenizer
    actual = Verbalizer.of({"fresh": ["great"], "rotten": ["badly"]}, tokenizer)
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
        Verbalizer.of({"fresh": ["映画"], "rotten": ["bad"]}, tokenizer)


def test_empty_word_raises_an_error(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(VerbalizerError, match="' ' of 'fresh' is empty"):
        Verbalizer.of({"fresh": [" "], "rotten": ["bad"]}, backbones["bert"].tokenizer)


@pytest.mark.parametrize(
    "words", [{"a": ["good"], "b": ["good"]}, {"a": ["good", "great"], "c": ["bad"], "b": ["great", "good"]}]
)
def test_labels_with_equal_words_raise_an_error(words: dict[str, list[str]], backbones: dict[str, Backbone]) -> None:
    with pytest.raises(VerbalizerError, match="'a' and 'b' have the same words") as caught:
        Verbalizer.of(words, backbones["roberta"].tokenizer)
    assert "its own words" in caught.value.remedy


def test_labels_can_share_some_words(backbones: dict[str, Backbone]) -> None:
    words = {"a": ["good"], "b": ["good", "great"]}
    assert len(Verbalizer.of(words, backbones["gpt2"].tokenizer).flat) == 3


def prepending_tokenizer() -> Tokenizer:
    """SentencePiece as in Llama 2: the normalizer puts ▁ before a text, even if the text starts with a space."""
    pieces = {"<unk>": 0, "▁": 1, "▁good": 2, "▁It": 3, "▁was": 4, "▁▁": 5, "▁a": 6}
    letters = {letter: 10 + number for number, letter in enumerate("goodItwas好评".replace("oo", "o"))}
    tokenizer = Tokenizer(models.WordLevel({**pieces, **letters}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return tokenizer


@pytest.mark.parametrize("name", ["llama 2", *FAMILIES])
@pytest.mark.parametrize("word", ["good", "great"])
def test_word_has_the_tokens_that_it_has_in_a_sentence(name: str, word: str, backbones: dict[str, Backbone]) -> None:
    if name == "llama 2":
        word, tokenizer = "good", prepending_tokenizer()
        sentence, start = tokenizer.encode(f"It was {word}").ids, tokenizer.encode("It was").ids
    else:
        tokenizer = backbones[name].tokenizer
        sentence, start = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f"It was {word}", "It was")
        )
    assert sentence[: len(start)] == start
    assert word_tokens(word, tokenizer) == word_tokens(f" {word} ", tokenizer) == sentence[len(start) :]


@pytest.mark.parametrize("name", ["roberta", "llama", "gpt2"])
@pytest.mark.parametrize("word", ["好评", "すごい", "ดี"])
def test_word_of_a_script_without_spaces_has_none_before_it(
    name: str, word: str, backbones: dict[str, Backbone]
) -> None:
    tokenizer = backbones[name].tokenizer
    assert tokenizer.decode(word_tokens(word, tokenizer)) == word
    assert tokenizer.decode(word_tokens("хорошо", tokenizer)) == " хорошо"
