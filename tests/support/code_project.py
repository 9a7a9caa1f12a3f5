"""A package whose modules are the steps of a graph, so that a test can change their code."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cluster.steps.fingerprint import KeyOptions
from cluster.steps.plan import Plan, PlannedStep, PlanState, plan
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.manifest import FileEntry, Manifest
from tests.support.steps import Config

numbers = itertools.count()


class Project:
    """A package with one module per step: data -> pet -> student."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.package = f"accept_{next(numbers)}"
        self._folder = folder / self.package
        self._folder.mkdir()
        (self._folder / "__init__.py").write_text("")
        self.store = store
        self.config: type[Config] = Config
        for name in ("data", "pet", "student"):
            self.write(name)

    def write(self, name: str, body: str = "return 1") -> None:
        """Writes the code of a step."""
        (self._folder / f"{name}.py").write_text(f"def run(config, inputs, out, recorder, engine):\n    {body}\n")

    def plan(self, options: KeyOptions | None = None, **values: int) -> Plan:
        """Plans the graph; `values` are the configs of the steps."""
        steps: list[Step] = []
        for name in ("data", "pet", "student"):
            inputs: dict[str, Any] = {"base": steps[-1]} if steps else {}
            config = self.config(value=values.get(name, 0))
            steps.append(Step(name=name, run=f"{self.package}.{name}:run", config=config, inputs=inputs))
        return plan(steps[-1:], self.store, key_options=options)

    def commit(self, planned: Plan, text: str = "", **versions: str) -> None:
        """Commits every step that the plan runs."""
        leases = Leases()
        manifests = dict(planned.manifests)
        for line in planned:
            if line.state is PlanState.CACHED:
                continue
            slot = self.store.slot(line.name, line.fingerprint)
            staged = self.store.begin(line.name, line.fingerprint, leases.acquire(slot, line.name))
            (staged.out / "part").mkdir()
            (staged.out / "part" / "file.txt").write_text(line.name + text)
            digests = {item.name: manifests[item.name].content_digest for item in line.step.upstream()}
            manifests[line.name] = staged.commit({}, partial(_manifest, line, digests, versions))
            leases.release(slot)

    def states(self, **values: int) -> dict[str, str]:
        """Step -> state."""
        return {line.name: line.state.value for line in self.plan(None, **values)}


def _manifest(
    line: PlannedStep,
    digests: Mapping[str, str],
    versions: Mapping[str, str],
    result: Any,
    files: Mapping[str, FileEntry],
) -> Manifest:
    return Manifest(
        step=line.name, fingerprint=line.fingerprint, key=line.key.components, files=files,
        upstream_digests=digests, result=result, versions=versions, committed_at=1.0,
    )  # fmt: skip
