"""State of a recipe's steps in the store: committed, running or failed; and stale results, which `clozeline gc`
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
from pipelines.dag.planner import key_options, plan_recipe
from pipelines.run.request import RunRequest, load_request
from stages.common.errors import InputError


def stale_results(recipes: Sequence[str], overrides: list[str] | None, store: str) -> tuple[Store, list[StaleResult]]:
    """Results of steps that the recipes have, under fingerprints that none of them has now.

    Args:
        recipes: All that share the store and have steps of the same names; what any of them reaches is kept.
        overrides: Apply to each.
        store: The store.

    Raises:
        InputError: a local file of a recipe is not there, so that nobody can tell what its results would be.
    """
    asked = [load_request(recipe, overrides, store) for recipe in recipes]
    keep: dict[str, set[str]] = {}
    for one in asked:
        nodes = graph(fewshot.build_steps(one.config))
        for name, step in nodes.items():
            for role, identity in step.assets.items():
                if identity.startswith("missing:"):
                    raise InputError(
                        f"{role} of {name} is not there ({identity.removeprefix('missing:')}), so that its results "
                        "would be taken for old ones.",
                        "Bring the file back, or correct its path, before removing anything.",
                    )
        for name, key in fingerprints(nodes, key_options(one.config)).items():
            keep.setdefault(name, set()).add(key.fingerprint)
    return asked[0].store, asked[0].store.find_stale(keep)


def stale_table(found: Sequence[StaleResult], kept: Mapping[StaleResult, str]) -> Table:
    """One line a leftover, with its size and, if it stays, why."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("step", no_wrap=True)
    shown.add_column("fingerprint")
    shown.add_column("size", justify="right")
    shown.add_column("about", overflow="fold")
    for item in found:
        about = (
            f"stays: {kept[item]}"
            if item in kept
            else ""
            if item.committed_at is not None
            else "an attempt without a result"
        )
        shown.add_row(item.step, item.fingerprint[:12], format_size(item.num_bytes), about)
    return shown


def format_size(num_bytes: int) -> str:
    """A size for people: 12.3 MB."""
    amount, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def step_states(request: RunRequest) -> list[dict[str, Any]]:
    """For every step: committed, running (and by whom), failed (with its last error and log) or not run yet."""
    rows = []
    for line in plan_recipe(request.config, request.store):
        lease = request.store.lease(line.name, line.fingerprint)
        failure = request.store.failure(line.name, line.fingerprint)
        if lease is not None:
            state, about = "running", str(lease.owner)
        elif line.manifest is not None:
            state, about = (
                "committed",
                "; ".join((f"{line.manifest.seconds:.0f} s, {line.manifest.num_bytes / 1e6:.1f} MB", *line.notes)),
            )
        elif failure is not None:
            state, about = "failed", f"{failure.error} ({failure.log})"
        else:
            state, about = "not run", "; ".join(line.reasons)
        rows.append({"state": state, "step": line.name, "about": about})
    return rows
