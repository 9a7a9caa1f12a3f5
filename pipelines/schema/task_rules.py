"""Rules about a task and its data, which `score` checks too. Each raises `InputError` with the dotted key."""

from __future__ import annotations

import difflib

from pipelines.schema.config import PipelineConfig, ScoreRecipe
from stages.common.errors import DataError, VerbalizerError
from stages.common.patterns.config import Task
from stages.splits.config import DataConfig


def check_tasks(config: PipelineConfig) -> None:
    """Every task has label words that can be read, and its data has the fields of its patterns."""
    for task, data, section in config.datasets.values():
        prefix = f"{section}." if section else ""
        check_label_words(task, f"{prefix}task")
        check_fields(task, data, f"{prefix}data")


def check_score_task(recipe: ScoreRecipe) -> None:
    """The same for the part of a recipe that `score` reads, which may have no data."""
    check_label_words(recipe.task, "task")
    if recipe.data is not None:
        check_fields(recipe.task, recipe.data, "data")


def check_label_words(task: Task, key: str) -> None:
    """No label word is blank: a model would score some token that has nothing to do with the label."""
    for label, words in task.verbalizer.items():
        by_key = (
            {f"{label}.{name}": items for name, items in words.items()} if isinstance(words, dict) else {label: words}
        )
        for name, items in by_key.items():
            if any(not word.strip() for word in items):
                raise VerbalizerError(
                    f"a label word of {label!r} is empty.",
                    "Write a word, or remove it.",
                    key=f"{key}.verbalizer.{name}",
                )


def check_fields(task: Task, data: DataConfig, key: str) -> None:
    """Every file has a column for each field of the patterns."""
    for name, source in data.sources.items():
        for field in task.fields:
            if field not in source.fields:
                close = difflib.get_close_matches(field, source.fields, n=1)
                meant = f"Did you mean {{{close[0]}}}? Otherwise add" if close else "Add"
                raise DataError(
                    f"the patterns use the field {field!r}, which {key}.{name}.fields does not have.",
                    f"{meant} it ({field}: COLUMN), or use only these in the patterns: {', '.join(source.fields)}.",
                    key=f"{key}.{name}.fields",
                )
