"""Small results for tests of stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cluster.store.base import StagedResult, Store
from cluster.store.lease import Leases
from cluster.store.manifest import FileEntry, Manifest

STEP = "pet/x"
FINGERPRINT, OTHER = "a" * 64, "b" * 64


def builder(fingerprint: str = FINGERPRINT, **fields: Any) -> Callable[[Any, Mapping[str, FileEntry]], Manifest]:
    """Returns a function that builds manifests with these fields."""
    fields = {"key": {"config.rate": 1}, "upstream_digests": {}, **fields}
    return lambda result, files: Manifest(step=STEP, fingerprint=fingerprint, files=files, result=result, **fields)


def begin(store: Store, leases: Leases, fingerprint: str = FINGERPRINT, text: str = "hello") -> StagedResult:
    """Stages a result with one file."""
    staged = store.begin(STEP, fingerprint, leases.acquire(store.slot(STEP, fingerprint), STEP))
    (staged.out / "sub").mkdir()
    (staged.out / "sub" / "model.bin").write_text(text)
    return staged


def commit(store: Store, fingerprint: str = FINGERPRINT, text: str = "hello", **fields: Any) -> Manifest:
    """Commits a result with one file."""
    leases = Leases()
    manifest = begin(store, leases, fingerprint, text).commit({"score": 0.5}, builder(fingerprint, **fields))
    leases.release(store.slot(STEP, fingerprint))
    return manifest
