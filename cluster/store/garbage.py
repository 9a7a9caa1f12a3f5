"""Removes results that no recipe uses, safely next to running drivers."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.errors import LeaseHeldError
from cluster.store.base import StaleResult, Store
from cluster.store.lease import Leases


def find_retained(stale_results: Iterable[StaleResult]) -> dict[StaleResult, str]:
    """Leftovers that have to stay, with the reason.

    A step that is being run stays. Its driver works on another version of the recipe, whose committed results are
    leftovers too: it may be reading them, so they stay as well until it is done.
    """
    stale_results = list(stale_results)
    running = [item for item in stale_results if item.owner]
    kept = {item: f"being run by {item.owner}" for item in running}
    if running:
        reason = f"may be read by {running[0].owner}, which runs {running[0].step}"
        kept |= {item: reason for item in stale_results if item.committed_at is not None and not item.owner}
    return kept


def collect_garbage(store: Store, stale_results: Iterable[StaleResult]) -> dict[StaleResult, str]:
    """Removes leftovers, each under its lease and manifest first, so that no moment shows half a result.

    Args:
        store: Where they are.
        stale_results: From `Store.unreachable`.

    Returns:
        Those that stay, with the reason.

    Raises:
        StoreError: the store cannot be written. What was removed until then is gone, what was not is whole.
    """
    stale_results = list(stale_results)
    kept = find_retained(stale_results)
    with Leases() as leases:
        for item in stale_results:
            if item in kept:
                continue
            slot = store.slot(item.step, item.fingerprint)
            try:
                leases.acquire(slot, item.step)
            except LeaseHeldError as held:
                kept[item] = f"being run by {held.owner}"
                continue
            store.delete(item.step, item.fingerprint)
            leases.release(slot)
    return kept
