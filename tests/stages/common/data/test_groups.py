"""Tests of the groups that no split and no fold separates."""

from __future__ import annotations

from stages.common.data.groups import group_numbers
from stages.common.examples import Example


def example(text: str, group: str | None = None) -> Example:
    return Example(text, {"text": text, "other": f"{text} {group}"}, "a", group=group)


def test_examples_without_a_group_are_alone_unless_their_text_is_the_same() -> None:
    assert group_numbers([example("x"), example("y"), example(" X "), example("z")], ["text"]) == [0, 1, 0, 2]


def test_groups_that_share_a_text_are_one_group() -> None:
    examples = [example("x", "Ann"), example("y", "Bob"), example("z", "Cy"), example("v", "Ann"), example("Y", "Ann")]
    assert group_numbers(examples, ["text"]) == [0, 0, 1, 0, 0]


def test_only_the_given_fields_are_compared() -> None:
    assert group_numbers([example("x", "Ann"), example("x", "Bob")], ["text"]) == [0, 0]
    assert group_numbers([example("x", "Ann"), example("x", "Bob")], ["other"]) == [0, 1]


def test_a_group_may_have_the_name_of_a_text() -> None:
    assert group_numbers([example("x", "y"), example("y", "z")], ["text"]) == [0, 1]
