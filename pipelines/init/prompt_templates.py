"""Converts templates of promptsource (Bach et al., ACL 2022, https://arxiv.org/abs/2202.01279) into patterns.

A template is a text of Jinja: its input and its target, with `|||` between them. What has the form of a pattern is
converted: fields (`{{text}}`), the answer of the label at the start of the target (`{{answer_choices[label]}}`), the
choices in the input (`{{answer_choices | join(", ")}}`, `{{answer_choices[0]}}`), and text. Templates with other
expressions or statements are not: they are returned with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, TemplateSyntaxError, nodes

from stages.common.errors import InputError, PatternError
from stages.common.patterns.syntax import Pattern

CHOICES = "answer_choices"
SEPARATOR = "|||"
MAX_BYTES = 4 << 20
"""Larger files are no templates."""


@dataclass(frozen=True, slots=True)
class ImportedTemplates:
    """Templates as parts of a task."""

    patterns: Mapping[str, str]
    """Name -> text of a pattern."""
    verbalizer: Mapping[str, Mapping[str, Sequence[str]]]
    """Label -> name of a pattern -> label words."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Name of a template -> why it is not a pattern."""


class _TemplateLoader(yaml.SafeLoader):
    """Reads the tags of promptsource as plain mappings. SafeLoader builds no other objects."""


def _as_mapping(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    del suffix
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "a tag of a value", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_TemplateLoader.add_multi_constructor("!", _as_mapping)


class _NotAPatternError(Exception):
    """A template cannot be written as a pattern; the text says why."""


def import_templates(
    path: Path, labels: Sequence[str], fields: Mapping[str, str] | None = None, names: Sequence[str] = ()
) -> ImportedTemplates:
    """Reads a file of promptsource.

    Args:
        path: `templates.yaml` of a data set.
        labels: Labels of the task, in the order of the answer choices.
        fields: Column of the data set -> field of the patterns. Columns that are not listed keep their names.
        names: Templates to convert. Default: all.

    Raises:
        InputError: the file has no templates, a name is not in it, or none of the templates is a pattern.
    """
    templates = _read(path)
    known = {str(item.get("name")): item for item in templates}
    if missing := [name for name in names if name not in known]:
        raise InputError(
            f"{path} has no template {missing[0]!r}.", f"Use one of: {', '.join(known)}.", key="--template"
        )
    patterns: dict[str, str] = {}
    words: dict[str, dict[str, list[str]]] = {label: {} for label in labels}
    rejected: dict[str, str] = {}
    for name in names or known:
        key = _unused_name(name, patterns)
        try:
            choices = _choices(known[name], labels)
            patterns[key] = _pattern(key, str(known[name].get("jinja") or ""), choices, fields or {})
        except (_NotAPatternError, PatternError) as error:
            rejected[name] = error.problem if isinstance(error, PatternError) else str(error)
            continue
        for label, word in zip(labels, choices, strict=True):
            words[label][key] = [word]
    if not patterns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
        raise InputError(f"none of the templates in {path} is a pattern ({reasons}).", "Write patterns by hand.")
    return ImportedTemplates(patterns, words, rejected)


def templates_text(imported: ImportedTemplates) -> str:
    """Returns patterns and label words as YAML of a recipe, to be copied below `task`."""
    task = {
        "patterns": dict(imported.patterns),
        "verbalizer": {
            label: {name: list(words) for name, words in by_pattern.items()}
            for label, by_pattern in imported.verbalizer.items()
        },
    }
    text: str = yaml.safe_dump({"task": task}, allow_unicode=True, sort_keys=False, width=10_000)
    return text


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB.", "Specify a file of promptsource.")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TemplateLoader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "Specify a file of promptsource.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML ({' '.join(str(error).split())[:200]}).", "Correct the file.") from error
    templates = content.get("templates") if isinstance(content, dict) else None
    items = list(templates.values()) if isinstance(templates, dict) else []
    if not items or not all(isinstance(item, dict) and item.get("name") and item.get("jinja") for item in items):
        raise InputError(
            f"{path} has no templates with name and jinja.", "Specify templates.yaml of a data set of promptsource."
        )
    return items


def _choices(template: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    text = template.get("answer_choices")
    if not text:
        raise _NotAPatternError("it has no answer_choices, so its target is not a label word")
    choices = [item.strip() for item in str(text).split(SEPARATOR)]
    if any("{{" in item or "{%" in item for item in choices):
        raise _NotAPatternError("its answer_choices depend on the example")
    if len(choices) != len(labels):
        raise _NotAPatternError(f"it has {len(choices)} answer_choices, but there are {len(labels)} labels")
    return choices


def _pattern(name: str, jinja: str, choices: Sequence[str], fields: Mapping[str, str]) -> str:
    before, found, target = jinja.partition(SEPARATOR)
    if not found:
        raise _NotAPatternError(f"it has no {SEPARATOR} between input and target")
    prompt = _text(before, choices, fields).strip()
    answer = _target(target, choices, fields)
    pattern = f"{prompt}\n{answer}" if answer != "{mask}" else f"{prompt} {{mask}}"
    Pattern.parse(name, pattern)
    return pattern


def _target(target: str, choices: Sequence[str], fields: Mapping[str, str]) -> str:
    parts = _parts(target)
    masks = [number for number, part in enumerate(parts) if _is_gold(part)]
    if len(masks) != 1:
        raise _NotAPatternError(f"its target does not contain {{{{{CHOICES}[label]}}}} once")
    texts = ["{mask}" if number in masks else _part_text(part, choices, fields) for number, part in enumerate(parts)]
    return "".join(texts).strip()


def _text(jinja: str, choices: Sequence[str], fields: Mapping[str, str]) -> str:
    return "".join(_part_text(part, choices, fields) for part in _parts(jinja))


def _parts(jinja: str) -> list[nodes.Node]:
    try:
        body = Environment(autoescape=True).parse(jinja).body
    except TemplateSyntaxError as error:
        raise _NotAPatternError(f"it is not valid Jinja ({error.message})") from error
    parts: list[nodes.Node] = []
    for node in body:
        if not isinstance(node, nodes.Output):
            raise _NotAPatternError(f"it has a statement ({type(node).__name__.lower()})")
        parts += node.nodes
    return parts


def _is_gold(part: nodes.Node) -> bool:
    """Returns True for `answer_choices[label]`, whatever the column of the label is."""
    return (
        isinstance(part, nodes.Getitem)
        and isinstance(part.node, nodes.Name)
        and part.node.name == CHOICES
        and isinstance(part.arg, nodes.Name)
    )


def _part_text(part: nodes.Node, choices: Sequence[str], fields: Mapping[str, str]) -> str:
    if isinstance(part, nodes.TemplateData):
        return part.data.replace("{", "{{").replace("}", "}}")
    if isinstance(part, nodes.Name) and part.name != CHOICES:
        return f"{{{fields.get(part.name, part.name)}}}"
    literal = _literal(part, choices)
    if literal is None:
        raise _NotAPatternError("it has an expression that is neither a field nor answer_choices")
    return literal.replace("{", "{{").replace("}", "}}")


def _literal(part: nodes.Node, choices: Sequence[str]) -> str | None:
    """Returns the text of an expression about the choices that does not depend on the example; else None."""
    if isinstance(part, nodes.Const):
        return str(part.value)
    is_choices = isinstance(part, nodes.Getitem) and isinstance(part.node, nodes.Name) and part.node.name == CHOICES
    if is_choices and isinstance(part, nodes.Getitem) and isinstance(part.arg, nodes.Const):
        number = part.arg.value
        return choices[number] if isinstance(number, int) and -len(choices) <= number < len(choices) else None
    is_join = isinstance(part, nodes.Filter) and part.name == "join" and len(part.args) == 1
    if is_join and isinstance(part, nodes.Filter) and isinstance(part.args[0], nodes.Const):
        of_choices = isinstance(part.node, nodes.Name) and part.node.name == CHOICES
        return str(part.args[0].value).join(choices) if of_choices else None
    return None


def _unused_name(name: str, used: Mapping[str, str]) -> str:
    """Returns the name as that of a pattern: lower case, digits, `_`, `.` and `-`; with a number if it is used."""
    base = re.sub(r"[^a-z0-9_.-]+", "_", name.lower()).strip("_.-") or "template"
    number = 2
    key = base
    while key in used:
        key, number = f"{base}_{number}", number + 1
    return key
