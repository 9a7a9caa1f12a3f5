"""Tests of templates and of edits of their phrases."""

from __future__ import annotations

import random

import pytest

from stages.common.patterns.syntax import Pattern
from stages.pet.pattern_search.edits import Phrase, add, delete, random_edit, swap, words_of
from stages.pet.pattern_search.templates import Template

REVIEW = "Review: {text}\nIn the end, it was{mask}"


def template(text: str) -> Template:
    return Template.of(Pattern.parse("p", text))


@pytest.mark.parametrize(
    "text",
    [
        REVIEW,
        "{text}{mask}",
        "{a|rstrip_punct|lower}? {sep} {mask}, {b}",
        "A {{brace}} like {{mask}}: {text} It was{mask}.",
        "评论：{text} 这是{mask}的。",
    ],
)
def test_template_has_the_text_of_its_pattern(text: str) -> None:
    assert template(text).text == text
    for gap in template(text).gaps:
        words, tail = words_of(gap)
        assert "".join(word.space + word.text for word in words) + tail == gap


def test_soft_text_has_the_block_where_words_are_inserted() -> None:
    start = template("A {{mask}}: {text} It was{mask}.")
    assert start.soft_text(2) == "A {{mask}}: {text}{soft:2} It was{mask}."
    assert start.before_mask(["so", "very"]).text == "A {{mask}}: {text} so very It was{mask}."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{text}{mask}", "{text} a b{mask}"),
        ("{text}. It was{mask}", "{text} a b. It was{mask}"),
        ("{mask}: {text}", "a b{mask}: {text}"),
        ("Answer{mask}: {text}", "a b Answer{mask}: {text}"),
    ],
)
def test_words_before_the_mask_are_separated_by_spaces(text: str, expected: str) -> None:
    assert template(text).before_mask(["a", "b"]).text == expected


def test_chinese_words_have_no_spaces() -> None:
    assert template("{text}这是{mask}的").before_mask(["很", "非"]).text == "{text}很非这是{mask}的"
    assert [word.text for word in words_of("这是 good。")[0]] == ["这", "是", "good。"]


def test_delete_removes_a_phrase_and_keeps_the_line_break() -> None:
    edit = delete(template(REVIEW), Phrase(1, 0, 3))
    assert (edit.template.text, edit.deleted) == ("Review: {text}\nit was{mask}", "In the end,")
    assert delete(template(REVIEW), Phrase(0, 0, 1)).template.text == " {text}\nIn the end, it was{mask}"


def test_swap_exchanges_phrases_of_one_gap_and_of_two() -> None:
    assert swap(template(REVIEW), Phrase(1, 3, 5), Phrase(1, 0, 3)).template.text == (
        "Review: {text}\nit was In the end,{mask}"
    )
    assert swap(template(REVIEW), Phrase(0, 0, 1), Phrase(1, 0, 3)).template.text == (
        "In the end, {text}\nReview: it was{mask}"
    )


@pytest.mark.parametrize(
    ("text", "gap", "position", "expected"),
    [
        (REVIEW, 1, 0, "Review: {text}\nso far In the end, it was{mask}"),
        (REVIEW, 1, 5, "Review: {text}\nIn the end, it was so far{mask}"),
        (REVIEW, 0, 0, "so far Review: {text}\nIn the end, it was{mask}"),
        ("{text}{mask}", 1, 0, "{text} so far{mask}"),
        ("{text}{mask}", 0, 0, "so far {text}{mask}"),
        ("{a} {b}{mask}", 1, 0, "{a} so far {b}{mask}"),
    ],
)
def test_add_inserts_a_phrase(text: str, gap: int, position: int, expected: str) -> None:
    assert add(template(text), "so far", gap, position).template.text == expected


@pytest.mark.parametrize("text", [REVIEW, "{mask}: {text}", "{a|lower}? {sep} ({mask}), {b}", "{text}{mask}"])
def test_random_edits_keep_fields_mask_and_end(text: str) -> None:
    rng, start = random.Random(0), template(text)
    texts = set()
    for _ in range(300):
        edit = random_edit(start, ["so far", "in {short}"], 3, rng)
        if edit is None:
            continue
        pattern = Pattern.parse("p", edit.template.text)
        assert Template.of(pattern).parts == start.parts
        assert pattern.ends_in_mask == Pattern.parse("p", text).ends_in_mask
        assert Template.of(pattern) == edit.template
        texts.add(edit.template.text)
    assert len(texts) > 3


def test_without_phrases_nothing_is_added() -> None:
    assert random_edit(template("{text}{mask}"), [], 3, random.Random(0)) is None
    for seed in range(50):
        edit = random_edit(template(REVIEW), [], 2, random.Random(seed))
        assert edit is None or len(edit.template.text) <= len(REVIEW)
