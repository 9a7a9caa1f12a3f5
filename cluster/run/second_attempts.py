"""The steps of a run that have two attempts: whose records and end count. See `cluster.run.speculation`.

The first attempt to commit wins. A failure counts when no other attempt of the step is left. Nothing here has an
effect: the scheduler passes on, cancels, commits and removes what the methods return.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cluster.errors import StepFailedError
from cluster.run.capacity import Machine
from cluster.run.ray_tasks import FinishedTask
from cluster.run.speculation import RunningTask, SlowTask, Speculation, find_slow, peers, with_room
from cluster.run.state import StepState
from cluster.steps.step import Step
from cluster.store.manifest import Manifest
from cluster.tracking.recorder import LogBatch

SEARCH_EVERY_S = 2.0
"""Seconds between two searches for slow steps."""
LOSER_WITHIN_S, GIVE_UP_AFTER_S = 10.0, 15.0
"""After a commit the other attempt gets this long to end. Then its process is killed, and awaited until it is given up,
because its machine may not answer.
"""


class Tasks(Protocol):
    """What the search for slow steps reads of `TaskPool`."""

    def running(self) -> list[RunningTask]:
        """Returns first attempts that run in one process."""

    def queued(self) -> list[Machine]:
        """Returns what the steps that wait request."""

    def free(self) -> Mapping[str, Machine]:
        """Returns what no task uses, by node."""


@dataclass(slots=True, eq=False)
class _Race:
    """Two attempts of a step, by the tokens of their leases.

    `held` are records of the second attempt, which count if the first one has ended. `ended` is the attempt that ended
    without a result while the other one ran. `loser` is the attempt that is to end, as the step does not need it.
    """

    first: str
    second: str
    ratio: float
    withdraw_at_s: float
    has_started: bool = False
    held: list[LogBatch] = field(default_factory=list)
    ended: FinishedTask | None = None
    loser: str = ""
    lost_at_s: float = 0.0

    def other(self, token: str) -> str:
        """Returns the token of the other attempt."""
        return self.first if token == self.second else self.second


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """What the end of an attempt means.

    Args:
        result: The end of the step; None if it has another attempt.
        earlier: The attempt that ended before, without a result, and whose lease is to be released.
        records: Records of a second attempt that count now.
        cancel: Token of the attempt that is to end; empty if none is.
        loser: An attempt that ended and is not needed, whose files are to be removed.
        problem: What to tell the user.
    """

    result: FinishedTask | None = None
    earlier: FinishedTask | None = None
    records: tuple[LogBatch, ...] = ()
    cancel: str = ""
    loser: FinishedTask | None = None
    problem: str = ""


class SecondAttempts:
    """The second attempts of one run.

    Args:
        rule: When a step gets one; None: never.
        clock: Monotonic seconds; tests pass their own.
    """

    def __init__(self, rule: Speculation | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rule = rule
        self._clock = clock
        self._look_at_s = 0.0
        self._finished_s: dict[Hashable, list[float]] = defaultdict(list)
        """Peers -> the seconds that those took which finished in this run."""
        self._races: dict[str, _Race] = {}
        """Token -> the race in which it takes part."""
        self._doubled: set[str] = set()
        """Steps that had a second attempt. None gets another one."""

    def add_finished(self, step: Step, seconds: float) -> None:
        """Takes note of how long a step took."""
        if self._rule is not None and step.kind in self._rule.kinds:
            self._finished_s[peers(step)].append(seconds)

    def find(self, tasks: Tasks, steps: Mapping[str, StepState], room: int) -> list[SlowTask]:
        """Returns the attempts of slow steps that are to get a second one; at most `room`."""
        if self._rule is None or room < 1 or self._clock() < self._look_at_s:
            return []
        self._look_at_s = self._clock() + SEARCH_EVERY_S
        running = [
            (task, self._finished_s[peers(steps[task.step].step)])
            for task in tasks.running()
            if task.step not in self._doubled and steps[task.step].step.kind in self._rule.kinds
        ]
        slow = find_slow(running, self._rule)
        return with_room(slow, tasks.free(), tasks.queued())[:room] if slow else []

    def add(self, slow: SlowTask, token: str) -> None:
        """Takes note of a second attempt that was submitted with `token`."""
        assert self._rule is not None
        race = _Race(slow.task.token, token, slow.ratio, self._clock() + self._rule.min_s)
        self._races |= {race.first: race, race.second: race}
        self._doubled.add(slow.task.step)

    def ratio_of(self, token: str) -> float | None:
        """Returns how many times as long as its peers the step takes whose second attempt has `token`, if any has."""
        race = self._races.get(token)
        return race.ratio if race is not None and race.second == token else None

    def passes(self, batch: LogBatch) -> bool:
        """Returns True if records count now. Keeps those of a second attempt while the first one runs."""
        race = self._races.get(batch.token)
        if race is None:
            return True
        if batch.token == race.loser:
            return False
        if batch.token == race.first or race.ended is not None:
            return True
        race.has_started |= batch.started is not None
        batch.started = None
        race.held.append(batch)
        return False

    def end(self, task: FinishedTask) -> End:
        """Returns what the end of an attempt means."""
        race = self._races.pop(task.token, None)
        if race is None:
            return End(result=task)
        if task.token == race.loser:
            return End(loser=task)
        is_second, other = task.token == race.second, race.other(task.token)
        if isinstance(task.outcome, Manifest):
            records = tuple(race.held) if is_second else ()
            if race.ended is not None:
                return End(result=task, records=records, loser=race.ended)
            return End(result=task, records=records, cancel=self._lose(race, other))
        if race.ended is not None:
            return _failed(task, race.ended)
        if not race.has_started:
            if is_second:
                del self._races[other]
                if task.outcome is None:  # withdrawn
                    self._doubled.discard(task.step)
                return End(problem=_problem(task))
            return End(result=task, cancel=self._lose(race, other))
        race.ended = task
        records = () if is_second else tuple(race.held)
        race.held.clear()
        return End(records=records, problem=_problem(task))

    def overdue(self) -> list[str]:
        """Returns the tokens of second attempts that no node has room for, which are to be withdrawn."""
        now_s = self._clock()
        return [
            token
            for token, race in self._races.items()
            if token == race.second and not race.has_started and not race.loser and now_s > race.withdraw_at_s
        ]

    def stuck(self) -> list[str]:
        """Returns the tokens of attempts that do not end although they lost."""
        now_s = self._clock()
        return [token for token, race in self._losers() if now_s > race.lost_at_s + LOSER_WITHIN_S]

    @property
    def awaits_losers(self) -> bool:
        """True while attempts end whose step has a result."""
        now_s = self._clock()
        return any(now_s < race.lost_at_s + GIVE_UP_AFTER_S for _, race in self._losers())

    def _losers(self) -> list[tuple[str, _Race]]:
        return [(token, race) for token, race in self._races.items() if token == race.loser]

    def _lose(self, race: _Race, token: str) -> str:
        race.loser, race.lost_at_s = token, self._clock()
        return token


def _failed(task: FinishedTask, earlier: FinishedTask) -> End:
    """The end of a step whose attempts both have no result: a failure, rather than a lost lease or a stop."""
    failures = [item.outcome for item in (task, earlier) if isinstance(item.outcome, StepFailedError)]
    for failure in failures:  # the next attempt gets a number that neither of them had
        failure.attempt = max(item.attempt for item in failures)
    if isinstance(earlier.outcome, StepFailedError) and not isinstance(task.outcome, StepFailedError):
        task, earlier = earlier, task
    return End(result=task, earlier=earlier)


def _problem(task: FinishedTask) -> str:
    """Returns the failure of an attempt in one line; nothing for one that was stopped or lost its lease."""
    if not isinstance(task.outcome, StepFailedError):
        return ""
    return (
        f"attempt {task.outcome.attempt} of {task.step} failed ({task.outcome.error}); its attempt on another node "
        "continues."
    )
