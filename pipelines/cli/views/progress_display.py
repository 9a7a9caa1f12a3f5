"""Shows a run while it executes: one line per running step in a terminal, one line per event elsewhere.

Also selects the output: terminal, JSON (`--json`) or errors only (`--quiet`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar
from rich.text import Text

from cluster.run.events import (
    Event,
    Interrupted,
    RayStarting,
    StepBlocked,
    StepFailed,
    StepFinished,
    StepProgress,
    StepStarted,
    StepWaiting,
)
from cluster.run.result import RunResult
from pipelines.cli.views import json_events
from pipelines.cli.views.json_events import JsonEvents
from pipelines.cli.views.terminal import RedactingConsole, console, errors
from pipelines.run.request import Show

HEADLINE_METRICS = {
    "test/accuracy": "accuracy",
    "unlabeled/accuracy": "right on the pile",
    "held_out/accuracy": "held-out accuracy",
}
"""Curve -> what its last value is called; of a step's curves the first that it has is told when it ends."""
ROOMY = 100
"""Terminals with fewer characters do not have the time so far of each step."""
COUNT_WIDTH, LOSS_WIDTH, PACE_WIDTH, ELAPSED_WIDTH, LEFT_WIDTH = 11, 10, 7, 7, 12
"""Characters of what a line tells. Names and phases get what these leave; where all do not fit, rich cuts numbers."""


@contextmanager
def preflight_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for what happens before the run: call it with what begins, how much is done, and of how much."""
    columns = (SpinnerColumn(), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=escape(what), completed=done, total=total)
            if what.startswith("fetching") and not console.is_terminal:
                console.print(escape(what), highlight=False, soft_wrap=True)

        yield show


class ProgressDisplay:
    """Draws events. Use as a context manager around the run, and call it with each event."""

    def __init__(self, console: Console, num_steps: int) -> None:
        """
        Args:
            console: Where to draw.
            num_steps: Steps that will be executed.
        """
        self.console = console
        self.name_width = max(14, min(36, console.width // 4))
        elapsed = (TimeElapsedColumn(),) if console.width >= ROOMY else ()
        taken = self.name_width + COUNT_WIDTH + LEFT_WIDTH + 3 + (ELAPSED_WIDTH + 1 if elapsed else 0)
        self.info_width = max(LOSS_WIDTH + 1 + PACE_WIDTH, console.width - taken)
        self.progress = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            _InfoColumn(self.info_width),
            *elapsed,
            TextColumn("{task.fields[left]}", style="cyan"),
            console=console,
            transient=True,
            refresh_per_second=5,
            disable=not console.is_terminal,
        )
        self.whole = self.progress.add_task("[bold]steps", total=num_steps, info=None, left="")
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressDisplay:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Draws one event."""
        match event:
            case RayStarting():
                self._say("starting Ray", "dim")
            case StepStarted(step=step):
                name = escape(shortened(step, self.name_width))
                self.tasks[step] = self.progress.add_task(name, total=None, info="starting", left="")
                if not self.console.is_terminal:
                    self._say(f"started   {step}")
            case StepProgress():
                self._move(event)
            case StepFinished(step=step, seconds=seconds, cached=False, metrics=metrics):
                self._end(step)
                self._say(
                    "  ".join(filter(None, (f"done      {step}", f"{seconds:.0f} s", headline_metric(metrics)))),
                    "green",
                )
            case StepFailed(step=step, error=error, retry_in_s=None):
                self._end(step)
                self._say(f"failed    {step}: {error.error}", "red")
            case StepFailed(step=step, error=error, retry_in_s=pause):
                self._drop(step)
                self._say(f"again     {step} in {pause:.0f} s: {error.error}", "yellow")
            case StepBlocked(step=step, reason=reason):
                self._say(f"blocked   {step}: {reason}", "red")
            case Interrupted(at_once=True):
                # The process ends here; the cursor and the last line of the terminal must not stay as they are.
                self.progress.stop()
            case Interrupted(steps=steps):
                self._say(f"stopping  {', '.join(steps) or 'nothing runs'}; Ctrl-C again leaves at once", "yellow")
            case StepWaiting(step=step, owner=owner):
                self._say(f"waiting   {step} is being run by {owner}", "yellow")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(escape(text), style=style, highlight=False)

    def _move(self, event: StepProgress) -> None:
        if event.step not in self.tasks:
            return
        task = self.tasks[event.step]
        left = event.info.get("eta_s")
        self.progress.update(
            task,
            completed=event.done,
            total=event.total,
            info=_info(event.info, self.info_width),
            left="" if left is None else f"{_clock(float(left))} left",
        )

    def _drop(self, step: str) -> None:
        task = self.tasks.pop(step, None)
        if task is not None:
            self.progress.remove_task(task)

    def _end(self, step: str) -> None:
        self._drop(step)
        self.progress.advance(self.whole)


class _InfoColumn(ProgressColumn):
    """What a step does; of the whole, which has no words, a bar."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__()

    def render(self, task: Task) -> Text | ProgressBar:
        if task.fields["info"] is None:
            return ProgressBar(total=task.total, completed=task.completed, width=self.width)
        return Text(task.fields["info"], style="dim", no_wrap=True)


def shortened(name: str, width: int) -> str:
    """A step's name in `width` characters: its start stays, and more of its end, which has method and seed."""
    if len(name) <= width:
        return name
    tail = 2 * width // 3
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def headline_metric(figures: Mapping[str, float]) -> str:
    """`accuracy 80.2%`; nothing for a step that measures nothing."""
    found = next((name for name in HEADLINE_METRICS if name in figures), None)
    return "" if found is None else f"{HEADLINE_METRICS[found]} {figures[found]:.1%}"


def _info(info: Mapping[str, float | str], width: int) -> str:
    """Loss, pace and phase, each where it was before."""
    loss = f"loss {float(info['loss']):.3f}" if "loss" in info else ""
    pace = f"{float(info['examples_per_s']):,.0f}/s" if "examples_per_s" in info else ""
    figures = f"{loss:<{LOSS_WIDTH}} {pace:>{PACE_WIDTH}} "
    room = width - len(figures)
    phase = str(info.get("phase", ""))
    return (figures + (phase if len(phase) <= room else f"{phase[: max(0, room - 1)]}…")[: max(0, room)]).rstrip()


def _clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True, slots=True)
class OutputMode:
    """`console` for words, `events` for events; `finish` is called with the outcome and the exit status."""

    console: Console
    events: Show
    finish: Callable[[RunResult, int], None]


def select_output_mode(*, as_json: bool, is_quiet: bool) -> OutputMode:
    """What the options of the command line ask for. With both, nothing but the JSON objects is written."""
    words = RedactingConsole(stderr=True, quiet=True) if is_quiet else errors if as_json else console
    if as_json:
        stream = sys.stdout
        return OutputMode(
            words, lambda _, num_steps: JsonEvents(stream, num_steps), partial(json_events.write_finished, stream)
        )
    return OutputMode(words, ProgressDisplay, lambda outcome, exit_code: None)
