"""Keeps results when the user declares that a change of code or libraries does not change them.

A setting with its default value, which the code of the result did not have, is such a change.

The files of the old result are committed again under the new key. The manifest records who accepted what and when.
`dvc commit` does the same for a stage of DVC.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cluster.errors import AcceptError
from cluster.steps.added_settings import is_added_default
from cluster.steps.plan import Plan, PlannedStep, PlanState, matching
from cluster.steps.step import descendants
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.manifest import CODE_PARTS, Acceptance, Difference, Manifest, differences


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptedStep:
    """A result that was kept.

    Args:
        manifest: The manifest under the new key.
        is_named: True if the user named the step; False if it is downstream of a named one.
    """

    manifest: Manifest
    is_named: bool

    @property
    def changes(self) -> tuple[str, ...]:
        """What the acceptance covers."""
        return self.manifest.acceptances[-1].changes


def accept(planned: Plan, store: Store, globs: Iterable[str], user: str) -> list[AcceptedStep]:
    """Keeps the results that `acceptable` returns.

    Args:
        planned: The plan of all steps.
        store: Where the results are.
        globs: Names of steps, or globs.
        user: Who accepts, as user@host.

    Returns:
        The results that were kept, upstream first.

    Raises:
        GraphError, AcceptError: see `acceptable`.
        LeaseHeldError: another driver runs one of the steps.
    """
    named = matching(planned.steps, globs)
    sources = acceptable(planned, store, named, user)
    with Leases() as leases:
        return [
            AcceptedStep(manifest=_commit(store, leases, *pair), is_named=name in named)
            for name, pair in sources.items()
        ]


def acceptable(planned: Plan, store: Store, globs: Iterable[str], user: str) -> dict[str, tuple[Manifest, Manifest]]:
    """Finds the results of the named steps, and of the steps downstream whose keys differ only through them.

    Args:
        planned: The plan of all steps.
        store: Where the results are.
        globs: Names of steps, or globs.
        user: Who accepts, as user@host.

    Returns:
        Step -> the result to keep, and its manifest under the new key; upstream first.

    Raises:
        GraphError: no step matches.
        AcceptError: a named step has no result to keep, or more than code and library versions differ.
    """
    named = matching(planned.steps, globs)
    candidates = _Candidates(planned, store)
    sources: dict[str, tuple[Manifest, Manifest]] = {}
    for name in (name for name in planned.steps if name in descendants(planned.steps, named)):
        line = planned.lines[name]
        if line.state is PlanState.CACHED:
            continue
        is_named = name in named
        source = candidates.required(line) if is_named else candidates.downstream(line)
        if source is None:
            continue
        manifest = _accepted(source, line, user)
        candidates.current[name] = manifest
        sources[name] = source, manifest
    if not sources:
        raise AcceptError(
            f"{', '.join(sorted(named))}: already cached.", "Run `clozeline plan` to see which steps run."
        )
    return sources


@dataclass(slots=True)
class _Candidates:
    """Finds the result to keep for a step. `current` has the results of all steps that are cached or accepted."""

    planned: Plan
    store: Store
    current: dict[str, Manifest] = field(init=False)

    def __post_init__(self) -> None:
        self.current = {line.name: line.manifest for line in self.planned if line.manifest is not None}

    def required(self, line: PlannedStep) -> Manifest:
        """Returns the latest result whose key differs from the new one in code and versions only."""
        results = self._results(line)
        if not results:
            raise AcceptError(f"step {line.name} has no committed result to accept.", "Run the step first.")
        fitting = [item for item in results if not self._other_changes(item, line)]
        if fitting:
            return max(fitting, key=_age)
        nearest = min(results, key=lambda item: len(self._other_changes(item, line)))
        changes = "; ".join(self._other_changes(nearest, line))
        raise AcceptError(
            f"cannot accept step {line.name}: {changes}.",
            "Accept only changes of code or library versions. Run the step, or undo the other changes.",
        )

    def downstream(self, line: PlannedStep) -> Manifest | None:
        """Returns the latest result whose key differs only through accepted steps; None if there is none."""
        fitting = [
            item
            for item in self._results(line)
            if all(change.name.startswith("inputs.") for change in differences(item.key, line.key.components))
            and not self._other_changes(item, line)
        ]
        return max(fitting, key=_age, default=None)

    def _results(self, line: PlannedStep) -> list[Manifest]:
        """Returns the undamaged results of a step under other keys."""
        return [
            item
            for item in self.store.results(line.name)
            if item.fingerprint != line.fingerprint
            and self.store.inspect(line.name, item.fingerprint).manifest is not None
        ]

    def _other_changes(self, result: Manifest, line: PlannedStep) -> tuple[str, ...]:
        """Returns the differences between a result and the new key that a user cannot accept."""
        changes = [
            str(change)
            for change in differences(result.key, line.key.components)
            if not change.name.startswith(CODE_PARTS)
            and not is_added_default(change.name, result.key, line.step.config)
            and not self._is_same_input(change, result, line)
        ]
        for item in line.step.upstream():
            upstream = self.current.get(item.name)
            if upstream is not None and result.upstream_digests.get(item.name) != upstream.content_digest:
                changes.append(f"it was made from other files of {item.name}")
        return tuple(changes)

    def _is_same_input(self, change: Difference, result: Manifest, line: PlannedStep) -> bool:
        """Returns True if an upstream key changed by acceptable changes only, and its files are the same."""
        name = line.step.upstream_by_component().get(change.name)
        upstream = self.current.get(name) if name is not None else None
        if name is None or upstream is None or result.upstream_digests.get(name) != upstream.content_digest:
            return False
        if any(item.fingerprint == change.before for item in upstream.acceptances):
            return True
        before = self.store.lookup(name, str(change.before))
        return before is not None and not self._other_changes(before, self.planned.lines[name])


def _age(result: Manifest) -> tuple[float, int]:
    """Orders results by their age. An accepted result has the commit time of its source, but one more acceptance."""
    return result.committed_at, len(result.acceptances)


def _accepted(source: Manifest, line: PlannedStep, user: str) -> Manifest:
    acceptance = Acceptance(
        user=user,
        accepted_at=time.time(),
        changes=tuple(str(change) for change in differences(source.key, line.key.components)),
        fingerprint=source.fingerprint,
    )
    return replace(
        source,
        fingerprint=line.fingerprint,
        key=dict(line.key.components),
        acceptances=(*source.acceptances, acceptance),
    )


def _commit(store: Store, leases: Leases, source: Manifest, manifest: Manifest) -> Manifest:
    slot = store.slot(manifest.step, manifest.fingerprint)
    token = leases.acquire(slot, manifest.step)
    try:
        return store.adopt(source, manifest, token)
    finally:
        leases.release(slot)
