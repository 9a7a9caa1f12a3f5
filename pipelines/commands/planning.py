"""Plans and graphs for people: a table in the terminal, mermaid text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from cluster.plan import PlannedStep, State
from cluster.step import Step
from pipelines.checks.memory import Line

STYLES = {State.HIT: "green", State.RUN: "yellow", State.BLOCKED: "red"}


def plan_table(planned: Sequence[PlannedStep], memory: Mapping[str, Line] | None = None) -> Table:
    """One line a step: its state, the start of its fingerprint, why it runs, and the memory of each of its workers."""
    table = Table(box=None, pad_edge=False)
    memory = memory or {}
    for column in ("state", "step", "fingerprint", "why", *(["memory a worker"] if memory else [])):
        table.add_column(column, overflow="fold", no_wrap=column == "step")
    for line in planned:
        state = Text(line.state.value, style=STYLES[line.state])
        needed = memory.get(line.name)
        told = [Text(needed.text(), style="" if needed.fits else "red") if needed else ""] if memory else []
        table.add_row(state, line.name, line.fingerprint[:12], Text("\n".join(line.reasons)), *told)
    return table


def count(planned: Iterable[PlannedStep], state: State) -> int:
    """How many steps are in a state."""
    return sum(line.state is state for line in planned)


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
