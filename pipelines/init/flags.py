"""Flags of `clozeline init`: parses their values, and names the flag that fixes an error."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from stages.common.errors import InputError, PatternError, VerbalizerError
from stages.common.patterns.config import Family
from stages.common.patterns.encoding import check_pattern
from stages.common.patterns.syntax import OPTION, Pattern

TEXT, PAIR = "text", ("text_a", "text_b")
"""Fields of the text or of a pair. Patterns can use other columns under their own names."""
NAME = r"[a-z0-9][a-z0-9_.-]*"
FLAGS = {
    "task.verbalizer": "--label-words LABEL=WORD,WORD",
    "task.patterns": "--pattern NAME=TEXT",
    "backbone": "--backbone REF",
    "students": "--student REF",
    "data.shots": "--shots N",
    "data.train.id": "--id COLUMN",
    "data.test_size": "--test-size N",
    "data.unlabeled": "--unlabeled FILE",
    "data.train.label_separator": "--label-separator TEXT",
}
"""Start of a recipe key -> the flag that sets it."""


@contextmanager
def with_flag_hint(label: str | None = None) -> Iterator[None]:
    """Adds the flag that sets a recipe key to errors about the key, because there is no recipe yet.

    Args:
        label: The label whose words are checked, if any.
    """
    try:
        yield
    except InputError as error:
        flag = next((flag for key, flag in FLAGS.items() if error.key.startswith(key)), "")
        if label is not None:
            flag = label_words_flag(label)
        elif error.key.startswith("task.verbalizer."):
            flag = label_words_flag(error.key.removeprefix("task.verbalizer."))
        if not flag:
            raise
        raise type(error)(error.problem, f"{error.remedy.rstrip('.')} ({flag}).") from error


def label_words_flag(label: str) -> str:
    """Returns the flag for the words of a label, quoted for a shell."""
    return f"--label-words {shlex.quote(f'{label}=WORD,WORD')}"


def slug(text: str) -> str:
    """Makes a valid name from any text."""
    return re.sub(r"[^a-z0-9_.-]+", "_", text.casefold()).strip("_.-") or "texts"


def parse_name(name: str) -> str:
    """Returns the name of a task.

    Raises:
        InputError: it has characters that step names cannot have.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(
            f"{name!r} is not a valid name.", f"Use lower-case letters, digits, _ . and -: --name {slug(name)}."
        )
    return name


def parse_pattern(item: str, fields: Sequence[str], family: Family) -> tuple[str, str]:
    r"""Returns name and text of `NAME=TEXT`, where \n is a line break.

    Args:
        item: The value of the flag.
        fields: Fields that a pattern can use: those of the text, and the columns of the data.
        family: Family of the backbone.

    Raises:
        PatternError: the pattern is not valid, or uses a column that the data do not have.
    """
    name, equals, text = item.partition("=")
    if not equals or not re.fullmatch(NAME, name):
        raise PatternError(
            f"{item!r} is not a pattern with a name.", "Write --pattern 'NAME=TEXT', with NAME in lower case."
        )
    text = text.replace("\\n", "\n")
    try:
        pattern = Pattern.parse(name, text)
        check_pattern(pattern, family)
    except PatternError as error:
        raise PatternError(error.problem, f"{error.remedy.rstrip('.')} (--pattern {name}=TEXT).") from error
    for field in pattern.fields:
        if field == OPTION or field not in fields:
            known = ", ".join(f"{{{item}}}" for item in dict.fromkeys(fields) if item != OPTION)
            raise PatternError(
                f"pattern {name!r} uses {{{field}}}, which the data do not have.", f"Use some of {known}."
            )
    return name, text


def words_by_label(items: Sequence[str], labels: Sequence[str]) -> Mapping[str, str]:
    """Returns label -> words, from items `LABEL=word,word`.

    Raises:
        VerbalizerError: a label is unknown, or given twice.
    """
    return _by_label(items, labels, "--label-words", "WORD,WORD")


def descriptions_by_label(items: Sequence[str], labels: Sequence[str]) -> Mapping[str, str]:
    """Returns label -> description, from items `LABEL=text`.

    Raises:
        VerbalizerError: a label is unknown, or given twice.
    """
    return _by_label(items, labels, "--describe", "TEXT")


def in_order(labels: Sequence[str], ordered: str) -> tuple[str, ...]:
    """Returns labels in the order of the flag `--ordered-labels`.

    Raises:
        InputError: the flag has other labels than the data.
    """
    names = tuple(name.strip() for name in ordered.split(","))
    wrong = [*(f"{name!r} is no label" for name in names if name not in labels)]
    wrong += [f"{name!r} is missing" for name in labels if name not in names]
    wrong += [f"{name!r} occurs twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if wrong:
        raise InputError(
            f"--ordered-labels {ordered} does not have the labels of the data: {wrong[0]}.",
            f"List all of them from low to high: {', '.join(sorted(labels))}.",
        )
    return names


def _by_label(items: Sequence[str], labels: Sequence[str], flag: str, form: str) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for item in items:
        # a label may contain an equals sign
        label = max((label for label in labels if item.startswith(f"{label}=")), key=len, default=None)
        if label is None:
            raise VerbalizerError(
                f"{flag} {item} has none of the labels {', '.join(labels)}.", f"Write {flag} LABEL={form}."
            )
        if label in values:
            one = shlex.quote(f"{label}={form}")
            raise VerbalizerError(f"{flag} sets {label!r} twice.", f"Write all of it in one: {flag} {one}.")
        values[label] = item.removeprefix(f"{label}=")
    return values


def parse_words(item: str, label: str) -> list[str]:
    """Returns the comma-separated words of a label.

    Raises:
        VerbalizerError: there are no words.
    """
    words = [" ".join(word.split()) for word in item.split(",") if word.strip()]
    if not words:
        raise VerbalizerError(f"the label {label!r} has no words.", f"Add some: {label_words_flag(label)}.")
    return words


def parse_count(item: str) -> int:
    """Returns a number of examples.

    Raises:
        InputError: it is not a positive integer.
    """
    if not item.isdecimal() or int(item) < 1:
        raise InputError(f"{item!r} is not a number of examples.", "Enter an integer, 1 or more.")
    return int(item)
