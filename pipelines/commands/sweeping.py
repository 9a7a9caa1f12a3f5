"""What `gc` removes: results of a recipe's steps that were made by an earlier version of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from cluster.keys.fingerprint import fingerprints
from cluster.step import graph
from cluster.storage.store import Leftover, Store
from pipelines import fewshot, running
from stages.errors import InputError


def leftovers(recipes: Sequence[str], overrides: list[str] | None, store: str) -> tuple[Store, list[Leftover]]:
    """Results of steps that the recipes have, under fingerprints that none of them has now.

    Args:
        recipes: All that share the store and have steps of the same names; what any of them reaches is kept.
        overrides: Apply to each.
        store: The store.

    Raises:
        InputError: a local file of a recipe is not there, so that nobody can tell what its results would be.
    """
    asked = [running.request(recipe, overrides, store) for recipe in recipes]
    keep: dict[str, set[str]] = {}
    for one in asked:
        nodes = graph(fewshot.steps(one.config))
        for name, step in nodes.items():
            for role, identity in step.assets.items():
                if identity.startswith("missing:"):
                    raise InputError(
                        f"{role} of {name} is not there ({identity.removeprefix('missing:')}), so that its results "
                        "would be taken for old ones.",
                        "Bring the file back, or correct its path, before removing anything.",
                    )
        for name, key in fingerprints(nodes).items():
            keep.setdefault(name, set()).add(key.fingerprint)
    return asked[0].store, asked[0].store.unreachable(keep)


def table(found: Sequence[Leftover], kept: Mapping[Leftover, str]) -> Table:
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
            if item.committed is not None
            else "an attempt without a result"
        )
        shown.add_row(item.step, item.fingerprint[:12], size(item.num_bytes), about)
    return shown


def size(num_bytes: int) -> str:
    """A size for people: 12.3 MB."""
    amount, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
