"""The pretraining formats, each as a cloze task with a pattern for every family of backbones.

They are those of PPT (Gu et al., ACL 2022, https://arxiv.org/abs/2109.04332):

| format | question | labels |
|---|---|---|
| pair | how are two sentences related? | yes (adjacent, in either order), maybe (one document), no (two documents) |
| choice | which of the options is adjacent to a sentence? | the letter of an option |
| single | what does a sentence say? | pseudo-labels, see stages/prompt_pretraining/pseudo_labels.py |
| unified | as choice, with a varying number of options, because every task can be written this way | the letter |
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from stages.common.errors import InputError
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import OPTION

PretrainingFormat = Literal["pair", "choice", "single", "unified"]
RELATIONS = ("yes", "maybe", "no")
LETTERS = tuple(string.ascii_uppercase)
"""Names of the options. Each is one token in the vocabularies of BERT, RoBERTa, GPT-2, Llama and T5."""
NumOptions = Annotated[int, Field(ge=2, le=len(LETTERS))]
PAIR_TASK = Task(
    name="pair",
    labels=RELATIONS,
    patterns={
        "masked": "{first} {mask}. {second}",
        "causal": "{first}\n{second}\nAdjacent:{mask}",
        "seq2seq": "{first} {mask}. {second}",
    },
    verbalizer={relation: [relation] for relation in RELATIONS},
)
_OPTION_TOKENS = 6
"""Minimum length of an option: its letter, a period, and four tokens of text."""
_PATTERN_TOKENS = 10
"""Length of the words in the pattern of `choice_task`, with special tokens."""


@dataclass(frozen=True, slots=True)
class CorpusRequirements:
    """What one example of a format needs."""

    documents: int
    """Number of documents."""
    sentences: int
    """Minimum number of sentences per document."""


def corpus_requirements(kind: PretrainingFormat, max_options: int) -> CorpusRequirements:
    """Returns the requirements of a format. All options but two come from different documents."""
    if kind == "single":
        return CorpusRequirements(documents=1, sentences=1)
    return CorpusRequirements(documents=2 if kind == "pair" else max(max_options - 1, 1), sentences=3)


def option_fields(num_options: int) -> tuple[str, ...]:
    """Returns the fields of the options."""
    return tuple(f"option_{letter.lower()}" for letter in LETTERS[:num_options])


def choice_task(name: str, max_options: int) -> Task:
    """Returns the task of `choice` and `unified`: a field `query`, and one field per option, with its letter.

    The letters are in the fields, with single spaces between them, so an empty option adds nothing to the text. If the
    text is too long, the longest field is truncated first, so every option stays.
    """
    options = " ".join(f"{{{field}}}" for field in option_fields(max_options))
    start = f"{{query|rstrip_punct}}? {options} The correct one is"
    patterns = {"masked": f"{start} {{mask}}.", "causal": f"{start}{{mask}}", "seq2seq": f"{start} {{mask}}."}
    letters = LETTERS[:max_options]
    words = {letter: [letter] for letter in letters}
    return Task.model_validate(
        {"name": name, "labels": letters, "patterns": patterns, "verbalizer": words, "truncation": "longest"}
    )


def as_choice(task: Task, pattern: str) -> Task:
    """Returns a task as a choice with the same labels, as the tasks of Unified PPT: its fields are the query, and its
    label words or its own options are the options.

    Args:
        task: The task.
        pattern: The pattern whose fields and label words are used, and which keeps its name. If it ends in the mask, so
            does the rewritten one: then it is for causal models.

    Raises:
        InputError: the task has more labels than there are letters, or no label words.
    """
    if len(task.labels) > len(LETTERS):
        raise InputError(
            f"the task {task.name} has {len(task.labels)} labels, more than the {len(LETTERS)} letters of a choice.",
            "Remove as_choice.",
        )
    words = task.words(pattern)
    if not (task.verbalizer or task.options):
        raise InputError(f"the task {task.name} has no label words to choose from.", "Set verbalizer.")
    parsed = task.pattern(pattern)
    query, *more = (name for name in parsed.fields if name != OPTION)
    texts = [f"{{{task.options[label]}}}" if task.options else _escaped(words[label][0]) for label in task.labels]
    options = " ".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    start = " ".join([f"{{{query}|rstrip_punct}}?", *(f"{{{name}}}" for name in more), options, "The correct one is"])
    letters = dict(zip(task.labels, LETTERS, strict=False))
    return Task.model_validate(
        {
            "name": task.name,
            "labels": task.labels,
            "patterns": {pattern: f"{start}{{mask}}" if parsed.ends_in_mask else f"{start} {{mask}}."},
            "verbalizer": {label: [letter] for label, letter in letters.items()},
            "truncation": "longest",
        }
    )


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def single_task(words: Mapping[str, list[str]]) -> Task:
    """Returns the task of `single`, with a field `text`. Only the prompt says what to predict."""
    patterns = {"masked": "{text} {mask}.", "causal": "{text}{mask}", "seq2seq": "{text} {mask}."}
    return Task.model_validate(
        {"name": "single", "labels": tuple(words), "patterns": patterns, "verbalizer": dict(words)}
    )


def task_of(kind: PretrainingFormat, max_options: int, words: Mapping[str, list[str]]) -> Task:
    """Returns the cloze task of a format; `max_options` is for choice and unified, `words` for single."""
    if kind == "pair":
        return PAIR_TASK
    return single_task(words) if kind == "single" else choice_task(kind, max_options)


def check_options_fit(max_options: int, max_length: int) -> None:
    """Checks that a sentence and all options keep enough text if they are truncated to `max_length` tokens.

    Raises:
        InputError: they do not fit; names the number of options that fit.
    """
    min_length = _OPTION_TOKENS * (max_options + 1) + _PATTERN_TOKENS
    if min_length <= max_length:
        return
    num_fitting = (max_length - _PATTERN_TOKENS) // _OPTION_TOKENS - 1
    fewer = f"use at most {num_fitting} options" if num_fitting >= 2 else "remove the format from ppt.formats"
    raise InputError(
        f"{max_length} tokens are too few for a sentence and {max_options} options.",
        f"Raise backbone.max_length to {min_length} or more, or {fewer}.",
    )
