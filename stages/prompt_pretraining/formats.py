"""The pretraining formats, each as a cloze task with a pattern for every family of backbones.

They are those of PPT (Gu et al., ACL 2022, https://arxiv.org/abs/2109.04332):

| format | question | labels |
|---|---|---|
| pair | how are two sentences related? | yes (adjacent, in either order), maybe (one document), no (two documents) |
| choice | which of the options is adjacent to a sentence? | the letter of an option |
| single | what does a sentence say? | pseudo-labels, see stages/prompt_pretraining/pseudo_labels.py |
| unified | as choice, with a varying number of options, since every task can be written so | the letter |
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from stages.common.errors import InputError
from stages.common.patterns.config import Task

PretrainingFormat = Literal["pair", "choice", "single", "unified"]
RELATIONS = ("yes", "maybe", "no")
LETTERS = tuple(string.ascii_uppercase)
"""What options are called; each is one token in the vocabularies of BERT, RoBERTa, GPT-2, Llama and T5."""
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
"""The least room of an option: its letter, a full stop, and four tokens of text."""
_PATTERN_TOKENS = 10
"""Room for the words of the pattern of `choice_task`, and for special tokens."""


@dataclass(frozen=True, slots=True)
class CorpusRequirements:
    """What a corpus must have: documents at a time, and sentences in each of them."""

    documents: int
    sentences: int


def corpus_requirements(kind: PretrainingFormat, most_options: int) -> CorpusRequirements:
    """What `kind` needs of a corpus: each option but two comes from a document of its own."""
    if kind == "single":
        return CorpusRequirements(documents=1, sentences=1)
    return CorpusRequirements(documents=2 if kind == "pair" else max(most_options - 1, 1), sentences=3)


def option_fields(most: int) -> tuple[str, ...]:
    """The fields of `most` options."""
    return tuple(f"option_{letter.lower()}" for letter in LETTERS[:most])


def choice_task(name: str, most: int) -> Task:
    """The task of `choice` and `unified`: a field `query`, and one for each option, with its letter.

    The letters stand in the fields and single spaces between them, so that an empty option leaves nothing behind. When
    the text is too long, the longest field is shortened first: no option is lost to the others.
    """
    options = " ".join(f"{{{field}}}" for field in option_fields(most))
    start = f"{{query|rstrip_punct}}? {options} The correct one is"
    patterns = {"masked": f"{start} {{mask}}.", "causal": f"{start}{{mask}}", "seq2seq": f"{start} {{mask}}."}
    letters = LETTERS[:most]
    words = {letter: [letter] for letter in letters}
    return Task.model_validate(
        {"name": name, "labels": letters, "patterns": patterns, "verbalizer": words, "truncation": "longest"}
    )


def single_task(words: Mapping[str, list[str]]) -> Task:
    """The task of `single`, with a field `text`. Nothing but the prompt tells what is asked."""
    patterns = {"masked": "{text} {mask}.", "causal": "{text}{mask}", "seq2seq": "{text} {mask}."}
    return Task.model_validate(
        {"name": "single", "labels": tuple(words), "patterns": patterns, "verbalizer": dict(words)}
    )


def task_of(kind: PretrainingFormat, most_options: int, words: Mapping[str, list[str]]) -> Task:
    """The cloze task of a format; `most_options` is read for choice and unified, `words` for single."""
    if kind == "pair":
        return PAIR_TASK
    return single_task(words) if kind == "single" else choice_task(kind, most_options)


def check_options_fit(most_options: int, max_length: int) -> None:
    """Refuses options of which hardly anything would be left when the text is shortened to `max_length` tokens.

    Raises:
        InputError: says how many options there is room for.
    """
    needed = _OPTION_TOKENS * (most_options + 1) + _PATTERN_TOKENS
    if needed <= max_length:
        return
    room = (max_length - _PATTERN_TOKENS) // _OPTION_TOKENS - 1
    fewer = f"take {room} options at the most" if room >= 2 else "take the format out of ppt.formats"
    raise InputError(
        f"{max_length} tokens are too few for a sentence and {most_options} options.",
        f"Raise backbone.max_length to {needed} or more, or {fewer}.",
    )
