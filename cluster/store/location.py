"""Opens the store at a folder or URL."""

from __future__ import annotations

from pathlib import Path

from cluster.store.base import Store
from cluster.store.local import LocalStore
from cluster.store.remote import RemoteStore


def open_store(where: str | Path) -> Store:
    """Opens the store at a folder or URL, which need not exist.

    Raises:
        StoreError: the path is a file, or the kind of URL is unknown.
    """
    if "://" in str(where) and not str(where).startswith("file://"):
        return RemoteStore(str(where))
    return LocalStore(Path(str(where).removeprefix("file://")))
