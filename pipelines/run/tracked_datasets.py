"""The data that each step reads, for the tracker: the splits of the data steps, with the digests of their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.steps.plan import Plan
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from cluster.tracking.run_logger import Dataset
from pipelines.kinds import KINDS, SETS


class Datasets:
    """Maps each step to the data that it reads or wrote. Skips empty splits, such as an unset dev set."""

    def __init__(self, planned: Plan, store: Store) -> None:
        self._planned = planned.lines
        self._store = store
        self._written: dict[str, dict[str, Dataset]] = {}

    def __call__(self, step: str) -> Sequence[Dataset]:
        """Returns the data of a step that are committed."""
        planned = self._planned.get(step)
        if planned is None:
            return ()
        reads = KINDS[planned.step.kind].reads
        sources = [item.name for item in (planned.step, *planned.step.upstream()) if item.kind == "data"]
        return [dataset for name in dict.fromkeys(sources) for key, dataset in self._sets(name).items() if key in reads]

    def all(self) -> Sequence[Dataset]:
        """Returns the data of the entire run."""
        names = [name for name, planned in self._planned.items() if planned.step.kind == "data"]
        return [dataset for name in names for dataset in self._sets(name).values()]

    def _sets(self, name: str) -> dict[str, Dataset]:
        """Returns the splits of a data step; nothing before it is committed."""
        planned = self._planned.get(name)
        if planned is not None and name not in self._written:
            manifest = planned.manifest or self._store.lookup(name, planned.fingerprint)
            if manifest is None:
                return {}
            self._written[name] = self._datasets(planned.step, manifest)
        return self._written.get(name, {})

    def _datasets(self, step: Step, manifest: Manifest) -> dict[str, Dataset]:
        folder = f"{self._store.url}/{step.name}/{manifest.fingerprint}/{manifest.folder}"
        return {
            key: Dataset(
                name=f"{step.labels['task']}/{key}",
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
