"""The data that each step reads, for the tracker: the splits of the data steps, with the digests of their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.steps.plan import PlannedStep
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from cluster.tracking.run_logger import Dataset
from pipelines.kinds import SETS, SETS_READ


class Datasets:
    """Maps each step to the data that it reads or wrote. Skips empty splits, such as an unset dev set."""

    def __init__(self, planned: Sequence[PlannedStep], store: Store) -> None:
        self._planned = {item.name: item for item in planned}
        self._store = store
        self._written: dict[str, dict[str, Dataset]] = {}

    def __call__(self, step: str) -> Sequence[Dataset]:
        """Returns the data of a step that is committed."""
        line = self._planned.get(step)
        if line is None:
            return ()
        kind = step.partition("/")[0]
        near = (step, *(item.name for item in line.step.upstream()))
        sources = dict.fromkeys(name for name in near if name.startswith("data/"))
        return [
            found for name in sources for key, found in self._sets(name).items() if key in SETS_READ.get(kind, SETS)
        ]

    def all(self) -> Sequence[Dataset]:
        """Returns the data of the entire run."""
        return [found for name in self._planned if name.startswith("data/") for found in self._sets(name).values()]

    def _sets(self, name: str) -> dict[str, Dataset]:
        """Returns the splits of a data step; nothing before it is committed."""
        line = self._planned.get(name)
        if line is not None and name not in self._written:
            manifest = line.manifest or self._store.lookup(name, line.fingerprint)
            if manifest is None:
                return {}
            self._written[name] = self._read(name, manifest)
        return self._written.get(name, {})

    def _read(self, name: str, manifest: Manifest) -> dict[str, Dataset]:
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
