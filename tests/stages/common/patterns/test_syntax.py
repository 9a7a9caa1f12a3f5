"""Tests of the pattern language."""

from __future__ import annotations

import pytest

from stages.common.errors import PatternError
from stages.common.patterns.syntax import FieldRef, Mask, Pattern, PatternText, Sep


def test_parse_returns_parts_in_order() -> None:
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


def test_parse_reads_doubled_braces_as_characters() -> None:
    assert Pattern.parse("p", "{{{text}}} = {{x}} {mask}").parts == (
        PatternText("{"),
        FieldRef("text"),
        PatternText("} = {x} "),
        Mask(),
    )


def test_fields_lists_each_field_once() -> None:
    assert Pattern.parse("p", "{b} {a} {b} {mask}").fields == ("b", "a")


@pytest.mark.parametrize(("text", "ends"), [("{text}{mask}", True), ("{text}{mask}.", False), ("{mask}{text}", False)])
def test_ends_in_mask_requires_nothing_after_the_mask(text: str, ends: bool) -> None:
    assert Pattern.parse("p", text).ends_in_mask is ends


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("It was {text}.", "has no {mask}", "exactly once"),
        ("{mask} {text} {mask}", "has 2 masks", "exactly once"),
        ("{text|shout} {mask}", "unknown filter 'shout'", "rstrip_punct, lower, strip"),
        ("{text {mask}", "unmatched '{' at character 1", "double it"),
        ("{text} } {mask}", "unmatched '}' at character 8", "double it"),
        ("It was {mask}.", "has no field", "{text}"),
        ("{text}{sep}{mask}{sep}", "several {sep}", "at most once"),
        ("{the text} {mask}", "{the text}, which is not", "field of the data"),
        ("{} {text} {mask}", "{}, which is not", "field of the data"),
    ],
)
def test_parse_rejects_invalid_patterns(text: str, problem: str, remedy: str) -> None:
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


@pytest.mark.parametrize("block", ["{soft:0}", "{soft:}", "{soft:x}", "{soft:3:}"])
def test_parse_rejects_invalid_soft_blocks(block: str) -> None:
    with pytest.raises(PatternError, match="not a valid soft block"):
        Pattern.parse("p", "{text} {mask}" + block)
