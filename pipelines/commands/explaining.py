"""Why a step runs, or does not: its key beside that of the nearest committed result, difference by difference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.keys.canonical import canonical
from cluster.keys.fingerprint import Difference, differences
from cluster.plan import PlannedStep, State, matching, plan
from cluster.step import Step
from cluster.storage.manifest import Manifest
from cluster.storage.store import Store
from pipelines.commands.planning import STYLES

SHOWN_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """One step. `nearest` is the committed result that `changes` compare with: that of a HIT, else the closest one.

    `notes` has, for an input that changed, what becomes of the upstream step.
    """

    line: PlannedStep
    nearest: Manifest | None
    changes: tuple[Difference, ...] = ()
    notes: dict[str, str]


def explain(steps: Iterable[Step], store: Store, names: Iterable[str]) -> list[Explanation]:
    """Explains the steps that `names` (or globs) stand for, upstream first.

    Raises:
        GraphError: no step is called so.
        FingerprintError: the identity of a step cannot be told.
    """
    lines = {line.name: line for line in plan(steps, store)}
    wanted = matching({name: line.step for name, line in lines.items()}, names)
    return [_explain(line, lines, store) for line in lines.values() if line.name in wanted]


def _explain(line: PlannedStep, lines: dict[str, PlannedStep], store: Store) -> Explanation:
    if line.manifest is not None:
        return Explanation(line=line, nearest=line.manifest, notes={})
    nearest = store.nearest(line.name, line.fingerprint, line.key.components)
    if nearest is None or store.inspect(line.name, line.fingerprint).problems:
        return Explanation(line=line, nearest=None, notes={})
    changes = differences(nearest.key, line.key.components)
    upstream = _upstream(line.step)
    notes = {change.name: _note(lines[name]) for change in changes if (name := upstream.get(change.name))}
    return Explanation(line=line, nearest=nearest, changes=changes, notes=notes)


def _note(line: PlannedStep) -> str:
    """What became of an upstream step; its own changes before those that it only passes on."""
    if line.state is State.HIT:
        return f"{line.name}, committed"
    own = [reason for reason in line.reasons if not reason.startswith("its upstream ")]
    verb = "runs" if line.state is State.RUN else "is blocked"
    return f"{line.name} {verb}: {'; '.join(own or line.reasons)}"


def _upstream(step: Step) -> dict[str, str]:
    """Component of the key, such as `inputs.members.0`, -> name of the step behind it."""
    names = {}
    for role, item in step.inputs.items():
        for index, one in enumerate(item) if isinstance(item, tuple) else [(None, item)]:
            names[f"inputs.{role}" + ("" if index is None else f".{index}")] = one.name
    return names


def show(explanation: Explanation, console: Console) -> None:
    """Prints it: a headline, the reasons of the plan, and a table of the differences."""
    line, nearest = explanation.line, explanation.nearest
    headline = Text.assemble((line.state.value, STYLES[line.state]), f" {line.name}  {line.fingerprint[:SHOWN_DIGITS]}")
    console.print(headline)
    if line.state is State.HIT and nearest is not None:
        console.print(f"  committed {_when(nearest)} with this very key; nothing differs", highlight=False)
        return
    if not explanation.changes:
        for reason in line.reasons:
            console.print(f"  {escape(reason)}", highlight=False, soft_wrap=True)
        return
    assert nearest is not None
    console.print(f"  nearest: {nearest.fingerprint[:SHOWN_DIGITS]}, committed {_when(nearest)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("  component", "committed", "now", ""):
        table.add_column(column, overflow="fold")
    for change in explanation.changes:
        about = explanation.notes.get(change.name, "")
        table.add_row(f"  {escape(change.name)}", _value(change, change.before), _value(change, change.after), about)
    console.print(table)


def _value(change: Difference, value: object) -> str:
    if value is None:
        return "-"
    if change.name.startswith(("code.", "inputs.", "assets.")):
        return str(value).rpartition(":")[2][:SHOWN_DIGITS]
    return escape(value if isinstance(value, str) else canonical(value))


def _when(manifest: Manifest) -> str:
    return f"{datetime.fromtimestamp(manifest.committed):%Y-%m-%d %H:%M:%S} on {manifest.host}"
