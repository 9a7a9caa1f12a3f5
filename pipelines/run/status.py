"""The state of a recipe's steps in the store: committed, running or failed; and what `clozeline gc` removes."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from cluster.store.base import StaleResult
from cluster.store.garbage import Garbage
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.progress import running_steps
from pipelines.run.request import RunRequest


def garbage_table(garbage: Garbage) -> Table:
    """Returns a table with a line per result that no recipe needs: its size and, if it is kept, the reason."""
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("fingerprint")
    table.add_column("size", justify="right")
    table.add_column("details", overflow="fold")
    rows = [(item, _details(item)) for item in garbage.removable]
    rows += [(item, f"kept: being run by {item.owner}") for item in garbage.running]
    rows += [(item, "kept: a run may read it") for item in garbage.read]
    for item, details in sorted(rows, key=lambda row: (row[0].step, row[0].fingerprint)):
        table.add_row(item.step, item.fingerprint[:12], format_size(item.num_bytes), details)
    return table


def _details(item: StaleResult) -> str:
    if item.rest is not None:
        return "rest of an interrupted removal"
    if item.is_leftover:
        return "left by earlier attempts"
    return "" if item.committed_at is not None else "attempt without a result"


def format_size(num_bytes: int) -> str:
    """Returns a size such as `12.3 MB`."""
    amount, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def step_states(request: RunRequest) -> list[dict[str, Any]]:
    """Returns state, name and details of every step.

    The state is committed, running (with progress and driver), failed (with error and log) or not run.
    """
    rows = []
    progress = running_steps(request.store)
    for planned in plan_recipe(request.config, request.store):
        lease = request.store.lease(planned.name, planned.fingerprint)
        failure = request.store.failure(planned.name, planned.fingerprint)
        if lease is not None:
            state, details = "running", "; ".join(filter(None, (progress.get(planned.name), str(lease.owner))))
        elif planned.manifest is not None:
            cost = f"{planned.manifest.seconds:.0f} s, {format_size(planned.manifest.num_bytes)}"
            state, details = "committed", "; ".join((cost, *planned.notes))
        elif failure is not None:
            state, details = "failed", f"{failure.error} ({failure.log})"
        else:
            state, details = "not run", "; ".join(planned.reasons)
        rows.append({"state": state, "step": planned.name, "details": details})
    return rows
