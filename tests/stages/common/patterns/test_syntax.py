"""The pattern language, and how it becomes tokens."""

from __future__ import annotations

from typing import Any

import pytest

from stages.common.errors import PatternError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoder, check_pattern
from stages.common.patterns.syntax import FieldRef, Mask, Pattern, PatternText, Sep, Soft
from tests.support.small_models import film_example


def encoder(backbone: Backbone, text: str, max_length: int = 64, **settings: Any) -> Encoder:
    return Encoder(Pattern.parse("p", text), backbone.tokenizer, backbone.family, max_length, **settings)


def tokens(backbone: Backbone, ids: tuple[int, ...]) -> list[str]:
    return list(backbone.tokenizer.convert_ids_to_tokens(list(ids)))


def shown(backbone: Backbone, ids: tuple[int, ...]) -> str:
    return " ".join(tokens(backbone, ids))


# --- parsing ------------------------------------------------------------------------------------------------------


def test_a_pattern_is_parsed_into_its_parts_in_order() -> None:
    pattern = Pattern.parse("p", "{text_a|lower|strip} ({mask}){sep}{text_b}")
    assert pattern.parts == (
        FieldRef("text_a", ("lower", "strip")),
        PatternText(" ("),
        Mask(),
        PatternText(")"),
        Sep(),
        FieldRef("text_b"),
    )
    assert pattern.fields == ("text_a", "text_b")


def test_doubled_braces_are_the_characters_themselves() -> None:
    assert Pattern.parse("p", "{{{text}}} = {{x}} {mask}").parts == (
        PatternText("{"),
        FieldRef("text"),
        PatternText("} = {x} "),
        Mask(),
    )


def test_a_field_taken_twice_is_one_field() -> None:
    assert Pattern.parse("p", "{b} {a} {b} {mask}").fields == ("b", "a")


@pytest.mark.parametrize(("text", "ends"), [("{text}{mask}", True), ("{text}{mask}.", False), ("{mask}{text}", False)])
def test_only_a_pattern_with_nothing_behind_the_mask_ends_in_it(text: str, ends: bool) -> None:
    assert Pattern.parse("p", text).ends_in_mask is ends


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("It was {text}.", "has no {mask}", "exactly once"),
        ("{mask} {text} {mask}", "has 2 masks", "exactly once"),
        ("{text|shout} {mask}", "unknown filter 'shout'", "rstrip_punct, lower, strip"),
        ("{text {mask}", "stray '{' at character 1", "double it"),
        ("{text} } {mask}", "stray '}' at character 8", "double it"),
        ("It was {mask}.", "takes no field", "{text}"),
        ("{text}{sep}{mask}{sep}", "several {sep}", "Two segments"),
        ("{the text} {mask}", "{the text}, which is neither", "field of the data"),
        ("{} {text} {mask}", "{}, which is neither", "field of the data"),
    ],
)
def test_a_wrong_pattern_is_refused_with_its_name_and_a_remedy(text: str, problem: str, remedy: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern.parse("review", text)
    assert "'review'" in caught.value.problem
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("filters", "value"),
    [("rstrip_punct", " Is it True"), ("lower", " is it true?! …"), ("strip|lower|rstrip_punct", "is it true")],
)
def test_filters_apply_from_left_to_right(filters: str, value: str) -> None:
    field = Pattern.parse("p", "{text|" + filters + "} {mask}").parts[0]
    assert isinstance(field, FieldRef)
    assert field.value({"text": " Is it True?! …"}) == value


# --- layout -------------------------------------------------------------------------------------------------------


def test_bert_gets_both_segments_with_their_types(backbones: dict[str, Backbone]) -> None:
    bert = backbones["bert"]
    example = Example("1", {"a": "The film", "b": "It was great."})
    encoded = encoder(bert, "{b|rstrip_punct}?{sep}{mask}, {a}")(example)
    assert shown(bert, encoded.ids) == "[CLS] it was great ? [SEP] [MASK] , the film [SEP]"
    assert encoded.token_type_ids == (0,) * 6 + (1,) * 5
    assert encoded.mask_position == 6


def test_roberta_gets_its_two_separators_between_segments_and_no_types(backbones: dict[str, Backbone]) -> None:
    roberta = backbones["roberta"]
    encoded = encoder(roberta, "{text}{sep}{mask}")(Example("1", {"text": "The film"}))
    assert tokens(roberta, encoded.ids) == ["<s>", "The", "Ġfilm", "</s>", "</s>", "<mask>", "</s>"]
    assert set(encoded.token_type_ids) == {0}


def test_t5_gets_the_first_sentinel_as_mask_and_ends_in_eos(backbones: dict[str, Backbone]) -> None:
    t5 = backbones["t5"]
    encoded = encoder(t5, "{text} It was {mask}.")(Example("1", {"text": "The film"}))
    assert shown(t5, encoded.ids) == "▁The ▁film ▁It ▁was <extra_id_0> ▁ . </s>"
    assert encoded.mask_position == 4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_causal_text_stops_before_the_label_word(name: str, backbones: dict[str, Backbone]) -> None:
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
def test_pieces_of_bpe_are_those_of_the_whole_text(name: str, text: str, backbones: dict[str, Backbone]) -> None:
    """A space belongs to the word behind it: " film" and "film" are different tokens."""
    backbone = backbones[name]
    example = Example("1", {"text": "The plot was clever. ", "other": "A dull script"})
    whole = text.replace("{text}", "The plot was clever.").replace("{other}", "A dull script")
    whole = whole.replace("{mask}", "<mask>") if name == "roberta" else whole.replace("{mask}", "").rstrip(" ")
    assert list(encoder(backbone, text)(example).ids) == backbone.tokenizer(whole)["input_ids"]


def test_text_behind_the_mask_keeps_its_leading_space(backbones: dict[str, Backbone]) -> None:
    roberta = backbones["roberta"]
    encoded = encoder(roberta, "{mask} News: {text}")(Example("1", {"text": "The film"}))
    assert tokens(roberta, encoded.ids) == ["<s>", "<mask>", "ĠNews", ":", "ĠThe", "Ġfilm", "</s>"]


def test_a_causal_model_reads_up_to_the_mask_and_keeps_what_follows(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["llama"], "{text} It was{mask}. The film")(Example("1", {"text": "A hero"}))
    assert tokens(backbones["llama"], encoded.ids)[-2:] == ["ĠIt", "Ġwas"]
    assert tokens(backbones["llama"], encoded.suffix) == [".", "ĠThe", "Ġfilm"]
    assert encoded.mask_position == len(encoded.ids) - 1


def test_a_causal_text_that_starts_with_the_mask_has_something_before_it(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["gpt2"], "{mask} News: {text}")(Example("1", {"text": "The film"}))
    assert tokens(backbones["gpt2"], encoded.ids) == ["<|endoftext|>"]
    assert tokens(backbones["gpt2"], encoded.suffix) == ["ĠNews", ":", "ĠThe", "Ġfilm"]


def test_the_stem_ends_with_the_last_field(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["gpt2"], "News: {text} It was{mask}")(Example("1", {"text": "The film"}))
    assert tokens(backbones["gpt2"], encoded.ids[encoded.prefix_length :]) == ["ĠIt", "Ġwas"]


def test_more_masks_take_the_place_of_the_one(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["bert"], "{text} {sep} it was {mask}.")(Example("1", {"text": "the film"}))
    more = encoded.with_masks(3)
    assert shown(backbones["bert"], more.ids) == "[CLS] the film [SEP] it was [MASK] [MASK] [MASK] . [SEP]"
    assert more.token_type_ids == (0,) * 4 + (1,) * 7
    assert more.mask_position == encoded.mask_position
    assert encoded.with_masks(1).ids == encoded.ids


def test_room_is_kept_for_words_of_several_tokens(backbones: dict[str, Backbone]) -> None:
    long = Example("1", {"text": LONG})
    short = encoder(backbones["bert"], "{text} it was {mask}.", 20, reserve=2)(long)
    assert len(short.with_masks(3).ids) == 20


def test_soft_blocks_are_parsed_and_refused_where_nothing_fills_them() -> None:
    pattern = Pattern.parse("review", "{soft:20} {text} {soft:3:in summary} {mask}")
    assert pattern.parts[0] == Soft(20)
    assert pattern.parts[4] == Soft(3, "in summary")
    with pytest.raises(PatternError, match="soft block") as caught:
        check_pattern(pattern, "masked")
    assert "Take {soft:...} out" in caught.value.remedy
    check_pattern(pattern, "masked", soft_blocks=True)
    check_pattern(Pattern.parse("review", "{text} {mask}"), "masked")


@pytest.mark.parametrize("block", ["{soft:0}", "{soft:}", "{soft:x}", "{soft:3:}"])
def test_a_wrong_soft_block_is_refused(block: str) -> None:
    with pytest.raises(PatternError, match="no soft block"):
        Pattern.parse("p", "{text} {mask}" + block)


# --- shortening ---------------------------------------------------------------------------------------------------

LONG = "plot script music food acting ending weather team " * 12


@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gpt2", "t5"])
@pytest.mark.parametrize("max_length", [16, 33])
def test_a_long_text_is_shortened_to_exactly_the_maximum(
    name: str, max_length: int, backbones: dict[str, Backbone]
) -> None:
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


def test_a_text_that_fits_exactly_loses_nothing(backbones: dict[str, Backbone]) -> None:
    example = Example("1", {"text": "the plot was dull"})
    whole = encoder(backbones["bert"], "{text} it was {mask}.")(example)
    assert encoder(backbones["bert"], "{text} it was {mask}.", len(whole.ids))(example) == whole
    shorter = encoder(backbones["bert"], "{text} it was {mask}.", len(whole.ids) - 1)(example)
    assert shown(backbones["bert"], shorter.ids) == "[CLS] the plot was it was [MASK] . [SEP]"


PAIR = Example("1", {"a": "plot script music food acting", "b": "dull bad fine"})


@pytest.mark.parametrize(
    ("truncation", "text"),
    [
        ("last", "[CLS] plot script music food acting ( [MASK] ) dull [SEP]"),
        ("longest", "[CLS] plot script music ( [MASK] ) dull bad fine [SEP]"),
    ],
)
def test_which_field_of_a_shared_segment_is_shortened(
    truncation: str, text: str, backbones: dict[str, Backbone]
) -> None:
    encoded = encoder(backbones["bert"], "{a} ({mask}) {b}", 11, truncation=truncation)(PAIR)
    assert shown(backbones["bert"], encoded.ids) == text


def test_last_moves_on_to_the_field_before_when_the_last_is_used_up(backbones: dict[str, Backbone]) -> None:
    encoded = encoder(backbones["bert"], "{a} ({mask}) {b}", 8, truncation="last")(PAIR)
    assert shown(backbones["bert"], encoded.ids) == "[CLS] plot script music ( [MASK] ) [SEP]"


def test_the_longer_segment_is_shortened_and_a_tie_takes_from_the_second(backbones: dict[str, Backbone]) -> None:
    """As transformers' `longest_first`, which the original PET follows."""
    cut = {length: encoder(backbones["bert"], "{a}{sep}{mask} {b}", length)(PAIR) for length in (9, 10)}
    assert shown(backbones["bert"], cut[10].ids) == "[CLS] plot script music [SEP] [MASK] dull bad fine [SEP]"
    assert shown(backbones["bert"], cut[9].ids) == "[CLS] plot script music [SEP] [MASK] dull bad [SEP]"


@pytest.mark.parametrize("truncation", ["last", "longest"])
def test_a_pattern_that_leaves_no_room_is_refused(truncation: str, backbones: dict[str, Backbone]) -> None:
    encode = encoder(backbones["bert"], "the film in the lobby is {mask} {text}", 8, truncation=truncation)
    with pytest.raises(PatternError, match="no room") as caught:
        encode(Example("1", {"text": LONG}))
    assert "max_length" in caught.value.remedy
