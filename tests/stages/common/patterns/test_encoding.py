"""Tests of encoding: tokens, segments, truncation, masks and soft blocks."""

from __future__ import annotations

from typing import Any

import pytest

from stages.common.errors import PatternError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoder, check_pattern
from stages.common.patterns.syntax import Pattern, Soft
from tests.support.small_models import film_example


def encoder(backbone: Backbone, text: str, max_length: int = 64, **settings: Any) -> Encoder:
    return Encoder(Pattern.parse("p", text), backbone.tokenizer, backbone.family, max_length, **settings)


def tokens(backbone: Backbone, ids: tuple[int, ...]) -> list[str]:
    return list(backbone.tokenizer.convert_ids_to_tokens(list(ids)))


def joined_tokens(backbone: Backbone, ids: tuple[int, ...]) -> str:
    return " ".join(tokens(backbone, ids))


def test_bert_has_two_segments_with_types(backbones: dict[str, Backbone]) -> None:
    bert = backbones["bert"]
    example = Example("1", {"a": "The film", "b": "It was great."})
    encoded = encoder(bert, "{b|rstrip_punct}?{sep}{mask}, {a}")(example)
    assert joined_tokens(bert, encoded.ids) == "[CLS] it was great ? [SEP] [MASK] , the film [SEP]"
    assert encoded.token_type_ids == (0,) * 6 + (1,) * 5
    assert encoded.mask_position == 6


def test_roberta_has_two_separators_and_no_types(backbones: dict[str, Backbone]) -> None:
    roberta = backbones["roberta"]
    encoded = encoder(roberta, "{text}{sep}{mask}")(Example("1", {"text": "The film"}))
    assert tokens(roberta, encoded.ids) == ["<s>", "The", "Ġfilm", "</s>", "</s>", "<mask>", "</s>"]
    assert set(encoded.token_type_ids) == {0}


def test_t5_has_the_first_sentinel_as_mask_and_ends_in_eos(backbones: dict[str, Backbone]) -> None:
    t5 = backbones["t5"]
    encoded = encoder(t5, "{text} It was {mask}.")(Example("1", {"text": "The film"}))
    assert joined_tokens(t5, encoded.ids) == "▁The ▁film ▁It ▁was <extra_id_0> ▁ . </s>"
    assert encoded.mask_position == 4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_causal_text_ends_before_the_label_word(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    encoded = encoder(backbone, "{text} It was{mask}")(Example("1", {"text": "The film"}))
    assert encoded.mask_position == len(encoded.ids) - 1
    assert tokens(backbone, encoded.ids)[-2:] == ["ĠIt", "Ġwas"]


@pytest.mark.parametrize("name", ["roberta", "llama", "gpt2"])
@pytest.mark.parametrize(
    "text",
    [
        "Review: {text}\nSentiment:{mask}",
        "Review: {text}\nSentiment: {mask}",
        "{text}\nIn summary, the film is{mask}",
        "{text} All in all, it was{mask}",
        "{other} {text} It was {mask}",
        "({text}) {other}:{mask}",
    ],
)
def test_bpe_pieces_equal_the_tokens_of_the_full_text(name: str, text: str, backbones: dict[str, Backbone]) -> None:
    """A space belongs to the next word: " film" and "film" are different tokens."""
    backbone = backbones[name]
    example = Example("1", {"text": "The plot was clever. ", "other": "A dull script"})
    full = text.replace("{text}", "The plot was clever.").replace("{other}", "A dull script")
    full = full.replace("{mask}", "<mask>") if name == "roberta" else full.replace("{mask}", "").rstrip(" ")
    expected = backbone.tokenizer(full, split_special_tokens=False)["input_ids"]
    assert list(encoder(backbone, text)(example).ids) == expected


def test_text_after_the_mask_keeps_its_leading_space(backbones: dict[str, Backbone]) -> None:
    roberta = backbones["roberta"]
    encoded = encoder(roberta, "{mask} News: {text}")(Example("1", {"text": "The film"}))
    assert tokens(roberta, encoded.ids) == ["<s>", "<mask>", "ĠNews", ":", "ĠThe", "Ġfilm", "</s>"]


def test_causal_text_after_the_mask_is_the_suffix(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["llama"], "{text} It was{mask}. The film")(Example("1", {"text": "A hero"}))
    assert tokens(backbones["llama"], encoded.ids)[-2:] == ["ĠIt", "Ġwas"]
    assert tokens(backbones["llama"], encoded.suffix) == [".", "ĠThe", "Ġfilm"]
    assert encoded.mask_position == len(encoded.ids) - 1


def test_causal_text_that_starts_with_the_mask_has_a_token_before_it(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["gpt2"], "{mask} News: {text}")(Example("1", {"text": "The film"}))
    assert tokens(backbones["gpt2"], encoded.ids) == ["<|endoftext|>"]
    assert tokens(backbones["gpt2"], encoded.suffix) == ["ĠNews", ":", "ĠThe", "Ġfilm"]


def test_prefix_ends_with_the_last_field(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["gpt2"], "News: {text} It was{mask}")(Example("1", {"text": "The film"}))
    assert tokens(backbones["gpt2"], encoded.ids[encoded.prefix_length :]) == ["ĠIt", "Ġwas"]


def test_with_masks_repeats_the_mask(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["bert"], "{text} {sep} it was {mask}.")(Example("1", {"text": "the film"}))
    more = encoded.with_masks(3)
    assert joined_tokens(backbones["bert"], more.ids) == "[CLS] the film [SEP] it was [MASK] [MASK] [MASK] . [SEP]"
    assert more.token_type_ids == (0,) * 4 + (1,) * 7
    assert more.mask_position == encoded.mask_position
    assert encoded.with_masks(1).ids == encoded.ids


def test_num_reserved_leaves_space_for_label_words(backbones: dict[str, Backbone]) -> None:
    long = Example("1", {"text": LONG})
    short = encoder(backbones["bert"], "{text} it was {mask}.", 20, num_reserved=2)(long)
    assert len(short.with_masks(3).ids) == 20


def test_check_pattern_rejects_soft_blocks_without_a_prompt() -> None:
    pattern = Pattern.parse("review", "{soft:20} {text} {soft:3:in summary} {mask}")
    assert pattern.parts[0] == Soft(20)
    assert pattern.parts[4] == Soft(3, "in summary")
    with pytest.raises(PatternError, match="soft block") as caught:
        check_pattern(pattern, "masked")
    assert "Remove {soft:...}" in caught.value.remedy
    check_pattern(pattern, "masked", soft_blocks=True)
    check_pattern(Pattern.parse("review", "{text} {mask}"), "masked")


LONG = "plot script music food acting ending weather team " * 12


@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gpt2", "t5"])
@pytest.mark.parametrize("max_length", [16, 33])
def test_truncation_fills_the_maximum_length(name: str, max_length: int, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    encode = encoder(backbone, "Review: {text} It was{mask}", max_length)
    short = encode(film_example(0))
    long = encode(Example("1", {"text": LONG}))
    assert len(long.ids) == max_length == len(long.token_type_ids)
    assert len(short.ids) <= max_length
    literal = [token.strip("Ġ▁").lower() for token in tokens(backbone, long.ids)]
    assert literal.count("was") == 1
    assert "".join(literal).count("review") == 1
    if name in ("bert", "roberta", "t5"):
        assert long.ids[long.mask_position] == encode.mask_ids[0]
        assert long.ids.count(encode.mask_ids[0]) == 1
    else:
        assert long.mask_position == max_length - 1


def test_truncation_keeps_a_text_that_fits(backbones: dict[str, Backbone]) -> None:
    example = Example("1", {"text": "the plot was dull"})
    full = encoder(backbones["bert"], "{text} it was {mask}.")(example)
    assert encoder(backbones["bert"], "{text} it was {mask}.", len(full.ids))(example) == full
    shorter = encoder(backbones["bert"], "{text} it was {mask}.", len(full.ids) - 1)(example)
    assert joined_tokens(backbones["bert"], shorter.ids) == "[CLS] the plot was it was [MASK] . [SEP]"


PAIR = Example("1", {"a": "plot script music food acting", "b": "dull bad fine"})


@pytest.mark.parametrize(
    ("truncation", "text"),
    [
        ("last", "[CLS] plot script music food acting ( [MASK] ) dull [SEP]"),
        ("longest", "[CLS] plot script music ( [MASK] ) dull bad fine [SEP]"),
    ],
)
def test_truncation_chooses_a_field_of_a_shared_segment(
    truncation: str, text: str, backbones: dict[str, Backbone]
) -> None:
    encoded = encoder(backbones["bert"], "{a} ({mask}) {b}", 11, truncation=truncation)(PAIR)
    assert joined_tokens(backbones["bert"], encoded.ids) == text


def test_truncation_last_continues_with_the_previous_field(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["bert"], "{a} ({mask}) {b}", 8, truncation="last")(PAIR)
    assert joined_tokens(backbones["bert"], encoded.ids) == "[CLS] plot script music ( [MASK] ) [SEP]"


def test_truncation_shortens_the_longer_segment_or_the_second(backbones: dict[str, Backbone]) -> None:
    """As transformers' `longest_first`, which the original PET follows."""
    cut = {length: encoder(backbones["bert"], "{a}{sep}{mask} {b}", length)(PAIR) for length in (9, 10)}
    assert joined_tokens(backbones["bert"], cut[10].ids) == "[CLS] plot script music [SEP] [MASK] dull bad fine [SEP]"
    assert joined_tokens(backbones["bert"], cut[9].ids) == "[CLS] plot script music [SEP] [MASK] dull bad [SEP]"


@pytest.mark.parametrize("truncation", ["last", "longest"])
def test_truncation_rejects_a_pattern_without_space_for_text(truncation: str, backbones: dict[str, Backbone]) -> None:
    encode = encoder(backbones["bert"], "the film in the lobby is {mask} {text}", 8, truncation=truncation)
    with pytest.raises(PatternError, match="no space") as caught:
        encode(Example("1", {"text": LONG}))
    assert "max_length" in caught.value.remedy
