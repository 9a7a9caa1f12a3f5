"""The plan of a run: CACHED, RUN or BLOCKED for every step, with the reason. Runs and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from cluster.errors import GraphError, MissingUpstreamError
from cluster.steps.fingerprint import fingerprints
from cluster.steps.step import Step, ancestors, descendants, graph
from cluster.store.base import LookupResult, Store
from cluster.store.manifest import Key, Manifest, differences


class PlanState(StrEnum):
    """HIT: committed. RUN: to be run. BLOCKED: needs what this run leaves out."""

    CACHED = "HIT"
    RUN = "RUN"
    BLOCKED = "BLOCKED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which steps to look at; each is a list of names, or globs such as `pet/*`. A name stands for all below it too.

    Args:
        from_: Only these and all that needs them. What they need must be committed.
        until: Only these and all that they need.
        only: Only these. What they need must be committed.
        force: Run these even if they are committed.
        verify: Compare hashes of committed files, not only their sizes.
    """

    from_: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    force: tuple[str, ...] = ()
    verify: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One line of a plan.

    `manifest` is that of a HIT; `reasons` say in words why it is none; `chosen` whether the step may be run at all.
    """

    step: Step
    key: Key
    state: PlanState
    reasons: tuple[str, ...] = ()
    manifest: Manifest | None = None
    forced: bool = False
    selected: bool = True

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    @property
    def fingerprint(self) -> str:
        """The step's fingerprint."""
        return self.key.fingerprint


def plan(steps: Iterable[Step], store: Store, selection: Selection | None = None) -> list[PlannedStep]:
    """Every step that a run would look at, upstream first.

    Args:
        steps: The leaves, or all steps, of the graph.
        store: Where results are.
        selection: Which steps to look at; all if None.

    Raises:
        GraphError: the steps do not form a graph, or a name of the selection matches none of them.
        FingerprintError: the identity of a step cannot be told.
    """
    selection = selection or Selection()
    nodes = graph(steps)
    keys = fingerprints(nodes)
    chosen = _selected(nodes, selection)
    forced = _forced(nodes, selection, chosen)
    shown = chosen | {item.name for name in chosen for item in nodes[name].upstream()}
    names = [name for name in nodes if name in shown]
    looked_up = store.inspect_all([(name, keys[name].fingerprint) for name in names], selection.verify)
    lines: dict[str, PlannedStep] = {}
    for name, found in zip(names, looked_up, strict=True):
        step, key = nodes[name], keys[name]
        if name not in chosen:
            lines[name] = _left_out(step, key, found)
        else:
            lines[name] = _planned_step(step, key, found, lines, store, name in forced)
    return list(lines.values())


def stale_upstream(step: Step, manifest: Manifest, upstream: Mapping[str, Manifest]) -> str | None:
    """An upstream step that was made anew since, with other files than those that this result was made from."""
    for item in step.upstream():
        current = upstream.get(item.name)
        if current is not None and manifest.upstream_digests.get(item.name) != current.content_digest:
            return item.name
    return None


def _planned_step(
    step: Step, key: Key, found: LookupResult, lines: Mapping[str, PlannedStep], store: Store, forced: bool
) -> PlannedStep:
    """State of a step that the selection holds."""
    line = PlannedStep(step=step, key=key, state=PlanState.RUN, forced=forced, manifest=None)
    blockers = [lines[item.name] for item in step.upstream() if lines[item.name].state is PlanState.BLOCKED]
    if blockers and (forced or found.manifest is None):
        reasons = tuple(
            f"it needs {item.name}, which is blocked"
            if item.selected
            else MissingUpstreamError(step.name, item.name).problem
            for item in blockers
        )
        return replace(line, state=PlanState.BLOCKED, reasons=reasons)
    if forced:
        return replace(line, reasons=("forced",))
    if found.manifest is not None:
        known = {name: planned.manifest for name, planned in lines.items() if planned.manifest is not None}
        stale = stale_upstream(step, found.manifest, known)
        if stale is None:
            return replace(line, state=PlanState.CACHED, manifest=found.manifest)
        return replace(line, reasons=(f"{stale} was made anew, with other files than those that this was made from",))
    return replace(line, reasons=_reasons(step, key, found, lines, store))


def _reasons(
    step: Step, key: Key, found: LookupResult, lines: Mapping[str, PlannedStep], store: Store
) -> tuple[str, ...]:
    """Why a step has no result: what is broken, or what changed against the result that comes nearest."""
    if found.problems:
        return found.reasons
    nearest = store.nearest(step.name, key.fingerprint, key.components)
    if nearest is None:
        older = store.outdated(step.name)
        return ("never run",) if older is None else (f"made by another version: {older}",)
    changed = differences(nearest.key, key.components)
    own = tuple(str(item) for item in changed if not item.name.startswith("inputs."))
    if len(own) == len(changed):
        return own
    running = [item.name for item in step.upstream() if lines[item.name].state is PlanState.RUN]
    inputs = tuple(f"its upstream {name} runs" for name in dict.fromkeys(running))
    return own + (inputs or tuple(str(item) for item in changed if item.name.startswith("inputs.")))


def _left_out(step: Step, key: Key, found: LookupResult) -> PlannedStep:
    """State of a step that is only there because a chosen one reads it."""
    line = PlannedStep(step=step, key=key, state=PlanState.BLOCKED, selected=False)
    if found.manifest is not None:
        return replace(line, state=PlanState.CACHED, manifest=found.manifest)
    return replace(line, reasons=(*found.reasons, "not committed, and left out of this run"))


def _selected(nodes: Mapping[str, Step], selection: Selection) -> set[str]:
    chosen = set(nodes)
    if selection.from_:
        chosen &= descendants(nodes, matching(nodes, selection.from_))
    if selection.until:
        chosen &= ancestors(nodes, matching(nodes, selection.until))
    if selection.only:
        chosen &= matching(nodes, selection.only)
    if not chosen:
        raise GraphError("the chosen parts of the pipeline have no step in common.", "Widen from, until or only.")
    return chosen


def _forced(nodes: Mapping[str, Step], selection: Selection, chosen: set[str]) -> set[str]:
    forced = matching(nodes, selection.force)
    if forced and not forced & chosen:
        raise GraphError(
            f"{', '.join(sorted(forced))} cannot be forced, for this run leaves it out.", "Widen from, until or only."
        )
    return forced & chosen


def matching(nodes: Mapping[str, Step], globs: Iterable[str]) -> set[str]:
    """Names that any of the globs matches; `*` matches slashes too, and `distill` means all `distill/*` as well."""
    matching: set[str] = set()
    for glob in globs:
        found = {name for name in nodes if fnmatchcase(name, glob) or name.startswith(f"{glob.rstrip('/')}/")}
        if not found:
            raise GraphError(f"no step is called {glob}.", f"The steps are {', '.join(nodes)}.")
        matching |= found
    return matching
