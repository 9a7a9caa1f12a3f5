"""Parses the text of a recipe, YAML or JSON, within limits, so that no text takes gigabytes or raises a traceback."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from stages.common.errors import InputError

MAX_VALUES = 100_000
"""Values of a recipe, each alias counted with everything that it refers to."""
MAX_LEVELS = 50
MAX_CHARACTERS = 512 * 2**10
"""Length of a recipe. A YAML parser takes seconds for more."""
MAX_INTEGER = 2**63 - 1


class _Size(NamedTuple):
    values: int
    levels: int


def parse_node(text: str) -> Any:
    """Returns the tree of a YAML or JSON text, with line numbers.

    Raises:
        InputError: it is too long or nested too deeply, or its aliases stand for too many values.
        YAMLError: it is not YAML.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"it has {len(text):,} characters, more than {MAX_CHARACTERS:,}.",
            "Keep texts in data files, and refer to them by their paths.",
        )
    try:
        node = yaml.compose(text.replace("\t", " ") if text.lstrip().startswith("{") else text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise _too_deep() from None
    _measure(node, {}, set())
    return node


def _measure(node: Any, known: dict[int, _Size], open_nodes: set[int]) -> _Size:
    """Returns the size of a node as if each alias were written out. A node that occurs often is measured once."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_nodes:
        raise InputError("an alias refers to a value that contains it.", "Write the value out.")
    if len(open_nodes) >= MAX_LEVELS:
        raise _too_deep()
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    open_nodes.add(id(node))
    sizes = [_measure(child, known, open_nodes) for child in children]
    open_nodes.remove(id(node))
    size = _Size(1 + sum(item.values for item in sizes), 1 + max((item.levels for item in sizes), default=0))
    if size.values > MAX_VALUES:
        raise InputError(
            f"its aliases stand for more than {MAX_VALUES:,} values.", "Write out the values that you need."
        )
    if size.levels > MAX_LEVELS:
        raise _too_deep()
    known[id(node)] = size
    return size


def _too_deep() -> InputError:
    return InputError(f"it is nested more than {MAX_LEVELS} levels deep.", "Remove brackets or indentation.")


def parse_values(text: str) -> Any:
    """Returns the values of a YAML or JSON text. A YAML parser misreads JSON's tabs, \\u escapes and numbers like 1e-5.

    Raises:
        InputError: it exceeds a limit of `parse_node`, or a value does not have the type that it looks like.
        YAMLError: it is not YAML.
    """
    node = parse_node(text)
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # a YAML mapping on one line
    try:
        return None if node is None else yaml.SafeLoader("").construct_document(node)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if "digits" in str(error):
            raise InputError(
                "a number has thousands of digits.", "Write a smaller number, or put it in quotes."
            ) from None
        raise InputError(f"a value cannot be read ({error}).", "Put it in quotes.") from None


def check_values(value: Any, key: tuple[str, ...] = ()) -> None:
    """Checks that numbers are finite and texts can be written.

    Raises:
        InputError: with the dotted key.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_values(str(name), key)
            check_values(item, (*key, str(name)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            check_values(item, (*key, str(number)))
    elif isinstance(value, float) and not math.isfinite(value):
        problem = "NaN is not a number." if math.isnan(value) else "the number is infinite."
        raise InputError(problem, "Write a finite number.", key=".".join(key))
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise InputError(f"the number is larger than {MAX_INTEGER}.", "Write a smaller number.", key=".".join(key))
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError("a text has half a surrogate pair.", "Write the whole character.", key=".".join(key))
