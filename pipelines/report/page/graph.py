"""The step graph: groups steps that differ only in the seed, places the groups in columns, and prints Mermaid text."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.steps.step import Step

WIDTH, HEIGHT, PITCH = 2.0, 0.72, 2.4
"""Size of a box and distance of columns, in units of a row."""


def layout(
    steps: Sequence[Step],
) -> tuple[dict[str, list[Step]], dict[str, tuple[float, float]], list[tuple[str, str]]]:
    """Places each group of steps in the column of its depth. The column is centered at the mean height of its upstream.

    A short column is therefore next to its upstream, and arrows that skip it do not cross its boxes.

    Returns:
        Group -> its steps; group -> (x, y) of its center, y upward; the edges that no longer path implies.
    """
    groups, edges = grouped(steps)
    depth = _depths(list(groups), edges)
    columns: dict[int, list[str]] = {}
    for group in groups:
        columns.setdefault(depth[group], []).append(group)
    direct = _direct(edges)
    tallest = max(map(len, columns.values()))
    centers: dict[str, tuple[float, float]] = {}
    for column, names in sorted(columns.items()):
        upstream = [centers[start][1] for start, end in direct if end in names]
        max_shift = (tallest - len(names)) / 2
        middle = max(-max_shift, min(max_shift, sum(upstream) / max(1, len(upstream))))
        for row, group in enumerate(names):
            centers[group] = (column * PITCH, middle + (len(names) - 1) / 2 - row)
    return groups, centers, direct


def _direct(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the edges that no longer path implies."""
    successors: dict[str, set[str]] = {}
    for start, end in edges:
        successors.setdefault(start, set()).add(end)

    def reachable(start: str) -> set[str]:
        return {node for end in successors.get(start, ()) for node in {end} | reachable(end)}

    return [
        (start, end) for start, end in edges if not any(end in reachable(item) for item in successors[start] - {end})
    ]


def _depths(groups: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Returns the length of the longest path to each group."""
    depth = dict.fromkeys(groups, 0)
    for _ in groups:
        for start, end in edges:
            depth[end] = max(depth[end], depth[start] + 1)
    return depth


def grouped(steps: Sequence[Step]) -> tuple[dict[str, list[Step]], list[tuple[str, str]]]:
    """Groups steps that differ only in the seed.

    Returns:
        Group -> its steps, and the edges between groups.
    """
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(_group(step), []).append(step)
    edges = ((_group(upstream), _group(step)) for step in steps for upstream in step.upstream())
    return groups, [edge for edge in dict.fromkeys(edges) if edge[0] != edge[1]]


def mermaid(steps: Sequence[Step]) -> str:
    """Returns the graph as Mermaid text, with a box per group."""
    groups, edges = grouped(steps)
    lines = ["graph LR"]
    for group, members in groups.items():
        label = group.removesuffix("/*") + ("" if len(members) == 1 else f" x {len(members)}")
        lines.append(f'  {_identifier(group)}["{label}"]')
    lines += [f"  {_identifier(start)} --> {_identifier(end)}" for start, end in edges]
    return "\n".join(lines) + "\n"


def _group(step: Step) -> str:
    """`pet/review/0` -> `pet/review/*`; all steps of a learning curve are one group; other steps are groups of one."""
    if step.kind in ("curve_point", "learning_curve"):
        return "learning_curve/*"
    return f"{step.name.removesuffix(step.labels['seed'])}*" if "seed" in step.labels else step.name


def _identifier(group: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in group)
