"""Tells the tracker which data each step reads: the splits that the data steps wrote, by the digests of their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.steps.plan import Plan
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from cluster.tracking.run_logger import Dataset
from pipelines.kinds import SETS, SETS_READ


class Datasets:
    """Says what data a step reads or made. A set without examples, such as a dev set that nobody asked for, is none."""

    def __init__(self, planned: Plan, store: Store) -> None:
        self._lines = planned.lines
        self._store = store
        self._made: dict[str, dict[str, Dataset]] = {}

    def __call__(self, step: str) -> Sequence[Dataset]:
        """The data of one step, as far as it is there."""
        line = self._lines.get(step)
        if line is None:
            return ()
        kind = step.partition("/")[0]
        near = (step, *(item.name for item in line.step.upstream()))
        sources = dict.fromkeys(name for name in near if name.startswith("data/"))
        return [
            found for name in sources for key, found in self._sets(name).items() if key in SETS_READ.get(kind, SETS)
        ]

    def all(self) -> Sequence[Dataset]:
        """The data of the whole run."""
        return [found for name in self._lines if name.startswith("data/") for found in self._sets(name).values()]

    def _sets(self, name: str) -> dict[str, Dataset]:
        """The sets that a data step made; none before it is committed."""
        line = self._lines.get(name)
        if line is not None and name not in self._made:
            manifest = line.manifest or self._store.lookup(name, line.fingerprint)
            if manifest is None:
                return {}
            self._made[name] = self._found(name, manifest)
        return self._made.get(name, {})

    def _found(self, name: str, manifest: Manifest) -> dict[str, Dataset]:
        task = name.partition("/")[2]
        folder = f"{self._store.url}/{name}/{manifest.fingerprint}/{manifest.folder}"
        return {
            key: Dataset(
                name=f"{task}/{key}",
                digest=entry.sha256,
                context=key,
                address=f"{folder}/{key}.jsonl",
                num_rows=_num_rows(manifest.result, key),
            )
            for key in SETS
            if (entry := manifest.files.get(f"{key}.jsonl")) is not None and entry.size > 0
        }


def _num_rows(result: Any, key: str) -> int | None:
    count = result.get(f"num_{key}") if isinstance(result, dict) else None
    return count if isinstance(count, int) else None
