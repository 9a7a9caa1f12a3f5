"""Choice of the pretrained prompt that initializes the prompt of a task."""

from __future__ import annotations

import pytest

from pipelines.schema.sections import prompts
from stages.common.errors import InputError
from stages.common.patterns.config import Task
from stages.prompt_pretraining.formats import PretrainingFormat

PATTERNS = {"one": "{text} is {mask}", "two": "{text}? {mask}, {other}", "twice": "{text} {text} {mask}"}
WORDS = {"a": ["bad"], "b": ["good"]}
PLAIN = Task(name="plain", labels=("a", "b"), patterns=PATTERNS, verbalizer=WORDS)
OPTIONS = Task(
    name="copa",
    labels=("a", "b"),
    options={"a": "first", "b": "second"},
    patterns={"two": "{text}, so {option} {mask}"},
    verbalizer={"right": ["yes"], "wrong": ["no"]},
)


@pytest.mark.parametrize(
    ("task", "pattern", "kind"),
    [(OPTIONS, "two", "choice"), (PLAIN, "two", "pair"), (PLAIN, "one", "single"), (PLAIN, "twice", "single")],
)
def test_select_format_prefers_the_format_that_matches_the_task(
    task: Task, pattern: str, kind: PretrainingFormat
) -> None:
    assert prompts.matching_format(task, pattern) == kind
    formats: tuple[PretrainingFormat, ...] = ("unified", "single", "choice", "pair")
    assert prompts.select_format(task, pattern, formats) == kind
    assert prompts.select_format(task, pattern, formats, "unified") == "unified", "a configured format has priority"
    others = tuple(item for item in formats if item != kind)
    assert prompts.select_format(task, pattern, others) == "unified"
    [other, *_] = (item for item in others if item != "unified")
    assert prompts.select_format(task, pattern, (other,)) == other, "the only one"
    several = tuple(item for item in others if item != "unified")
    with pytest.raises(InputError, match=f"{kind} fits the task {task.name}") as caught:
        prompts.select_format(task, pattern, several)
    assert ", ".join(several) in caught.value.problem
