"""Which examples belong together, so that no split and no fold separates them?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stages.common.data.text_keys import text_key
from stages.common.examples import Example

Node = tuple[str, str]


def group_numbers(examples: Iterable[Example], fields: Sequence[str]) -> list[int]:
    """Returns a number per example, equal for examples of one group or with one text, also through other examples.

    Args:
        examples: [n] examples.
        fields: Fields whose texts are compared.
    """
    parents: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        parents.setdefault(node, node)
        while parents[node] != node:
            parents[node] = node = parents[parents[node]]
        return node

    texts: list[Node] = []
    for item in examples:
        texts.append(("text", text_key(item.fields[name] for name in fields)))
        first = root(texts[-1])
        if item.group is not None:
            parents[first] = root(("group", item.group))
    numbers: dict[Node, int] = {}
    return [numbers.setdefault(root(text), len(numbers)) for text in texts]
