"""How a new recipe is written: as YAML with comments, in the style of the demo recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

COMMENT_COLUMN = 32
BLOCKS = ("task.patterns", "task.verbalizer")
"""Mappings with a line per key. Mappings with an asset in them are others."""
COMMENTS = {
    "task.problem_type": "multi_label: a text has any number of labels; ordinal: labels are ordered from low to high",
    "task.patterns": "cloze templates; {mask} is replaced by a label word",
    "task.verbalizer": "label -> label words; the scores of several words are averaged",
    "data.unlabeled_size": "maximum; a larger number is sampled",
    "data.shots": "labeled examples per class",
    "class_weights": "balanced: all labels count the same in training",
    "label_bias": "rare labels are predicted more often than accuracy alone would have it",
    "backbone": "language model",
    "backbone.max_length": "tokens of an example with its pattern",
    "zero_shot": "untrained sub-models measure the same",
    "students": "encoders of the classifier, in several sizes",
    "members": "more members of the ensemble: word counts, and encoders, frozen and tuned",
    "ensemble": "all members label the unlabeled data",
    "ensemble.label_frequencies": "estimated; or labeled: as frequent as in the labeled data",
    "distill": "trains the students on these soft labels",
    "baseline": "for comparison: the students on labeled data only",
}
"""Dotted key -> comment."""


def recipe_text(sections: Mapping[str, Any], header: Sequence[str], comments: Mapping[str, str]) -> str:
    """Returns a recipe as YAML.

    Args:
        sections: Name -> section.
        header: Lines of the comment at the top.
        comments: Dotted key -> comment, in addition to those that every recipe has.
    """
    lines = [f"# {line}" for line in header]
    texts = {**COMMENTS, **_pet_comments(sections), **comments}
    is_after_block = False
    for name, section in sections.items():
        is_block = isinstance(section, Mapping)
        lines += [""] * (is_block or is_after_block)
        lines += _lines(name, section, name, "", texts)
        is_after_block = is_block
    lines += [
        "",
        "# For soft prompts add the sections ppt and prompts: see docs/how-to/prompts.md and the recipe demo.",
        "",
    ]
    return "\n".join(lines)


def _pet_comments(sections: Mapping[str, Any]) -> dict[str, str]:
    """Returns dotted key -> comment for sub-models."""
    if sections.get("pet", {}).get("tune") == "none":
        return {"pet": "a sub-model per pattern", "pet.tune": "zero-shot: the labeled examples only calibrate it"}
    return {"pet": "trains a sub-model per pattern and seed", "pet.tune": "adapters: megabytes per sub-model"}


def _lines(name: str, value: Any, key: str, indent: str, comments: Mapping[str, str]) -> Iterator[str]:
    """Yields the lines of a key: one, or a block."""
    head, comment = f"{indent}{_flow(name)}:", comments.get(key)
    if value and isinstance(value, Mapping) and ("." not in key or key in BLOCKS or _has_asset(value)):
        yield _with(head, comment)
        for inner, item in value.items():
            yield from _lines(inner, item, f"{key}.{inner}", f"{indent}  ", comments)
    elif isinstance(value, Sequence) and value and all(isinstance(item, Mapping) for item in value):
        yield _with(head, comment)
        for number, item in enumerate(value):
            place = f"{key}.{number}"
            block = [
                line
                for inner, part in item.items()
                for line in _lines(inner, part, f"{place}.{inner}", f"{indent}    ", comments)
            ]
            yield f"{indent}  - {block[0].lstrip()}"
            yield from block[1:]
    elif key.startswith("task.patterns."):
        yield _with(f"{head} {_quoted(value)}", comment)
    else:
        yield _with(f"{head} {_flow(value) if isinstance(value, Mapping | list) else _block(value)}", comment)


def _has_asset(value: Mapping[str, Any]) -> bool:
    return "asset" in value or any(isinstance(item, Mapping) and _has_asset(item) for item in value.values())


def _with(line: str, comment: str | None) -> str:
    return f"{line:<{COMMENT_COLUMN}} # {comment}" if comment else line


def _flow(value: Any) -> str:
    """Returns a value on one line, quoted if YAML needs it."""
    dumped = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return dumped.strip()[1:-1]


def _block(value: Any) -> str:
    """Returns a value for its own line, where a colon needs no quotes."""
    dumped = yaml.safe_dump({"key": value}, allow_unicode=True, width=float("inf"))
    return dumped.strip().removeprefix("key: ")


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).strip()
