"""Tests that special tokens which a user has typed stay text, for every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.tokenizers import load_tokenizer
from stages.common.patterns.encoding import Encoder
from stages.common.patterns.syntax import Pattern
from stages.common.plain_text import PlainText
from stages.token_level.windows import Windows
from tests.support.small_models import FAMILIES, TOKENIZERS

TYPED = "a [MASK] film [SEP] is <mask> good </s> or <|endoftext|> bad <extra_id_0> <s> <pad> [CLS] <unk>"


def special_ids(tokenizer: Any) -> set[int]:
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} | {tokenizer.eos_token_id} - {None}


@pytest.mark.parametrize("name", FAMILIES)
def test_pattern_has_only_its_own_special_tokens(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    text = "{text} It was{mask}" if backbone.family == "causal" else "{text} It was {mask}."
    encode = Encoder(Pattern.parse("p", text), backbone.tokenizer, backbone.family, 200)
    special = special_ids(backbone.tokenizer)
    typed, plain = encode(Example("1", {"text": TYPED})), encode(Example("2", {"text": "a film"}))
    assert [item for item in typed.ids if item in special] == [item for item in plain.ids if item in special]
    assert len(typed.ids) > len(plain.ids) + 20, "the text is still there"


@pytest.mark.parametrize("name", FAMILIES)
def test_pattern_may_have_special_tokens_of_a_chat(name: str, backbones: dict[str, Backbone]) -> None:
    tokenizer = backbones[name].tokenizer
    token = tokenizer.eos_token or tokenizer.sep_token
    encode = Encoder(Pattern.parse("p", token + "{text} {mask}"), tokenizer, backbones[name].family, 200)
    first = encode(Example("1", {"text": "a film"})).ids[len(encode.specials.before)]
    assert first == tokenizer.convert_tokens_to_ids(token)


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_student_reads_plain_text_also_after_it_was_saved(
    name: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    encoder = TextEncoder.of(EncoderConfig(asset=str(backbone_folders[name])), ["text"])
    encoder.tokenizer.save_pretrained(tmp_path)
    (text,) = encoder.texts(Example("1", {"text": TYPED}))
    for tokenizer in (encoder.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer(text)["input_ids"]
        special = special_ids(tokenizer)
        assert [item for item in ids if item in special] == [
            item for item in tokenizer("a film")["input_ids"] if item in special
        ]


@pytest.mark.parametrize("name", FAMILIES)
def test_windows_of_token_level_tasks_are_plain_text(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    words = tuple(TYPED.split())
    (window,) = Windows(backbone.tokenizer, backbone.family, 200).of_words(words)
    inner = window.encoded.ids[window.positions[0] : window.positions[-1] + 1]
    assert not special_ids(backbone.tokenizer) & set(inner)
    assert window.words == tuple(range(len(words)))


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_bare_tokenizer_reads_plain_text(name: str, backbone_folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_file(str(backbone_folders[name] / "tokenizer.json"))
    special = special_ids(load_tokenizer(backbone_folders[name]))
    assert special & set(tokenizer.encode(TYPED, add_special_tokens=False).ids), "it does not without PlainText"
    plain = PlainText(tokenizer)
    assert not special & set(tokenizer.encode(plain(TYPED), add_special_tokens=False).ids)


def test_pieces_that_look_like_sentinels_are_plain_text() -> None:
    """The vocabulary of mT5 has its sentinels as pieces, which are not declared as special."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁<extra_id_0>", 0.0), *((letter, -3.0) for letter in "aextr_id0<>‹")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    typed = "a <extra_id_0> a"
    assert 2 in fast(typed)["input_ids"]
    text = PlainText(fast)(typed)
    assert len(text) == len(typed) and 2 not in fast(text)["input_ids"]
