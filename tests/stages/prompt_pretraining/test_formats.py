"""Tests of the formats of prompt pretraining as cloze tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.config import Task
from stages.common.patterns.encoding import Encoder
from stages.common.patterns.syntax import FieldRef, Mask
from stages.prompt_pretraining.formats import (
    LETTERS,
    as_choice,
    check_options_fit,
    choice_task,
    corpus_requirements,
    single_task,
    task_of,
)
from tests.support.small_models import FAMILIES


def test_task_of_has_labels_words_and_fields() -> None:
    tasks = {
        kind: task_of(kind, 4, {"bad": ["dull", "bad"], "good": ["good"]}) for kind in ("pair", "choice", "single")
    }
    assert tasks["pair"].labels == ("yes", "maybe", "no")
    assert tasks["choice"].labels == ("A", "B", "C", "D")
    assert tasks["single"].labels == ("bad", "good")
    for family in ("masked", "causal", "seq2seq"):
        assert tasks["choice"].words(family) == {letter: (letter,) for letter in "ABCD"}
        assert tasks["single"].words(family)["bad"] == ("dull", "bad")
        assert tasks["pair"].pattern(family).fields == ("first", "second")
        assert tasks["choice"].pattern(family).fields == ("query", "option_a", "option_b", "option_c", "option_d")
        assert tasks["single"].pattern(family).fields == ("text",)
    assert all(task.pattern("causal").ends_in_mask for task in tasks.values())
    assert task_of("unified", 4, {}) == tasks["choice"].model_copy(update={"name": "unified"})


@pytest.mark.parametrize(("kind", "max_options", "documents", "sentences"), [
    ("pair", 6, 2, 3), ("choice", 6, 5, 3), ("unified", 16, 15, 3), ("choice", 2, 1, 3), ("single", 6, 1, 1),
])  # fmt: skip
def test_all_options_but_two_need_a_document(kind: Any, max_options: int, documents: int, sentences: int) -> None:
    requirements = corpus_requirements(kind, max_options)
    assert (requirements.documents, requirements.sentences) == (documents, sentences)


def choice(texts: Sequence[str], max_options: int) -> Example:
    fields = {f"option_{letter.lower()}": "" for letter in LETTERS[:max_options]}
    fields |= {f"option_{k.lower()}": f"{k}. {text}" for k, text in zip(LETTERS, texts, strict=False)}
    return Example("x", {"query": "The film is warm.", **fields}, "A")


@pytest.mark.parametrize("name", FAMILIES)
def test_missing_options_add_no_tokens(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    ids = []
    for max_options in (2, 16):
        pattern = choice_task("unified", max_options).pattern(backbone.family)
        encoder = Encoder(pattern, backbone.tokenizer, backbone.family, 150, "longest")
        ids.append(encoder(choice(["it was bad.", "it was good."], max_options)).ids)
    assert ids[0] == ids[1]
    text = backbone.tokenizer.decode(ids[0], skip_special_tokens=True).lower()
    assert re.sub(r"\s", "", text).startswith("thefilmiswarm?a.itwasbad.b.itwasgood.thecorrectoneis")


@pytest.mark.parametrize("name", FAMILIES)
def test_truncation_keeps_all_options(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    encoder = Encoder(
        choice_task("choice", 6).pattern(backbone.family), backbone.tokenizer, backbone.family, 90, "longest"
    )
    long = choice(["good " * count for count in (3, 40, 40, 40, 40, 40)], 6)
    encoded = encoder(long)
    assert len(encoded.ids) == 90
    text = backbone.tokenizer.decode(encoded.ids, skip_special_tokens=True).lower()
    num_left = [part.count("good") for part in re.split(r"[a-f] ?\. ", text)[1:]]
    assert len(num_left) == 6
    assert num_left[0] == 3  # the short option is complete
    assert min(num_left[1:]) >= max(num_left[1:]) - 1 > 4


@pytest.mark.parametrize(("max_options", "tokens"), [(2, 28), (6, 52), (16, 112)])
def test_check_options_fit_names_the_number_that_fits(max_options: int, tokens: int) -> None:
    assert check_options_fit(max_options, tokens) is None
    with pytest.raises(
        InputError, match=f"{tokens - 1} tokens are too few for a sentence and {max_options} options"
    ) as caught:
        check_options_fit(max_options, tokens - 1)
    assert f"to {tokens} or more" in caught.value.remedy
    fewer = re.search(r"use at most (\d+) options", caught.value.remedy)
    assert (int(fewer[1]) if fewer else 1) == max_options - 1
    if fewer:
        assert check_options_fit(int(fewer[1]), tokens - 1) is None


def test_task_with_one_label_raises() -> None:
    with pytest.raises(ValidationError):
        single_task({"good": ["good"]})


CB = Task(
    name="cb",
    labels=("contradiction", "neutral", "entailment"),
    patterns={"p": "{hypothesis} {mask}. {premise}", "end": "{premise} {hypothesis}{mask}"},
    verbalizer={"contradiction": ["no"], "neutral": ["maybe"], "entailment": ["yes"]},
)


def text_of(task: Task, pattern: str, fields: dict[str, str]) -> str:
    """Returns the text under a pattern, with ___ for the mask."""
    parts = task.pattern(pattern).parts
    return "".join(
        part.value(fields) if isinstance(part, FieldRef) else "___" if isinstance(part, Mask) else part.text
        for part in parts
    )


def test_task_is_rewritten_as_a_choice_as_in_unified_ppt() -> None:
    """CB as in the authors' CBDatasetUni: hypothesis, premise, options, question; targets are letters."""
    fields = {"hypothesis": "It was a film.", "premise": "Critics praised it."}
    rewritten = as_choice(CB, "p")
    options = "A. no B. maybe C. yes The correct one is"
    assert text_of(rewritten, "p", fields) == f"It was a film? Critics praised it. {options} ___."
    assert text_of(as_choice(CB, "end"), "end", fields) == f"Critics praised it? It was a film. {options}___"
    assert rewritten.labels == CB.labels
    assert rewritten.words("p") == {"contradiction": ("A",), "neutral": ("B",), "entailment": ("C",)}


def test_options_of_multiple_choice_are_the_options_of_the_rewritten_task() -> None:
    copa = Task(
        name="copa",
        labels=("1", "2"),
        options={"1": "choice1", "2": "choice2"},
        patterns={"so": "{premise}, so {option} Right?{mask}"},
        verbalizer={"right": ["Yes"], "wrong": ["No"]},
    )
    rewritten = as_choice(copa, "so")
    assert not rewritten.options
    fields = {"premise": "It rained.", "choice1": "He is wet.", "choice2": "He is dry."}
    assert text_of(rewritten, "so", fields) == "It rained? A. He is wet. B. He is dry. The correct one is___"


def test_task_without_words_or_with_too_many_labels_is_not_rewritten() -> None:
    with pytest.raises(InputError, match="no label words"):
        as_choice(CB.model_copy(update={"verbalizer": {}}), "p")
    labels = tuple(f"label{number}" for number in range(27))
    many = Task(name="many", labels=labels, patterns={"p": "{a} {mask}."}, verbalizer={name: [name] for name in labels})
    with pytest.raises(InputError, match="27 labels, more than the 26 letters"):
        as_choice(many, "p")
