"""What searches found for a task: label words and patterns, as files of earlier steps."""

from __future__ import annotations

import json
from pathlib import Path

from stages.common.patterns.config import Task
from stages.common.patterns.verbalizers import found_words

PATTERNS_FILE = "patterns.json"


def found_patterns(folder: Path) -> dict[str, str]:
    """Returns name -> text of the patterns that the pattern search wrote to `folder`."""
    patterns: dict[str, str] = json.loads((folder / PATTERNS_FILE).read_text(encoding="utf-8"))
    return patterns


def searched_task(task: Task, *, verbalizer: Path | None, pattern_search: Path | None) -> Task:
    """Returns a task with what searches found for its patterns.

    Args:
        task: Labels and patterns.
        verbalizer: Files of the verbalizer search, if the task has no label words.
        pattern_search: Files of the pattern search, if there was one.
    """
    if verbalizer is not None:
        task = task.with_words(found_words(verbalizer))
    if pattern_search is not None:
        found = found_patterns(pattern_search)
        task = task.with_patterns({name: found[name] for name in task.patterns})
    return task
