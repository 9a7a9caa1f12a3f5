"""The plan as a table in the terminal: state, fingerprint, reason and memory of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from cluster.steps.plan import PlannedStep, PlanState
from pipelines.preflight.memory import MemoryRow

STYLES = {PlanState.CACHED: "green", PlanState.RUN: "yellow", PlanState.BLOCKED: "red"}


def plan_table(planned: Sequence[PlannedStep], memory: Mapping[str, MemoryRow] | None = None) -> Table:
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
