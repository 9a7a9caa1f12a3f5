"""The plan as a table in the terminal: state, fingerprint, reason and memory of each step.

Explains why a step runs: compares its cache key with the nearest committed one.

Also prints the command that resumes a run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.canonical_json import canonical
from cluster.run.result import RunOptions, RunResult
from cluster.steps.code_changes import CodeChanges
from cluster.steps.plan import Plan, PlannedStep, PlanState, matching
from cluster.steps.step import Step, graph
from cluster.store.base import Store
from cluster.store.manifest import Difference, Manifest, differences
from pipelines.preflight.memory import MemoryRow

STYLES = {PlanState.CACHED: "green", PlanState.RUN: "yellow", PlanState.BLOCKED: "red"}


def plan_table(planned: Iterable[PlannedStep], memory: Mapping[str, MemoryRow] | None = None) -> Table:
    """Returns one row per step: its state, the start of its fingerprint, the reason, and the memory per worker.

    The reason is why the step runs or is blocked. For a cached step it names who accepted the result, and the libraries
    that have another version now.
    """
    table = Table(box=None, pad_edge=False)
    memory = memory or {}
    for column in ("state", "step", "fingerprint", "reason", *(["memory/worker"] if memory else [])):
        table.add_column(column, overflow="fold", no_wrap=column == "step")
    for line in planned:
        state = Text(line.state.value, style=STYLES[line.state])
        needed = memory.get(line.name)
        size = [Text(needed.text(), style="" if needed.fits else "red") if needed else ""] if memory else []
        reason = Text("\n".join((*line.reasons, *line.notes)))
        table.add_row(state, line.name, line.fingerprint[:12], reason, *size)
    return table


MAX_SHOWN = 3
"""Changed files that the summary of code changes names."""


def code_change_lines(changes: CodeChanges, recipe: str) -> list[str]:
    """Returns what changed code makes a run do, and what `accept` would do instead.

    Args:
        changes: The steps that run only because of it.
        recipe: As typed.
    """
    files = ", ".join(changes.changed[:MAX_SHOWN])
    if (num_more := len(changes.changed) - MAX_SHOWN) > 0:
        files = f"{files} and {num_more} more"
    origin = f" in clozeline {changes.version}" if changes.version else ""
    steps = "1 step" if len(changes.steps) == 1 else f"{len(changes.steps)} steps"
    lines = [f"{steps} would rerun because {files} changed{origin}."]
    if changes.num_acceptable:
        command = shlex.join(["clozeline", "accept", recipe, *changes.globs])
        kept = "1 result" if changes.num_acceptable == 1 else f"{changes.num_acceptable} results"
        lines.append(f"If the change does not affect results: {command} keeps {kept}.")
    return lines


SHOWN_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why one step runs or is cached.

    Args:
        planned_step: The step in the plan.
        nearest: The committed result that it is compared with: its own if the step is cached, else the nearest one.
        changes: What differs between the two keys.
        notes: Component of the key -> state of the upstream step, for inputs that changed.
    """

    planned_step: PlannedStep
    nearest: Manifest | None
    changes: tuple[Difference, ...] = ()
    notes: dict[str, str]


def explain_steps(planned: Plan, store: Store, names: Iterable[str]) -> list[Explanation]:
    """Explains the steps that `names` or globs match, upstream first.

    Raises:
        GraphError: no step matches.
    """
    matched = matching(planned.steps, names)
    return [_explain(line, planned.lines, store) for line in planned if line.name in matched]


def _explain(line: PlannedStep, lines: Mapping[str, PlannedStep], store: Store) -> Explanation:
    if line.manifest is not None:
        return Explanation(planned_step=line, nearest=line.manifest, notes={})
    nearest = store.nearest(line.name, line.fingerprint, line.key.components)
    if nearest is None or store.inspect(line.name, line.fingerprint).problems:
        return Explanation(planned_step=line, nearest=None, notes={})
    changes = differences(nearest.key, line.key.components)
    upstream = line.step.upstream_by_component()
    notes = {change.name: _note(lines[name]) for change in changes if (name := upstream.get(change.name))}
    return Explanation(planned_step=line, nearest=nearest, changes=changes, notes=notes)


def _note(line: PlannedStep) -> str:
    """Describes the state of an upstream step: its own changes if it has any, else those that it inherits."""
    if line.state is PlanState.CACHED:
        return f"{line.name}, committed"
    own = [reason for reason in line.reasons if not reason.startswith("its upstream ")]
    verb = "runs" if line.state is PlanState.RUN else "is blocked"
    return f"{line.name} {verb}: {'; '.join(own or line.reasons)}"


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Prints a headline, and the differences of the keys; without another key the reasons of the plan, and the key."""
    line, nearest = explanation.planned_step, explanation.nearest
    headline = Text.assemble((line.state.value, STYLES[line.state]), f" {line.name}  {line.fingerprint[:SHOWN_DIGITS]}")
    console.print(headline)
    if line.state is PlanState.CACHED and nearest is not None:
        console.print(f"  committed {_when(nearest)} with the same key; nothing differs", highlight=False)
        for note in line.notes:
            console.print(f"  {escape(note)}", highlight=False, soft_wrap=True)
        return
    if not explanation.changes:
        for reason in line.reasons:
            console.print(f"  {escape(reason)}", highlight=False, soft_wrap=True)
        console.print(_key_table(line))
        return
    assert nearest is not None
    console.print(f"  nearest: {nearest.fingerprint[:SHOWN_DIGITS]}, committed {_when(nearest)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("  component", "committed", "now", ""):
        table.add_column(column, overflow="fold")
    for change in explanation.changes:
        note = explanation.notes.get(change.name, "")
        before, after = _value(change.name, change.before), _value(change.name, change.after)
        table.add_row(f"  {escape(change.name)}", before, after, note)
    console.print(table)


def _key_table(line: PlannedStep) -> Table:
    """Returns the key of a step, one row per component."""
    table = Table(box=None, pad_edge=False)
    for column in ("  component", "now"):
        table.add_column(column, overflow="fold")
    for name, value in line.key.components.items():
        table.add_row(f"  {escape(name)}", _value(name, value))
    return table


def _value(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name.startswith(("code.", "inputs.", "assets.")):
        return str(value).rpartition(":")[2][:SHOWN_DIGITS]
    return escape(value if isinstance(value, str) else canonical(value))


def _when(manifest: Manifest) -> str:
    return f"{datetime.fromtimestamp(manifest.committed_at):%Y-%m-%d %H:%M:%S} on {manifest.host}"


def resume_command(
    recipe: str,
    overrides: Sequence[str],
    store: str,
    options: RunOptions,
    steps: Iterable[Step],
    outcome: RunResult,
    register: bool = True,
) -> str:
    """Returns the command, for a shell, that continues a run with the same options.

    Steps that the run was forced to execute and that it finished are not forced again.

    Args:
        recipe: As typed.
        overrides: As typed.
        store: Its folder or URL.
        options: The options of the run.
        steps: The graph.
        outcome: The result of the run.
        register: The run registers models.
    """
    words = ["clozeline", "run", recipe]
    words += [word for item in overrides for word in ("-o", item)]
    for flag, names in (("--from", options.from_), ("--until", options.until), ("--only", options.only)):
        words += [word for name in names for word in (flag, name)]
    words += [word for name in _still_forced(options, steps, outcome) for word in ("--force", name)]
    if options.keep_going:
        words.append("--keep-going")
    if options.max_parallel is not None:
        words += ["--max-parallel", str(options.max_parallel)]
    if options.speculation is not None:
        words += ["--speculate", f"{options.speculation.factor:g}"]
    if options.verify:
        words.append("--verify")
    if not register:
        words.append("--no-register")
    words += ["--store", store]
    if options.address is not None:
        words += ["--address", options.address]
    return shlex.join(words)


def _still_forced(options: RunOptions, steps: Iterable[Step], outcome: RunResult) -> list[str]:
    """Returns the globs as typed or, if some of their steps finished, the names of the others."""
    if not options.force:
        return []
    nodes = graph(steps)
    forced = [name for name in nodes if name in matching(nodes, options.force) and name in outcome.steps]
    rest = [name for name in forced if name not in outcome.executed]
    return list(options.force) if len(rest) == len(forced) else rest
