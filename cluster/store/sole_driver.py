"""Keeps a second driver from a store whose server cannot keep two of them apart.

Without conditional writes two drivers can acquire one lease at the same moment. Such a store accepts a single driver,
which writes one lease for the entire store, waits until concurrent writes have ended, and reads whose write came last.
All other leases then have one writer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import LeaseHeldError, StoreError
from cluster.store.base import DRIVER, Store
from cluster.store.lease import Leases

SETTLE_S = 2.0
"""Wait for concurrent writes to a server without conditional writes."""


@contextmanager
def sole_driver(store: Store, leases: Leases) -> Iterator[None]:
    """Holds the lease of the store inside the block. Does nothing if the store accepts several drivers.

    Raises:
        StoreError: another driver uses the store.
    """
    if store.accepts_many_drivers:
        yield
        return
    slot = store.slot(DRIVER, "0" * 64)
    try:
        token = leases.acquire(slot, DRIVER)
    except LeaseHeldError as error:
        raise _in_use(store, error.owner) from error
    time.sleep(SETTLE_S)
    lease = slot.read()
    if lease is None or lease.token != token:
        leases.forget(slot)
        raise _in_use(store, str(lease.owner) if lease is not None else "another driver")
    try:
        yield
    finally:
        leases.release(slot)


def _in_use(store: Store, owner: str) -> StoreError:
    return StoreError(
        f"the store {store.url} is in use by {owner}. Its server has no conditional writes, so it accepts a single "
        "driver.",
        "Wait for that driver, or use a store in a folder or on S3, Azure or GCS.",
    )
