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

TEXT = "text"
"""The field of the texts; patterns may take other columns by their own names."""
NAME = r"[a-z0-9][a-z0-9_.-]*"
FLAGS = {
    "task.verbalizer": "--words LABEL=WORD,WORD",
    "task.patterns": "--pattern NAME=TEXT",
    "backbone": "--backbone REF",
    "student": "--student REF",
    "data.shots": "--shots N",
    "data.test_size": "--test-size N",
}
"""Start of a dotted place in a recipe -> what decides it here."""


@contextmanager
def with_flag_hint(label: str | None = None) -> Iterator[None]:
    """Complaints about places in a recipe name the flag instead: there is no recipe yet.

    Args:
        label: The label whose words are looked at, if that is what goes on.
    """
    try:
        yield
    except InputError as error:
        flag = next((flag for place, flag in FLAGS.items() if error.key.startswith(place)), "")
        if label is not None:
            flag = words_flag(label)
        elif error.key.startswith("task.verbalizer."):
            flag = words_flag(error.key.removeprefix("task.verbalizer."))
        if not flag:
            raise
        raise type(error)(error.problem, f"{error.remedy.rstrip('.')} ({flag}).") from error


def words_flag(label: str) -> str:
    """The flag with words for one label, as a shell takes it."""
    return f"--words {shlex.quote(f'{label}=WORD,WORD')}"


def slug(text: str) -> str:
    """A name out of any text."""
    return re.sub(r"[^a-z0-9_.-]+", "_", text.casefold()).strip("_.-") or "texts"


def checked_name(name: str) -> str:
    """A name that can be one of a task and its steps.

    Raises:
        InputError: it has other characters.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(f"{name!r} is no name.", f"Take lower case letters, digits, _ . and -: --name {slug(name)}.")
    return name


def pattern_of(item: str, columns: Sequence[str], family: Family) -> tuple[str, str]:
    r"""Name and text of `NAME=TEXT`, where \n is a line break.

    Args:
        item: What was written.
        columns: Columns of the data, which a pattern may take beside {text}.
        family: Family of the backbone.

    Raises:
        PatternError: it is no pattern, or takes what the data do not have.
    """
    name, equals, text = item.partition("=")
    if not equals or not re.fullmatch(NAME, name):
        raise PatternError(
            f"{item!r} is no pattern with a name.",
            "Write --pattern 'NAME=TEXT', the name in lower case.",
        )
    text = text.replace("\\n", "\n")
    with _of_pattern(name):
        parsed = Pattern.parse(name, text)
        check_pattern(parsed, family)
    for field in parsed.fields:
        if field == OPTION or (field != TEXT and field not in columns):
            known = ", ".join(f"{{{item}}}" for item in dict.fromkeys([TEXT, *columns]) if item != OPTION)
            raise PatternError(
                f"pattern {name!r} takes {{{field}}}, which the data do not have.", f"Take some of {known}."
            )
    return name, text


@contextmanager
def _of_pattern(name: str) -> Iterator[None]:
    try:
        yield
    except PatternError as error:
        raise PatternError(error.problem, f"{error.remedy.rstrip('.')} (--pattern {name}=TEXT).") from error


def words_by_label(given: Sequence[str], labels: Sequence[str]) -> Mapping[str, str]:
    """Label -> words, of `LABEL=word,word` in each item.

    Raises:
        VerbalizerError: a label is none of the data's, or named twice.
    """
    found: dict[str, str] = {}
    for item in given:
        # labels may have an equals sign of their own
        label = max((label for label in labels if item.startswith(f"{label}=")), key=len, default=None)
        if label is None:
            raise VerbalizerError(
                f"--words {item} names none of the labels {', '.join(labels)}.", "Write --words LABEL=WORD,WORD."
            )
        if label in found:
            raise VerbalizerError(f"--words names {label!r} twice.", f"Write all words at once: {words_flag(label)}.")
        found[label] = item.removeprefix(f"{label}=")
    return found


def words_of(item: str, label: str) -> list[str]:
    """Words with commas between them.

    Raises:
        VerbalizerError: there is none.
    """
    words = [" ".join(word.split()) for word in item.split(",") if word.strip()]
    if not words:
        raise VerbalizerError(f"no word is given for {label!r}.", f"Write some: {words_flag(label)}.")
    return words


def count_of(item: str) -> int:
    """A number of texts.

    Raises:
        InputError: it is none.
    """
    if not item.isdecimal() or int(item) < 1:
        raise InputError(f"{item!r} is no number of texts.", "Write a whole number, 1 or more.")
    return int(item)
