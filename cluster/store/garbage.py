"""Removes results that no recipe uses, safely next to running drivers."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.errors import LeaseHeldError
from cluster.store.base import StaleResult, Store
from cluster.store.lease import Leases


def find_retained(stale_results: Iterable[StaleResult]) -> dict[StaleResult, str]:
    """Returns stale results that must be kept, with the reason.

    A step that is running is kept. Its driver runs another version of the recipe, whose committed results are stale,
    too. It may read them, so they are kept until it is done.
    """
    stale_results = list(stale_results)
    running = [item for item in stale_results if item.owner]
    retained = {item: f"being run by {item.owner}" for item in running}
    if running:
        reason = f"may be read by {running[0].owner}, which runs {running[0].step}"
        retained |= {item: reason for item in stale_results if item.committed_at is not None and not item.owner}
    return retained


def collect_garbage(store: Store, stale_results: Iterable[StaleResult]) -> dict[StaleResult, str]:
    """Removes stale results, each under its lease and manifest first, so that no reader sees a partial result.

    Args:
        store: The store that has them.
        stale_results: From `Store.find_stale`.

    Returns:
        The results that are kept, with the reason.

    Raises:
        StoreError: the store cannot be written. Every result is either removed or complete.
    """
    stale_results = list(stale_results)
    retained = find_retained(stale_results)
    with Leases() as leases:
        for item in stale_results:
            if item in retained:
                continue
            slot = store.slot(item.step, item.fingerprint)
            try:
                leases.acquire(slot, item.step)
            except LeaseHeldError as held:
                retained[item] = f"being run by {held.owner}"
                continue
            store.delete(item.step, item.fingerprint)
            leases.release(slot)
    return retained
