"""The state of a recipe's steps in the store: committed, running or failed; and stale results, which `clozeline gc`
removes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cluster.steps.fingerprint import fingerprints
from cluster.steps.step import graph
from cluster.store.base import StaleResult, Store
from pipelines.dag import fewshot
from pipelines.dag.fewshot import key_options, plan_recipe
from pipelines.run.request import RunRequest, load_request
from stages.common.errors import InputError


def stale_results(recipes: Sequence[str], overrides: list[str] | None, store: str) -> tuple[Store, list[StaleResult]]:
    """Returns the store, and the results of the recipes' steps with fingerprints that no recipe has now.

    Args:
        recipes: All recipes that share the store and have steps with the same names. Their results are kept.
        overrides: Apply to each recipe.
        store: The store.

    Raises:
        InputError: a local file of a recipe is missing, so the fingerprints of its results are unknown.
    """
    requests = [load_request(recipe, overrides, store) for recipe in recipes]
    keep: dict[str, set[str]] = {}
    for request in requests:
        nodes = graph(fewshot.build_steps(request.config))
        for name, step in nodes.items():
            for role, identity in step.assets.items():
                if identity.startswith("missing:"):
                    raise InputError(
                        f"the {role} of {name} is missing ({identity.removeprefix('missing:')}), so its results would "
                        "look stale.",
                        "Restore the file, or correct its path.",
                    )
        for name, key in fingerprints(nodes, key_options(request.config)).items():
            keep.setdefault(name, set()).add(key.fingerprint)
    return requests[0].store, requests[0].store.find_stale(keep)


def stale_table(stale: Sequence[StaleResult], kept: Mapping[StaleResult, str]) -> Table:
    """Returns a table with a line per stale result: its size and, if it is kept, the reason."""
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("fingerprint")
    table.add_column("size", justify="right")
    table.add_column("details", overflow="fold")
    for item in stale:
        details = "" if item.committed_at is not None else "attempt without a result"
        if item in kept:
            details = f"kept: {kept[item]}"
        table.add_row(item.step, item.fingerprint[:12], format_size(item.num_bytes), details)
    return table


def format_size(num_bytes: int) -> str:
    """Returns a size such as `12.3 MB`."""
    amount, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def step_states(request: RunRequest) -> list[dict[str, Any]]:
    """Returns state, name and details of every step: committed, running (where), failed (error and log) or not run."""
    rows = []
    for planned in plan_recipe(request.config, request.store):
        lease = request.store.lease(planned.name, planned.fingerprint)
        failure = request.store.failure(planned.name, planned.fingerprint)
        if lease is not None:
            state, details = "running", str(lease.owner)
        elif planned.manifest is not None:
            cost = f"{planned.manifest.seconds:.0f} s, {format_size(planned.manifest.num_bytes)}"
            state, details = "committed", "; ".join((cost, *planned.notes))
        elif failure is not None:
            state, details = "failed", f"{failure.error} ({failure.log})"
        else:
            state, details = "not run", "; ".join(planned.reasons)
        rows.append({"state": state, "step": planned.name, "details": details})
    return rows
