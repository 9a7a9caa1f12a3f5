"""The plan as a table in the terminal: state, fingerprint, reason and memory of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from cluster.steps.plan import PlannedStep, PlanState
from pipelines.preflight.memory import MemoryRow

STYLES = {PlanState.CACHED: "green", PlanState.RUN: "yellow", PlanState.BLOCKED: "red"}


def plan_table(planned: Iterable[PlannedStep], memory: Mapping[str, MemoryRow] | None = None) -> Table:
    """Returns one row per step: its state, the start of its fingerprint, the reason, and the memory per worker.

    The reason is why the step runs or is blocked. For a cached step it names who accepted the result, and the libraries
    that have another version now.
    """
    table = Table(box=None, pad_edge=False)
    memory = memory or {}
    for column in ("state", "step", "fingerprint", "reason", *(["memory/worker"] if memory else [])):
        table.add_column(column, overflow="fold", no_wrap=column == "step")
    for line in planned:
        state = Text(line.state.value, style=STYLES[line.state])
        needed = memory.get(line.name)
        size = [Text(needed.text(), style="" if needed.fits else "red") if needed else ""] if memory else []
        reason = Text("\n".join((*line.reasons, *line.notes)))
        table.add_row(state, line.name, line.fingerprint[:12], reason, *size)
    return table
