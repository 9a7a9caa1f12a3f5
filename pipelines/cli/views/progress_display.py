"""Shows a run while it executes: one line per running step in a terminal.

Elsewhere, such as in the log of a CI job: one line per event, and one with the progress every half minute.

Also selects the output of a run: terminal, JSON (`--json`) or errors only (`--quiet`).
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
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
    StepQueued,
    StepStarted,
    StepStartedAgain,
    StepWaiting,
    Warned,
)
from cluster.run.result import RunResult
from pipelines.cli.views import json_events
from pipelines.cli.views.json_events import JsonEvents
from pipelines.cli.views.terminal import RedactingConsole, console, errors
from pipelines.run.progress import clock, progress_text
from pipelines.run.request import RunDisplay

HEADLINE_METRICS = {
    "test/pearson": "Pearson correlation",
    "test/micro_f1": "micro-F1",
    "test/accuracy": "accuracy",
    "unlabeled/accuracy": "accuracy on unlabeled data",
    "held_out/accuracy": "held-out accuracy",
}
"""Metric -> its name on the terminal. When a step finishes, the first of its metrics in this order is shown."""
PRINT_EVERY_S, MAX_STEPS_IN_LINE = 30.0, 4
"""Of the line with the progress, where the output is no terminal."""
MIN_WIDTH_FOR_ELAPSED = 100
"""Narrower terminals do not show the elapsed time of each step."""
MAX_ROWS = 16
"""Steps that wait for machines are shown while there are fewer rows than this."""
COUNT_WIDTH, LOSS_WIDTH, PACE_WIDTH, ELAPSED_WIDTH, LEFT_WIDTH = 11, 10, 7, 7, 12
"""Widths of the columns in characters. Name and phase get the rest of the line."""


@contextmanager
def preflight_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar for the checks and downloads before a run. Yields a function: (task, number done, total)."""
    columns = (SpinnerColumn(), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=None)

        def on_start(name: str, num_done: int, total: int) -> None:
            progress.update(task, description=escape(name), completed=num_done, total=total)
            if name.startswith("fetching") and not console.is_terminal:
                console.print(escape(name), highlight=False, soft_wrap=True)

        yield on_start


class ProgressDisplay:
    """Shows events. Use it as a context manager around the run, and call it with each event."""

    def __init__(self, console: Console, num_steps: int, remaining: Callable[[], float | None]) -> None:
        """
        Args:
            console: The terminal or stream.
            num_steps: Steps that will be executed.
            remaining: Returns the seconds that the run still takes, if they are known.
        """
        self.console = console
        self.remaining = remaining
        self.name_width = max(14, min(36, console.width // 4))
        elapsed = (TimeElapsedColumn(),) if console.width >= MIN_WIDTH_FOR_ELAPSED else ()
        used = self.name_width + COUNT_WIDTH + LEFT_WIDTH + 3 + (ELAPSED_WIDTH + 1 if elapsed else 0)
        self.info_width = max(LOSS_WIDTH + 1 + PACE_WIDTH, console.width - used)
        self.progress = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            _InfoColumn(self.info_width),
            *elapsed,
            _LeftColumn(remaining),
            console=console,
            transient=True,
            refresh_per_second=5,
            disable=not console.is_terminal,
        )
        self.total = self.progress.add_task("[bold]steps", total=num_steps, info=None, left="")
        self.tasks: dict[str, TaskID] = {}
        self.num_steps, self.num_finished = num_steps, 0
        self.latest: dict[str, str] = {}
        """Running step -> its progress."""
        self.queued: dict[str, str] = {}
        """Step that waits for machines -> what it waits for."""
        self.waiting: dict[str, str] = {}
        """Step that waits for something else -> what it waits for."""
        self.is_ray_starting = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_printing, name="progress lines", daemon=True)

    def __enter__(self) -> ProgressDisplay:
        self.progress.start()
        if not self.console.is_terminal:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case RayStarting():
                self.is_ray_starting = True
                self._print("starting Ray", "dim")
            case StepQueued(step=step, waits_for=waits_for):
                self._queue(step, waits_for)
            case StepStarted(step=step):
                self._remove(step)
                name = escape(shortened(step, self.name_width))
                self.tasks[step] = self.progress.add_task(name, total=None, info="starting", left="")
                self.latest[step] = "starting"
                if not self.console.is_terminal:
                    self._print(f"started   {step}")
            case StepStartedAgain(step=step, ratio=ratio):
                self._print(f"started   {step} again on another node: {ratio:.1f} times as long as others", "yellow")
            case StepProgress():
                self._update(event)
            case StepFinished(step=step, seconds=seconds, cached=False, metrics=metrics):
                self._finish(step)
                self._print(
                    "  ".join(filter(None, (f"finished  {step}", f"{seconds:.0f} s", headline_metric(metrics)))),
                    "green",
                )
            case StepFinished(step=step):  # a result of another driver, or of an earlier run
                self._remove(step)
            case StepFailed(step=step, error=error, retry_in_s=None):
                self._finish(step)
                self._print(f"failed    {step}: {error.error}", "red")
            case StepFailed(step=step, error=error, retry_in_s=pause):
                self._remove(step)
                self.waiting[step] = "to be tried again"
                self._print(f"retrying  {step} in {pause:.0f} s: {error.error}", "yellow")
            case StepBlocked(step=step, reason=reason):
                self._remove(step)
                self._print(f"blocked   {step}: {reason}", "red")
            case Interrupted(at_once=True):
                # The process ends now: restore the cursor and the last line.
                self.progress.stop()
            case Interrupted(steps=steps):
                self._print(f"stopping  {', '.join(steps) or 'run'}; press Ctrl-C again to exit immediately", "yellow")
            case Warned(problem=problem, remedy=remedy):
                self._print(f"warning   {problem} {remedy}".rstrip(), "yellow")
            case StepWaiting(step=step, owner=owner):
                self._remove(step)
                self.waiting[step] = f"run by another driver ({owner})"
                self._print(f"waiting   {step}: another driver runs it ({owner})", "yellow")

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(escape(text), style=style, highlight=False)

    def _queue(self, step: str, waits_for: str) -> None:
        """Shows a step that waits for machines: as a line of its own, as long as there are not too many.

        Without a terminal, the line with the progress counts the steps that wait while others run.
        """
        self._remove(step)
        self.queued[step] = waits_for
        if self.console.is_terminal:
            if len(self.tasks) < MAX_ROWS:
                name = escape(shortened(step, self.name_width))
                self.tasks[step] = self.progress.add_task(name, total=None, info=f"waiting for {waits_for}", left="")
        elif not self.latest:
            self._print(f"queued    {step}: waiting for {waits_for}")

    def _update(self, event: StepProgress) -> None:
        if event.step not in self.tasks:
            return
        self.latest[event.step] = progress_text(event.done, event.total, event.info)
        task = self.tasks[event.step]
        left = event.info.get("eta_s")
        self.progress.update(
            task,
            completed=event.done,
            total=event.total,
            info=_info(event.info, self.info_width),
            left="" if left is None else f"{clock(float(left))} left",
        )

    def _remove(self, step: str) -> None:
        self.is_ray_starting = False
        for steps in (self.latest, self.queued, self.waiting):
            steps.pop(step, None)
        task = self.tasks.pop(step, None)
        if task is not None:
            self.progress.remove_task(task)

    def _finish(self, step: str) -> None:
        self._remove(step)
        self.num_finished += 1
        self.progress.advance(self.total)

    def _keep_printing(self) -> None:
        while not self._done.wait(PRINT_EVERY_S):
            running = list(self.latest.items())
            shown = [f"{name} {text}" for name, text in running[:MAX_STEPS_IN_LINE]]
            if len(running) > len(shown):
                shown.append(f"{len(running) - len(shown)} more")
            shown += [f"{num} queued for {what}" for what, num in Counter(list(self.queued.values())).items()]
            shown += [f"{num} {what}" for what, num in Counter(list(self.waiting.values())).items()]
            if self.is_ray_starting:
                shown.append("Ray is starting")
            if shown:
                seconds = self.remaining()
                left = "" if seconds is None else f", about {clock(seconds)} left"
                line = f"{self.num_finished}/{self.num_steps} steps done{left}; {'; '.join(shown)}"
                self.console.print(
                    escape(f"{'running' if running else 'waiting'}   {line}"), highlight=False, soft_wrap=True
                )


class _LeftColumn(ProgressColumn):
    """The time that a step needs for its phase; in the line of all steps that of the run."""

    def __init__(self, remaining: Callable[[], float | None]) -> None:
        self.remaining = remaining
        super().__init__()

    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        if task.fields["info"] is None:
            seconds = self.remaining()
            left = "" if seconds is None else f"{clock(seconds)} left"
        return Text(left, style="cyan")


class _InfoColumn(ProgressColumn):
    """Loss, pace and phase of a step; a bar in the line of all steps, which has no info."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__()

    def render(self, task: Task) -> Text | ProgressBar:
        if task.fields["info"] is None:
            return ProgressBar(total=task.total, completed=task.completed, width=self.width)
        return Text(task.fields["info"], style="dim", no_wrap=True)


def shortened(name: str, width: int) -> str:
    """Shortens a step name to `width` characters. Keeps more of the end, which has method and seed."""
    if len(name) <= width:
        return name
    tail = 2 * width // 3
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def headline_metric(metrics: Mapping[str, float]) -> str:
    """Returns `accuracy 80.2%`, or nothing if the step measured nothing."""
    return next((f"{text} {metrics[name]:.1%}" for name, text in HEADLINE_METRICS.items() if name in metrics), "")


def _info(info: Mapping[str, float | str], width: int) -> str:
    """Returns loss, pace and phase in fixed columns."""
    loss = f"loss {float(info['loss']):.3f}" if "loss" in info else ""
    pace = f"{float(info['examples_per_s']):,.0f}/s" if "examples_per_s" in info else ""
    numbers = f"{loss:<{LOSS_WIDTH}} {pace:>{PACE_WIDTH}} "
    room = width - len(numbers)
    phase = str(info.get("phase", ""))
    return (numbers + (phase if len(phase) <= room else f"{phase[: max(0, room - 1)]}…")[: max(0, room)]).rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputMode(RunDisplay):
    """The display of a run. `finish` is called with its result and exit status."""

    finish: Callable[[RunResult, int], None]


def select_output_mode(*, as_json: bool, is_quiet: bool) -> OutputMode:
    """Returns the display that the options select. With both, only the JSON objects are written."""
    messages = RedactingConsole(stderr=True, quiet=True) if is_quiet else errors if as_json else console
    stream = sys.stdout
    return OutputMode(
        console=messages,
        progress=preflight_progress,
        events=(
            (lambda _, num_steps, remaining: JsonEvents(stream, num_steps))
            if as_json
            else (lambda console, num_steps, remaining: ProgressDisplay(console, num_steps, remaining.seconds))
        ),
        finish=partial(json_events.write_finished, stream) if as_json else lambda result, exit_code: None,
    )
