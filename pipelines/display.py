"""What a run shows while it runs: one line a running step in a terminal, one line an event elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.events import (
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


@contextmanager
def preparing(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for what happens before the run: call it with what begins, how much is done, and of how much."""
    columns = (SpinnerColumn(), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=escape(what), completed=done, total=total)
            if what.startswith("fetching") and not console.is_terminal:
                console.print(escape(what), highlight=False, soft_wrap=True)

        yield show


class Display:
    """Draws events. Use as a context manager around the run, and call it with each event."""

    def __init__(self, console: Console, num_steps: int) -> None:
        """
        Args:
            console: Where to draw.
            num_steps: Steps that will be executed.
        """
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.whole = self.progress.add_task("[bold]steps", total=num_steps, info="")
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
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
                self.tasks[step] = self.progress.add_task(step, total=None, info="")
                if not self.console.is_terminal:
                    self._say(f"started   {step}")
            case StepProgress():
                self._move(event)
            case StepFinished(step=step, seconds=seconds, cached=False):
                self._end(step)
                self._say(f"done      {step}  {seconds:.0f} s", "green")
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
        words = [str(event.info.get("phase", ""))]
        if "loss" in event.info:
            words.append(f"loss {float(event.info['loss']):.3f}")
        info = " ".join(filter(None, words))
        self.progress.update(self.tasks[event.step], completed=event.done, total=event.total, info=info)

    def _drop(self, step: str) -> None:
        task = self.tasks.pop(step, None)
        if task is not None:
            self.progress.remove_task(task)

    def _end(self, step: str) -> None:
        self._drop(step)
        self.progress.advance(self.whole)
