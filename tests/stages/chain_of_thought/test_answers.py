"""Tests of the extraction of answers, and of the majority vote."""

from __future__ import annotations

import pytest

from stages.chain_of_thought.answers import Answer, AnswerParser, majority
from stages.common.errors import InputError

WORDS = {"rotten": ("rotten", "bad"), "fresh": ("fresh", "very good", "good")}
find = AnswerParser(WORDS, "The answer is")


@pytest.mark.parametrize(
    ("rationale", "label"),
    [
        ("It is kind. The answer is fresh.", "fresh"),
        ("so THE ANSWER IS: Rotten!", "rotten"),
        ("The answer is bad. No, wait. The answer is good.", "fresh"),  # the last trigger counts
        ("The answer is good, not bad.", "fresh"),  # the first word counts
        ("The answer is\n\n very good", "fresh"),
        ("The answer is unclear.\nThe film is bad.", None),  # only the line of the answer counts
        ("The film is bad.", None),  # without the trigger there is no answer
        ("The answer is goodness.", None),  # a part of a word is no word
        ("The answer is", None),
        ("", None),
    ],
)
def test_answer_follows_the_last_trigger(rationale: str, label: str | None) -> None:
    assert find(rationale).label == label


def test_answer_of_its_own_pass_needs_no_trigger() -> None:
    assert find("It is bad. The answer is bad.", " good. The answer is bad.") == Answer(
        "good. The answer is bad.", "fresh"
    )
    assert find("The answer is bad.", "") == Answer(None, None), "the rationale is not searched"


def test_pattern_finds_the_last_match_of_its_group() -> None:
    by_pattern = AnswerParser(WORDS, "The answer is", r"\((?P<answer>[^)]*)\)")
    assert by_pattern("(bad) or (it is good)") == Answer("it is good", "fresh")
    assert by_pattern("(bad) or (neither)") == Answer("neither", None)
    assert by_pattern("The answer is good.") == Answer(None, None)
    assert by_pattern("(bad)", "The answer is (good)").label == "fresh", "both passes are searched"


def test_longer_words_win_over_their_parts() -> None:
    sports = AnswerParser({"sports": ("sports",), "motor sports": ("motor sports",)}, "Label:")
    assert sports("Label: motor sports").label == "motor sports"
    assert sports("Label: sports on motors").label == "sports"


def test_words_of_scripts_without_spaces_have_no_borders() -> None:
    chinese = AnswerParser({"好评": ("好评", "A"), "差评": ("差评", "B")}, "答案是")
    assert chinese("所以，答案是好评。").label == "好评"
    assert chinese("所以，答案是选B。").label == "差评"
    assert AnswerParser({"yes": ("да",), "no": ("нет",)}, "Ответ:")("Ответ: никогда").label is None


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [("(fresh|rotten)", "has no group 'answer'"), ("(?P<answer>fresh", "is not a regular expression")],
)
def test_pattern_without_an_answer_is_rejected(pattern: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        AnswerParser(WORDS, "The answer is", pattern)
    assert caught.value.key == "answer_pattern"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("labels", "label", "is_tie"),
    [
        (["a", "b", "b"], "b", False),
        (["a", None, None], "a", False),
        (["b", "a", "a", "b"], "b", True),
        (["c", "a", "b", "b", "a"], "a", True),
        (["a"], "a", False),
        ([None, None], None, False),
    ],
)
def test_majority_is_the_most_frequent_label_and_in_ties_the_first(
    labels: list[str | None], label: str | None, is_tie: bool
) -> None:
    decision = majority(labels)
    assert (decision.label, decision.is_tie) == (label, is_tie)
    assert dict(decision.votes) == {name: labels.count(name) for name in set(labels) - {None}}
