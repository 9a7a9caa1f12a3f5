"""Publishes a run: logs recipe, graph, plan, costs and report to the tracker, and writes the report files.

Provenance of a run: versions of packages, and the commit if this project runs from a git checkout.

The data that each step reads, for the tracker: the splits of the data steps, with the digests of their files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from cluster.provenance import provenance
from cluster.run.result import RunResult
from cluster.steps.code_digests import versions
from cluster.steps.plan import Plan, PlanState
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from cluster.tracking.run_logger import Dataset
from cluster.tracking.tracker import Tracker
from pipelines.kinds import KINDS, SETS
from pipelines.report.comparisons import flat_inits
from pipelines.report.leaderboard import flat_rows
from pipelines.report.page import charts, graph, writer
from pipelines.report.rounds import add_round
from pipelines.run.request import RunRequest
from stages.common.data.step_outputs import TEXTS_PER_SECOND

MEASURES = ("accuracy", "macro_f1")
"""Metrics of a row of the leaderboard that MLflow shows."""


def log_plan(tracker: Tracker, request: RunRequest, planned: Plan) -> None:
    """Logs the resolved recipe, the graph and the plan to the parent run, before any step runs.

    Parameters are the keys that the recipe sets; `recipe.yaml` has all.
    """
    tracker.parent.log_text("recipe.yaml", resolved_recipe(request))
    tracker.parent.log_text("graph.mmd", graph.mermaid(list(planned.steps.values())))
    rows = [
        {
            "state": item.state.value,
            "step": item.name,
            "fingerprint": item.fingerprint,
            "reason": "; ".join((*item.reasons, *item.notes)),
        }
        for item in planned
    ]
    tracker.parent.log_table("plan", rows)
    tracker.parent.log_params(own_keys(request.config))
    states = Counter(item.state for item in planned)
    reason = f"{states[PlanState.RUN]} of {len(planned)} steps to run"
    tracker.parent.set_tags({"step": request.config.name, "reason": reason})


def resolved_recipe(request: RunRequest) -> str:
    """Returns the recipe as YAML, with all defaults and overrides."""
    return yaml.safe_dump(request.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def publish(request: RunRequest, planned: Plan, result: RunResult, tracker: Tracker, console: Console) -> None:
    """Writes and logs the report if its step has a result, and prints the leaderboard.

    Args:
        request: The recipe and the store.
        planned: The plan of the run.
        result: The run.
        tracker: Logs the report to the parent run.
        console: Prints the leaderboard.
    """
    steps = list(planned.steps.values())
    manifests = {**planned.manifests, **result.manifests}  # of all steps, not only of the selected ones
    seconds = {name: manifests[name].seconds for name in planned.steps if name in manifests}
    counts = {
        "executed": len(result.executed),
        "cached": len(result.cached),
        "attempts": result.num_attempts,
        "wall_s": round(result.wall_s, 2),
    }
    manifest = result.manifests.get("report")
    if manifest is None:
        _log_costs(tracker, result, counts, seconds)
        return
    run = {**counts, "versions": versions(), "commit": provenance()["commit"]}
    classifiers = [step.name for step in steps if KINDS[step.kind].is_classifier and step.name in manifests]
    sizes = {name: _model_bytes(manifests[name]) for name in classifiers}
    speeds = {name: float(manifests[name].metrics.get(TEXTS_PER_SECOND, 0)) for name in classifiers}
    report = writer.build_report(request.config.name, manifest.result, seconds, run, sizes, speeds)
    files = request.store.files("report", manifest.fingerprint)
    folder = request.store.local / "reports" / request.config.name
    report["rounds"] = _rounds(request, planned, manifests, folder, report)
    details = json.loads((files / "details.json").read_text(encoding="utf-8"))
    writer.write_report(report, files / "leaderboard.png", folder, details, charts.graph_svg(steps, seconds))
    request.store.upload(folder)
    for name in ("report.json", "report.md", "report.png", "report.html"):
        tracker.parent.log_artifact(folder / name, "report")
    if result.executed:
        from pipelines.report.page.graph_plot import plot_graph  # noqa: PLC0415  (loads matplotlib)

        tracker.parent.log_figure("graph", plot_graph(steps, seconds))
    for image in sorted(files.glob("*.png")):
        tracker.parent.log_artifact(image, "figures")
    tracker.parent.describe(writer.report_summary(report))
    tracker.parent.log_table("leaderboard", flat_rows(report["rows"]))
    tracker.parent.log_table("prompt_inits", flat_inits(report["prompt_inits"]))
    tracker.parent.log_table("learning_curve", report["learning_curve"])
    if report["suggestions"]:
        tracker.parent.log_table("suggestions", report["suggestions"])
    means = {row["name"]: {name: row[name]["mean"] for name in MEASURES} for row in report["rows"]}
    metrics = {f"leaderboard/{row}/{name}": value for row, values in means.items() for name, value in values.items()}
    # The columns of the run in MLflow's table of runs are those of the classifier to use. The page of the run shows
    # what was logged first without scrolling.
    tracker.parent.log_metrics({**(means[report["delivered"]["row"]] if report["delivered"] else {}), **metrics})
    _log_costs(tracker, result, counts, seconds)
    console.print(writer.leaderboard_table(report, console.width))
    for note in report["notes"]:
        console.print(escape(note), style="dim", highlight=False)
    if report["delivered"]:
        use = f"{report['delivered']['row']}. {report['delivered']['reason']}{writer.speed_of_delivered(report)}"
        console.print(f"use       {escape(use)}", highlight=False, soft_wrap=True)
    for item in report["suggestions"]:
        if item["is_warning"]:
            text = escape(f"{item['evidence']} {item['action']}")
            console.print(f"warning   {text}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report    {escape(request.store.uri_of(folder / 'report.html'))}", highlight=False, soft_wrap=True)


def _model_bytes(manifest: Manifest) -> int:
    """Returns the size on disk of the classifier of a step."""
    return sum(entry.size for name, entry in manifest.files.items() if name.startswith("model/"))


def _rounds(
    request: RunRequest, planned: Plan, manifests: Mapping[str, Manifest], folder: Path, report: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns the rounds of labeling; none if the recipe names no file of `clozeline select`."""
    data = manifests.get(planned.steps[f"data/{request.config.task.name}"].name)
    if data is None:
        return []  # it was removed from the store during the run
    points = add_round(folder, report, data.files["test.jsonl"].sha256)
    return points if request.config.data.annotated is not None else []


def _log_costs(tracker: Tracker, result: RunResult, counts: Mapping[str, float], seconds: Mapping[str, float]) -> None:
    """Logs the cost of this run, and the cost of all its results when they were computed."""
    executed = sum(result.steps[name].seconds for name in result.executed)
    costs = {**counts, "executed_s": round(executed, 2), "results_s": round(sum(seconds.values()), 2)}
    metrics = {f"pipeline/{name}": float(value) for name, value in costs.items()}
    tracker.parent.log_metrics({**metrics, "seconds": counts["wall_s"]})
    rows = [
        {
            "step": name,
            "status": step.status.value,
            "seconds": round(step.seconds, 1),
            "attempts": step.attempts,
            "reason": step.reason,
        }
        for name, step in result.steps.items()
    ]
    tracker.parent.log_table("step_times", rows)


def own_keys(config: BaseModel) -> dict[str, Any]:
    """Returns the keys that a recipe and its overrides set, dotted, to compare runs key by key."""

    def items(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from items(value, f"{prefix}{key}.")
            elif value is not None:
                yield prefix + key, value

    return dict(items(config.model_dump(mode="json", exclude_unset=True)))


def run_tags() -> dict[str, str]:
    """Returns versions, command and commit as tags of a run. The commit has the name that MLflow shows."""
    tags = {f"version.{name}": value for name, value in versions().items()}
    origin = provenance()
    tags["command"] = origin["command"]
    if origin["commit"] is not None:
        tags["mlflow.source.git.commit"] = origin["commit"]
    if origin["is_changed"] is not None:
        tags["git.is_changed"] = str(origin["is_changed"]).lower()
    return tags


class Datasets:
    """Maps each step to the data that it reads or wrote. Skips empty splits, such as an unset dev set."""

    def __init__(self, planned: Plan, store: Store) -> None:
        self._planned = planned.lines
        self._store = store
        self._written: dict[str, dict[str, Dataset]] = {}

    def __call__(self, step: str) -> Sequence[Dataset]:
        """Returns the data of a step that are committed."""
        planned = self._planned.get(step)
        if planned is None:
            return ()
        reads = KINDS[planned.step.kind].reads
        sources = [item.name for item in (planned.step, *planned.step.upstream()) if item.kind == "data"]
        return [dataset for name in dict.fromkeys(sources) for key, dataset in self._sets(name).items() if key in reads]

    def all(self) -> Sequence[Dataset]:
        """Returns the data of the entire run."""
        names = [name for name, planned in self._planned.items() if planned.step.kind == "data"]
        return [dataset for name in names for dataset in self._sets(name).values()]

    def _sets(self, name: str) -> dict[str, Dataset]:
        """Returns the splits of a data step; nothing before it is committed."""
        planned = self._planned.get(name)
        if planned is not None and name not in self._written:
            manifest = planned.manifest or self._store.lookup(name, planned.fingerprint)
            if manifest is None:
                return {}
            self._written[name] = self._datasets(planned.step, manifest)
        return self._written.get(name, {})

    def _datasets(self, step: Step, manifest: Manifest) -> dict[str, Dataset]:
        folder = f"{self._store.url}/{step.name}/{manifest.fingerprint}/{manifest.folder}"
        return {
            key: Dataset(
                name=f"{step.labels['task']}/{key}",
                digest=entry.sha256,
                context=key,
                address=f"{folder}/{key}.jsonl",
                num_rows=_num_rows(manifest.result, key),
            )
            for key in SETS
            if (entry := manifest.files.get(f"{key}.jsonl")) is not None and entry.size > 0
        }


def _num_rows(result: Any, key: str) -> int | None:
    count = result.get(f"num_{key}") if isinstance(result, dict) else None
    return count if isinstance(count, int) else None
