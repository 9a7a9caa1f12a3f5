"""The step graph: groups steps that differ only in the seed, lays the groups out in columns by depth, and prints them
as Mermaid text.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.steps.step import Step

WIDTH, HEIGHT, PITCH = 2.0, 0.72, 2.4


def layout(
    steps: Sequence[Step],
) -> tuple[dict[str, list[str]], dict[str, tuple[float, float]], list[tuple[str, str]]]:
    """Where each group of steps stands: in the column of its depth, which is as high as what it needs, on average.

    So a short column stands beside its own upstream, and arrows that pass it by do not run behind its boxes.

    Returns:
        Group -> names of its steps; group -> (x, y) of its middle, y upwards; the edges that no longer way implies.
    """
    groups, edges = grouped(steps)
    depth = _depths(list(groups), edges)
    columns: dict[int, list[str]] = {}
    for group in groups:
        columns.setdefault(depth[group], []).append(group)
    direct = _direct(edges)
    tallest = max(map(len, columns.values()))
    places: dict[str, tuple[float, float]] = {}
    for column, names in sorted(columns.items()):
        needed = [places[start][1] for start, end in direct if end in names]
        room = (tallest - len(names)) / 2
        middle = max(-room, min(room, sum(needed) / max(1, len(needed))))
        for row, group in enumerate(names):
            places[group] = (column * PITCH, middle + (len(names) - 1) / 2 - row)
    return groups, places, direct


def _direct(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges that no longer way implies."""
    following: dict[str, set[str]] = {}
    for start, end in edges:
        following.setdefault(start, set()).add(end)

    def reached(start: str) -> set[str]:
        return {far for end in following.get(start, ()) for far in {end} | reached(end)}

    return [(start, end) for start, end in edges if not any(end in reached(item) for item in following[start] - {end})]


def _depths(groups: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Length of the longest way to each group."""
    depth = dict.fromkeys(groups, 0)
    for _ in groups:
        for start, end in edges:
            depth[end] = max(depth[end], depth[start] + 1)
    return depth


def grouped(steps: Sequence[Step]) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Steps that differ by their seed alone as one group.

    Returns:
        Group -> names of its steps, and the edges between groups.
    """
    groups: dict[str, list[str]] = {}
    for step in steps:
        groups.setdefault(_group(step.name), []).append(step.name)
    edges = ((_group(upstream.name), _group(step.name)) for step in steps for upstream in step.upstream())
    return groups, [edge for edge in dict.fromkeys(edges) if edge[0] != edge[1]]


def mermaid(steps: Sequence[Step]) -> str:
    """The graph as mermaid text, one box a group."""
    groups, edges = grouped(steps)
    lines = ["graph LR"]
    for group, names in groups.items():
        label = group.removesuffix("/*") + ("" if len(names) == 1 else f" x {len(names)}")
        lines.append(f'  {_identifier(group)}["{label}"]')
    lines += [f"  {_identifier(start)} --> {_identifier(end)}" for start, end in edges]
    return "\n".join(lines) + "\n"


def _group(name: str) -> str:
    """`pet/review/0` -> `pet/review/*`; a name that does not end in a seed stands alone; a whole curve is one box."""
    if name.startswith("learning_curve/"):
        return "learning_curve/*"
    head, slash, last = name.rpartition("/")
    return f"{head}/*" if slash and last.isdigit() else name


def _identifier(group: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in group)
