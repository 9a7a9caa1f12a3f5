"""Searches the settings of a recipe's prompts within a time budget: runs rungs of trials until no further one fits.

The settings of the recipe are tried first, in full length. They are what others have to beat, and their duration is
the estimate for further trials. Then brackets of other settings follow (`halving.py`). Trials are steps like all
others, so the store keeps them: a search that is repeated reads their results, and continues where the first one ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from rich.markup import escape

from cluster.errors import StepFailedError, StoreError
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.plan import Plan, PlanState, plan
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.garbage import ActiveRun, active_run, enter_recipe
from cluster.store.lease import Leases
from cluster.tracking.server import Destination
from cluster.tracking.sync import fetch_waiting, hand_over_waiting
from cluster.tracking.tracker import Tracker
from pipelines.dag.fewshot import build_steps, key_options
from pipelines.run.publication import Datasets, own_keys, resolved_recipe, run_tags
from pipelines.run.remaining import BYTES_PER_TOKEN, Sizes, step_seconds
from pipelines.run.request import RunDisplay, RunRequest, check_machine, check_request
from pipelines.run.runner import run_events, tracking_server
from pipelines.search.checks import check_candidate, check_enough_labels, check_searchable
from pipelines.search.halving import Rung, bracket
from pipelines.search.space import Candidate, own_candidates, proposals
from pipelines.search.trials import KIND, NUM_FOLDS, Trial, TrialResult, TrialSteps, trial_rows
from stages.common.data.step_outputs import read_correct
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.training.evaluation import HELD_OUT_FILE
from stages.splits.config import SplitsConfig
from stages.splits.stage import sample_splits


@dataclass(slots=True)
class SearchResult:
    """The trials of a search, and how it ended.

    Args:
        trials: All results, in the order in which they were committed.
        failed: Step of a trial -> why it has no result. Such a candidate goes no further.
        left_out: Reason -> methods that the recipe or its backbone does not support.
        ended: Why no further trial was started.
        num_proposed: Settings that could be tried, without those of the recipe.
        num_executed: Trials that this search executed.
        wall_s: Duration in seconds.
        signal: Number of the signal that ended the search; 0 if none did.
    """

    trials: list[TrialResult] = field(default_factory=list)
    failed: dict[str, StepFailedError] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    ended: str = ""
    num_proposed: int = 0
    num_executed: int = 0
    wall_s: float = 0.0
    signal: int = 0

    @property
    def own(self) -> TrialResult | None:
        """The best setting of the recipe."""
        return self._best([item for item in self.trials if item.trial.candidate.is_own])

    @property
    def winner(self) -> TrialResult | None:
        """The best setting of all that were trained in full length. Of equally good ones, that of the recipe."""
        return self._best([item for item in self.trials if item.trial.is_complete])

    @staticmethod
    def _best(results: Sequence[TrialResult]) -> TrialResult | None:
        return min(results, key=_rank, default=None)


class Difference(NamedTuple):
    """A difference of two accuracies on the same examples, and its standard error."""

    mean: float
    standard_error: float


def _rank(result: TrialResult) -> tuple[float, float, bool]:
    return (*result.held_out.rank, not result.trial.candidate.is_own)


def search_prompts(request: RunRequest, budget_s: float, options: RunOptions, display: RunDisplay) -> SearchResult:
    """Searches for settings of the prompts of a recipe.

    Args:
        request: The recipe and the store.
        budget_s: Seconds after which no further rung starts, if it would end later.
        options: How to run steps.
        display: Shows the search.

    Raises:
        InputError: the recipe cannot be searched; nothing was run.
    """
    check_searchable(request.config)
    with display.progress(display.console) as on_start:
        warnings = check_request(request, on_start)
    for warning in warnings:
        display.console.print(f"warning   {escape(warning)}", style="yellow", highlight=False, soft_wrap=True)
    steps = TrialSteps(request.config, {step.name: step for step in build_steps(request.config)})
    assert isinstance(steps.data.config, SplitsConfig)
    train_set = sample_splits(steps.data.config).train
    check_enough_labels(request.config, train_set, NUM_FOLDS)
    start = time.monotonic()
    with Leases(options.ttl_s) as leases, active_run(request.store, leases) as active:
        with suppress(StoreError):  # the next run tries again
            fetch_waiting(request.store, leases)
        search = _Search(request, options, display, leases, active, steps, train_set)
        with search.tracked(budget_s) as tracker:
            search.run(tracker, start + budget_s)
            search.result.wall_s = time.monotonic() - start
            _log_result(tracker, search.result)
        try:
            hand_over_waiting(request.store)
        except StoreError as error:
            display.console.print(f"warning   the records for MLflow stay on this machine: {escape(error.problem)}")
    return search.result


class _Search:
    """One search: runs rungs, and estimates from those that ended whether the next one fits."""

    def __init__(
        self,
        request: RunRequest,
        options: RunOptions,
        display: RunDisplay,
        leases: Leases,
        active: ActiveRun,
        steps: TrialSteps,
        train_set: Sequence[Example],
    ) -> None:
        self.result = SearchResult()
        self._request = request
        self._options = options
        self._display = display
        self._leases = leases
        self._active = active
        self._steps = steps
        self._num_labeled = len(train_set)
        num_bytes = sum(len(text.encode()) for item in train_set for text in item.fields.values())
        self._sizes = Sizes(train=len(train_set), tokens=max(1.0, num_bytes / len(train_set) / BYTES_PER_TOKEN))
        self._datasets: Datasets | None = None
        self._entered: dict[str, str] = {}
        """Step -> fingerprint of all trials, and of the steps that they read."""
        self._estimated_s = self._measured_s = 0.0
        """Of the rungs that ended."""

    @contextmanager
    def tracked(self, budget_s: float) -> Iterator[Tracker]:
        """Yields the tracker whose parent run is this search, next to the runs of the recipe."""
        name, store = self._request.config.name, self._request.store
        destination = Destination(store.local, name, tracking_server() or "")
        tags = {"recipe": name, "search": "prompts", "step": f"{name}.search", **run_tags()}
        with Tracker.open(
            store.local, name, f"{name}.search", uri=destination.uri, tags=tags,
            datasets=lambda step: self._datasets(step) if self._datasets else (),
        ) as tracker:  # fmt: skip
            tracker.parent.log_text("recipe.yaml", resolved_recipe(self._request))
            tracker.parent.log_params({"search.budget_s": budget_s, **own_keys(self._request.config)})
            yield tracker
            if self.result.signal:
                tracker.close("KILLED")
        for problem in tracker.new_problems():
            self._display.console.print(f"warning   {escape(problem)} Results are not affected.", style="yellow")
        if tracker.runs_page:
            self._display.console.print(f"runs      {escape(tracker.runs_page)}", highlight=False, soft_wrap=True)

    def run(self, tracker: Tracker, deadline: float) -> None:
        """Runs rungs until the deadline, or until all settings were tried."""
        config = self._request.config
        own = own_candidates(config, self._num_labeled)
        num_steps = max(item.training.steps or 0 for item in own)
        rungs = bracket(num_steps)
        if not self._run_rung(own, len(rungs), None, tracker, math.inf) or not self.result.trials:
            return
        known = [item.setting for item in own]
        proposed = [item for item in proposals(config, num_steps) if item.setting not in known]
        self.result.num_proposed = len(proposed)
        suitable, waiting = self._suitable(proposed), list[Candidate]()
        while waiting := waiting + list(islice(suitable, rungs[0].num_candidates - len(waiting))):
            first = self._first_rung(rungs, waiting, deadline)
            if first is None:
                return
            candidates, waiting = waiting[: rungs[first].num_candidates], waiting[rungs[first].num_candidates :]
            for number, rung in enumerate(rungs[first:], first + 1):
                if not self._run_rung(candidates[: rung.num_candidates], number, rung.num_steps, tracker, deadline):
                    return
                candidates = self._ranked(candidates, rung.num_steps)
        self.result.ended = "all settings were tried"

    def _first_rung(self, rungs: Sequence[Rung], waiting: Sequence[Candidate], deadline: float) -> int | None:
        """Returns with which rung the next bracket starts: the shortest one from which all rungs fit, or None.

        A bracket that an earlier search has started continues.
        """
        left_s, needed_s = deadline - time.monotonic(), 0.0
        for first, rung in enumerate(rungs):
            if first + 1 < len(rungs) and len(waiting) <= rungs[first + 1].num_candidates:
                continue  # all of them would go on
            trials = [self._steps.trial(item, first + 1, rung.num_steps) for item in waiting[: rung.num_candidates]]
            if any(item.state is PlanState.CACHED and item.step.kind == KIND for item in self._plan(trials)):
                return first
            needed_s = sum(
                self._expected_s([self._steps.trial(waiting[0], first + 1, later.num_steps).step])
                * min(later.num_candidates, len(waiting))
                for later in rungs[first:]
            )
            if needed_s <= left_s:
                return first
        self._end(f"{rungs[-1].num_candidates} trials in full length", needed_s, left_s)
        return None

    def _end(self, trials: str, needed_s: float, left_s: float) -> None:
        left = f"{max(0.0, left_s) / 60:.1f} minutes of the budget are left"
        self.result.ended = f"{trials} need about {needed_s / 60:.1f} minutes, and {left}"

    def _plan(self, trials: Sequence[Trial]) -> Plan:
        options = key_options(self._request.config)
        return plan([item.step for item in trials], self._request.store, self._options, options)

    def _expected_s(self, steps: Iterable[Step]) -> float:
        """Returns the seconds that steps will take, at the pace of the trials so far."""
        pace = self._measured_s / self._estimated_s if self._estimated_s else 1.0
        return pace * sum(step_seconds(step, self._sizes) for step in steps)

    def _suitable(self, proposed: Sequence[Candidate]) -> Iterator[Candidate]:
        """Yields the candidates with which the recipe can run."""
        for candidate in proposed:
            try:
                check_candidate(self._request.config, candidate)
            except InputError as error:
                self.result.num_proposed -= 1
                methods = self.result.left_out.setdefault(error.problem, [])
                if candidate.prompt.method not in methods:
                    methods.append(candidate.prompt.method)
                continue
            yield candidate

    def _ranked(self, candidates: Sequence[Candidate], num_steps: int) -> list[Candidate]:
        """Returns the candidates that have a result after a number of steps, the best first."""
        names = {item.name for item in candidates}
        results = [
            item
            for item in self.result.trials
            if item.trial.num_steps == num_steps and item.trial.candidate.name in names
        ]
        return [item.trial.candidate for item in sorted(results, key=_rank)]

    def _run_rung(
        self, candidates: Sequence[Candidate], number: int, num_steps: int | None, tracker: Tracker, deadline: float
    ) -> bool:
        """Runs the trials of a rung, or the first of them if not all fit. Returns False if none fits, or after Ctrl-C.

        Args:
            candidates: The candidates, the best first.
            number: Number of the rung, from 1.
            num_steps: Training steps of each. None: in full length.
            tracker: Logs the steps.
            deadline: Time of the clock at which the rung must end.
        """
        if not candidates:  # all trials of the rung before have failed
            return True
        trials = [self._steps.trial(item, number, num_steps or item.training.steps or 0) for item in candidates]
        planned = self._plan(trials)
        fitting = self._fitting(trials, planned, deadline)
        if not fitting:
            return False
        if len(fitting) < len(trials):
            trials, planned = fitting, self._plan(fitting)
        config, store = self._request.config, self._request.store
        to_run = [item.step for item in planned if item.state is PlanState.RUN]
        self._enter(planned)
        check_machine(self._request, self._options, planned)
        self._datasets = Datasets(planned, store)
        self._display.console.print(
            f"{config.name}: rung {number}, {len(trials)} trials of up to {max(item.num_steps for item in trials)} "
            f"steps, {len(to_run)} steps to run",
            highlight=False,
        )
        with run_events(self._display, len(to_run), planned, store, self._active) as on_event:
            result = execute(planned, store, self._options, tracker, on_event, self._leases)
        self._add(trials, result, [step for step in to_run if step.name in result.executed])
        return not result.signal

    def _fitting(self, trials: Sequence[Trial], planned: Plan, deadline: float) -> list[Trial]:
        """Returns the first trials that end before the deadline. Those that are committed take no time."""
        names = {item.step.name for item in trials}
        to_run = {item.name: item.step for item in planned if item.state is PlanState.RUN}
        left_s = deadline - time.monotonic()
        needed_s = self._expected_s(step for name, step in to_run.items() if name not in names)
        fitting: list[Trial] = []
        for trial in trials:
            if trial.step.name in to_run:
                needed_s += self._expected_s([trial.step])
                if needed_s > left_s:
                    break
            fitting.append(trial)
        if not fitting:
            self._end(f"trials of {trials[0].num_steps} steps", needed_s, left_s)
        return fitting

    def _enter(self, planned: Plan) -> None:
        """Makes `gc` keep the results of the search, as if it were the last run of a recipe."""
        store = self._request.store
        self._entered |= {step: key.fingerprint for step, key in planned.keys.items()}
        self._active.keep(self._entered)
        enter_recipe(store, f"{self._request.config.name}.search", resolved_recipe(self._request), self._entered)

    def _add(self, trials: Sequence[Trial], result: RunResult, executed: Sequence[Step]) -> None:
        """Adds what a rung led to, and how long it took compared with its estimate."""
        self.result.signal = result.signal
        self.result.failed |= result.errors
        names = {step.name for step in executed}
        added = [
            TrialResult.of(trial, manifest, is_cached=trial.step.name not in names)
            for trial in trials
            if (manifest := result.manifests.get(trial.step.name)) is not None
        ]
        self.result.trials += added
        self.result.num_executed += sum(not item.is_cached for item in added)
        if executed:
            self._estimated_s += sum(step_seconds(step, self._sizes) for step in executed)
            self._measured_s += result.wall_s
        elif not self._measured_s:  # an earlier search has measured the first rung
            self._estimated_s = sum(step_seconds(item.trial.step, self._sizes) for item in added)
            self._measured_s = sum(item.seconds for item in added)


def difference(store: Store, winner: TrialResult, own: TrialResult) -> Difference:
    """Returns how much more accurate one trial is than another, on the same examples."""
    correct = [
        read_correct(store.files(item.trial.step.name, item.fingerprint) / HELD_OUT_FILE) for item in (winner, own)
    ]
    gains = np.array([float(correct[0][uid]) - float(correct[1][uid]) for uid in correct[1]])
    return Difference(float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains))))


def _log_result(tracker: Tracker, result: SearchResult) -> None:
    """Logs the trials and the best setting to the run of the search."""
    tracker.parent.log_table("trials", trial_rows(result.trials))
    counts = {"search/num_trials": len(result.trials), "search/num_executed": result.num_executed}
    metrics = {name: float(value) for name, value in {**counts, "seconds": result.wall_s}.items()}
    if result.winner:
        metrics["train/held_out_accuracy"] = result.winner.held_out.accuracy
        tracker.parent.set_tags({"winner": result.winner.trial.candidate.name})
    tracker.parent.log_metrics(metrics)
