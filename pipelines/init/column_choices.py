"""Which columns of a labeled file have the text and the label: by a flag, by the user's answer, or by their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipelines.init.flags import PAIR, TEXT
from pipelines.init.interaction import Interaction
from pipelines.init.labeled_file import LabeledFile


def choose_text_columns(
    terminal: Interaction, file: LabeledFile, flag: str | None, others: Collection[str]
) -> tuple[str, ...]:
    """Returns the column of the text, or the two columns of a pair.

    Args:
        terminal: Shows the question.
        file: The file.
        flag: The value of --text, if set.
        others: Columns with another use.

    Raises:
        DataError: the column does not exist, or cannot be inferred.
    """
    return terminal.ask_or_default(
        f"Column of the text, or two of a pair as FIRST,SECOND ({', '.join(file.columns)})",
        flag,
        file.guess_text(others),
        file.text_columns,
        file.cannot_infer_error("text", "--text"),
    )


def choose_label_column(
    terminal: Interaction, file: LabeledFile, flag: str | None, text: Sequence[str], others: Collection[str] = ()
) -> str:
    """Returns the column of the label.

    Args:
        terminal: Shows the question.
        file: The file.
        flag: The value of --label, if set.
        text: Columns of the text.
        others: More columns with another use.

    Raises:
        DataError: the column does not exist, has no labels, or cannot be inferred.
    """

    def parse(name: str) -> str:
        file.labels(file.column(name, "--label", text))
        return name

    return terminal.ask_or_default(
        f"Column of the label ({', '.join(item for item in file.columns if item not in text)})",
        flag,
        file.guess_label({*others, *text}),
        parse,
        file.cannot_infer_error("label", "--label"),
    )


def fields_of(columns: Sequence[str]) -> dict[str, str]:
    """Returns field -> column of a text or a pair."""
    return dict(zip(PAIR if len(columns) > 1 else (TEXT,), columns, strict=True))
