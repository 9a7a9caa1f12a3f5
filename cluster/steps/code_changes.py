"""Which steps of a plan run only because code or libraries changed, and what `accept` would do about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.provenance import DISTRIBUTION, ROOT
from cluster.steps.accept import acceptable
from cluster.steps.code_digests import versions
from cluster.steps.plan import Plan, PlannedStep, PlanState
from cluster.store.base import Store
from cluster.store.manifest import CODE_PARTS


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeChanges:
    """Steps that run only because code or libraries changed.

    Args:
        changed: What changed, as files or library versions; those that affect most steps first.
        steps: All steps that run for no other reason, upstream first.
        named: Those among them whose own code changed; the others run because of their upstream.
        globs: Arguments of `accept` that mean `named`.
        version: The version of this program, if the results are of another one; else empty.
        num_acceptable: How many of the steps keep their results if the user accepts `named`; 0 for a part of a graph.
    """

    changed: tuple[str, ...]
    steps: tuple[str, ...]
    named: tuple[str, ...]
    globs: tuple[str, ...]
    version: str
    num_acceptable: int


def find_code_changes(planned: Plan, store: Store) -> CodeChanges | None:
    """Returns the steps of a plan that run only because of changed code; None if there are none."""
    affected: dict[str, bool] = {}
    """Step -> True if its own code changed, False if only that of its upstream did."""
    changed: Counter[str] = Counter()
    for line in planned:
        own = _own_changes(line, affected)
        if own is not None:
            affected[line.name] = bool(own)
            changed.update(own)
    if not affected:
        return None
    named = tuple(name for name, has_own in affected.items() if has_own)
    others = {_kind(line.name) for line in planned if line.state is PlanState.RUN and line.name not in affected}
    globs = dict.fromkeys(name if _kind(name) in others else _kind(name) for name in named)
    is_whole = planned.lines.keys() == planned.steps.keys()
    return CodeChanges(
        changed=tuple(item for item, _ in changed.most_common()),
        steps=tuple(affected),
        named=named,
        globs=tuple(globs),
        version=_new_version(planned),
        num_acceptable=len(acceptable(planned, store, named, user="")) if is_whole else 0,
    )


def _own_changes(line: PlannedStep, affected: Mapping[str, bool]) -> list[str] | None:
    """Returns the changed files of a step; None if it does not run, or runs for another reason as well."""
    if line.state is not PlanState.RUN or line.forced or line.nearest is None:
        return None
    upstream = line.step.upstream_by_component()
    own = []
    for change in line.changes:
        if change.name.startswith("code."):
            own.append(_file(change.name.removeprefix("code.")))
        elif change.name.startswith(CODE_PARTS):
            own.append(str(change))
        elif upstream.get(change.name) not in affected:
            return None
    return own


def _kind(name: str) -> str:
    """Returns the first part of the name of a step, which means all steps with it."""
    return name.partition("/")[0]


def _file(module: str) -> str:
    """Returns the file of a module of this program; the name of another module, or of one that no longer exists.

    >>> _file("cluster.steps.plan"), _file("cluster.steps"), _file("numpy")
    ('cluster/steps/plan.py', 'cluster/steps/__init__.py', 'numpy')
    """
    path = module.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (ROOT / file).exists()), module)


def _new_version(planned: Plan) -> str:
    """Returns the version of this program if the results that no longer count are of another one."""
    current = versions().get(DISTRIBUTION, "")
    earlier = {line.nearest.versions.get(DISTRIBUTION, current) for line in planned if line.nearest is not None}
    return current if earlier - {current} else ""
