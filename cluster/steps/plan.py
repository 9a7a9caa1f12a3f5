"""The plan of a run: CACHED, RUN or BLOCKED for every step, with the reason. Planning runs and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from cluster.errors import GraphError, MissingUpstreamError
from cluster.steps.code_digests import versions
from cluster.steps.fingerprint import KeyOptions, fingerprints
from cluster.steps.step import Step, ancestors, descendants, graph
from cluster.store.base import LookupResult, Store
from cluster.store.manifest import Difference, Key, Manifest, SharedParts, differences, version_changes

MAX_REASONS = 3
"""Changed modules, or upstream steps, that a reason lists."""


class PlanState(StrEnum):
    """CACHED: a committed result exists. RUN: the run executes the step. BLOCKED: the run leaves out what it needs."""

    CACHED = "CACHED"
    RUN = "RUN"
    BLOCKED = "BLOCKED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which steps to plan. Each field lists names or globs such as `pet/*`; a name includes all steps below it.

    Args:
        from_: Only these steps and their descendants. The results that they read must be committed.
        until: Only these steps and their ancestors.
        only: Only these steps. The results that they read must be committed.
        force: Run these steps even if they are committed.
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

    Args:
        step: The step.
        key: Its key.
        state: What the run does with it.
        reasons: Why it is not CACHED.
        notes: What the user should know about a CACHED result: who accepted it, and which library versions differ.
        manifest: The manifest of a CACHED step.
        nearest: The most similar committed result, if the step runs because its key differs from that.
        forced: The user forces it.
        selected: False if it is listed only because a selected step reads it.
    """

    step: Step
    key: Key
    state: PlanState
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    manifest: Manifest | None = None
    nearest: Manifest | None = None
    forced: bool = False
    selected: bool = True

    @property
    def name(self) -> str:
        """The name of the step."""
        return self.step.name

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the step."""
        return self.key.fingerprint

    @property
    def changes(self) -> tuple[Difference, ...]:
        """What differs from the nearest result."""
        return () if self.nearest is None else differences(self.nearest.key, self.key.components)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A sequence of the planned steps, upstream first. A run makes it once; the scheduler and the report read it.

    Args:
        lines: The selected steps and the steps that they read, by name.
        steps: All steps of the graph, by name.
        keys: Their keys.
        manifests: The committed results of all steps, at the time of planning.
        key_options: Which code and versions are part of the keys.
    """

    lines: Mapping[str, PlannedStep]
    steps: Mapping[str, Step]
    keys: Mapping[str, Key]
    manifests: Mapping[str, Manifest]
    key_options: KeyOptions

    def __iter__(self) -> Iterator[PlannedStep]:
        return iter(self.lines.values())

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> PlannedStep:
        return list(self.lines.values())[index]


def plan(
    steps: Iterable[Step], store: Store, selection: Selection | None = None, key_options: KeyOptions | None = None
) -> Plan:
    """Plans a run.

    Args:
        steps: The leaves, or all steps, of the graph.
        store: Where results are.
        selection: Which steps to plan. Default: all.
        key_options: Which code and versions are part of the keys.

    Raises:
        GraphError: the steps do not form a graph, or a name of the selection matches no step.
        FingerprintError: the key of a step cannot be computed.
    """
    selection = selection or Selection()
    key_options = key_options or KeyOptions()
    nodes = graph(steps)
    keys = fingerprints(nodes, key_options)
    selected = _selected(nodes, selection)
    forced = _forced(nodes, selection, selected)
    shown = selected | {item.name for name in selected for item in nodes[name].upstream()}
    lookups = _look_up(store, keys, shown, verify=selection.verify)
    lines: dict[str, PlannedStep] = {}
    digests: dict[str, str] = {}
    for name in (name for name in nodes if name in shown):
        step, key, lookup = nodes[name], keys[name], lookups[name]
        if name in selected:
            line = _planned_step(step, key, lookup, lines, digests, store, forced=name in forced)
        else:
            line = _left_out(step, key, lookup)
        lines[name] = line
        if line.manifest is not None:
            digests[name] = line.manifest.content_digest
    return Plan(
        lines=lines,
        steps=nodes,
        keys=keys,
        manifests={name: lookup.manifest for name, lookup in lookups.items() if lookup.manifest is not None},
        key_options=key_options,
    )


def _look_up(store: Store, keys: Mapping[str, Key], shown: set[str], *, verify: bool) -> dict[str, LookupResult]:
    """Looks up the results of all steps; hashes are compared for the shown steps only."""
    lookups: dict[str, LookupResult] = {}
    shared = SharedParts()
    for is_shown in (True, False):
        names = [name for name in keys if (name in shown) is is_shown]
        results = store.inspect_all([(name, keys[name].fingerprint) for name in names], verify and is_shown)
        for name, result in zip(names, results, strict=True):
            lookups[name] = _with_shared_parts(result, keys[name], shared)
    return lookups


def _with_shared_parts(result: LookupResult, key: Key, shared: SharedParts) -> LookupResult:
    return result if result.manifest is None else replace(result, manifest=shared.apply(result.manifest, key))


def _planned_step(
    step: Step,
    key: Key,
    lookup: LookupResult,
    lines: Mapping[str, PlannedStep],
    digests: Mapping[str, str],
    store: Store,
    *,
    forced: bool,
) -> PlannedStep:
    """Plans a step of the selection. `lines` and `digests` have its upstream steps, and the digests of their files."""
    line = PlannedStep(step=step, key=key, state=PlanState.RUN, forced=forced)
    blockers = [lines[item.name] for item in step.upstream() if lines[item.name].state is PlanState.BLOCKED]
    if blockers and (forced or lookup.manifest is None):
        reasons = tuple(
            f"it needs {item.name}, which is blocked"
            if item.selected
            else MissingUpstreamError(step.name, item.name).problem
            for item in blockers
        )
        return replace(line, state=PlanState.BLOCKED, reasons=reasons)
    if forced:
        return replace(line, reasons=("forced",))
    if lookup.manifest is not None:
        stale = _stale_upstream(step, lookup.manifest, digests)
        if stale is None:
            return _cached(line, lookup.manifest)
        return replace(line, reasons=(f"{stale} was rebuilt, with other files than this result was made from",))
    if lookup.problems:
        return replace(line, reasons=lookup.reasons)
    found = store.compare(step.name, key.fingerprint, key.components)
    if found.nearest is None:
        return replace(
            line, reasons=(f"made by another version: {found.outdated}",) if found.outdated else ("never run",)
        )
    line = replace(line, nearest=found.nearest)
    return replace(line, reasons=_reasons(line, lines))


def _stale_upstream(step: Step, manifest: Manifest, digests: Mapping[str, str]) -> str | None:
    """Returns the name of an upstream step that has other files now than those that this result was made from."""
    for item in step.upstream():
        current = digests.get(item.name)
        if current is not None and manifest.upstream_digests.get(item.name) != current:
            return item.name
    return None


def _cached(line: PlannedStep, manifest: Manifest) -> PlannedStep:
    notes = (*(str(item) for item in manifest.acceptances), *version_changes(manifest.versions, versions()))
    return replace(line, state=PlanState.CACHED, manifest=manifest, notes=notes)


def _reasons(line: PlannedStep, lines: Mapping[str, PlannedStep]) -> tuple[str, ...]:
    """Returns what changed since the nearest result; the code of the step's own function before what it imports."""
    module = f"code.{line.step.run.partition(':')[0]}"
    code = sorted(
        (item for item in line.changes if item.name.startswith("code.")), key=lambda item: item.name != module
    )
    inputs = [item for item in line.changes if item.name.startswith("inputs.")]
    others = [item for item in line.changes if item not in code and item not in inputs]
    own = (*(str(item) for item in others), *_shortened(code))
    running = [item.name for item in line.step.upstream() if lines[item.name].state is PlanState.RUN]
    if inputs and running:
        return (*own, *_upstream_reasons(list(dict.fromkeys(running))))
    return (*own, *(str(item) for item in inputs))


def _shortened(code: Sequence[Difference]) -> tuple[str, ...]:
    """Returns a sentence per changed module, or one sentence for many, as after an upgrade."""
    if len(code) <= MAX_REASONS:
        return tuple(str(item) for item in code)
    return (str(code[0]), f"so did {len(code) - 1} other modules (`clozeline explain` lists them)")


def _upstream_reasons(running: Sequence[str]) -> tuple[str, ...]:
    shown = tuple(f"its upstream {name} runs" for name in running[:MAX_REASONS])
    return (
        shown if len(running) <= MAX_REASONS else (*shown, f"its upstream has {len(running) - MAX_REASONS} more to run")
    )


def _left_out(step: Step, key: Key, lookup: LookupResult) -> PlannedStep:
    """Plans a step that is listed only because a selected step reads it."""
    line = PlannedStep(step=step, key=key, state=PlanState.BLOCKED, selected=False)
    if lookup.manifest is not None:
        return _cached(line, lookup.manifest)
    return replace(line, reasons=(*lookup.reasons, "neither committed nor selected in this run"))


def _selected(nodes: Mapping[str, Step], selection: Selection) -> set[str]:
    selected = set(nodes)
    if selection.from_:
        selected &= descendants(nodes, matching(nodes, selection.from_))
    if selection.until:
        selected &= ancestors(nodes, matching(nodes, selection.until))
    if selection.only:
        selected &= matching(nodes, selection.only)
    if not selected:
        raise GraphError(
            "the selected parts of the pipeline have no step in common.", "Widen --from, --until or --only."
        )
    return selected


def _forced(nodes: Mapping[str, Step], selection: Selection, selected: set[str]) -> set[str]:
    forced = matching(nodes, selection.force)
    if forced and not forced & selected:
        raise GraphError(
            f"cannot force {', '.join(sorted(forced))}: not selected in this run.", "Widen --from, --until or --only."
        )
    return forced & selected


def matching(nodes: Iterable[str], globs: Iterable[str]) -> set[str]:
    """Returns the names that a glob matches. `*` matches slashes too, and `distill` includes all `distill/*`."""
    nodes = list(nodes)
    names: set[str] = set()
    for glob in globs:
        matched = {name for name in nodes if fnmatchcase(name, glob) or name.startswith(f"{glob.rstrip('/')}/")}
        if not matched:
            raise GraphError(f"no step is called {glob}.", f"The steps are {', '.join(nodes)}.")
        names |= matched
    return names
