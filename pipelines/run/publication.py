"""Publishes a run: logs recipe, graph, plan, costs and report to the tracker, and writes the report files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from cluster.run.result import RunResult
from cluster.steps.code_digests import versions
from cluster.steps.plan import Plan
from cluster.steps.step import Step
from cluster.store.manifest import Manifest
from cluster.tracking.tracker import Tracker
from pipelines.report.comparisons import flat_inits
from pipelines.report.page import charts, graph, writer
from pipelines.report.page.graph_plot import plot_graph
from pipelines.run import provenance
from pipelines.run.request import RunRequest


def log_plan(tracker: Tracker, request: RunRequest, steps: list[Step], planned: Plan) -> None:
    """What the parent run shows before anything runs: the resolved recipe, the graph, the plan."""
    resolved = yaml.safe_dump(request.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    tracker.parent.log_text("recipe.yaml", resolved)
    tracker.parent.log_text("graph.mmd", graph.mermaid(steps))
    rows = [
        {
            "state": line.state.value,
            "step": line.name,
            "fingerprint": line.fingerprint,
            "reason": "; ".join((*line.reasons, *line.notes)),
        }
        for line in planned
    ]
    tracker.parent.log_table("plan", rows)
    tracker.parent.log_params({"recipe": request.config.name, "steps": len(steps), **flat(request.config)})


def publish(
    request: RunRequest,
    steps: list[Step],
    outcome: RunResult,
    manifests: Mapping[str, Manifest],
    tracker: Tracker,
    console: Console,
) -> None:
    """Writes the report, if its step has a result, and shows the leaderboard."""
    # `manifests` has all results of the recipe, also those of steps that this run did not select.
    results = [manifests[step.name] for step in steps if step.name in manifests]
    seconds = {item.step: item.seconds for item in results}
    figures = {"executed": len(outcome.executed), "cached": len(outcome.cached), "wall_s": round(outcome.wall_s, 2)}
    _log_costs(tracker, outcome, figures, seconds)
    manifest = outcome.manifests.get("report")
    if manifest is None:
        return
    commit = provenance.git_commit()
    about = {**figures, "versions": versions(), "commit": commit[0] if commit else None}
    report = writer.build_report(request.config.name, manifest.result, seconds, about)
    report["notes"] += [f"{item.step} is {note}." for item in results for note in item.acceptances]
    files = request.store.files("report", manifest.fingerprint)
    folder = request.store.local / "reports" / request.config.name
    details = json.loads((files / "details.json").read_text())
    writer.write_report(report, files / "leaderboard.png", folder, details, charts.graph_svg(steps, seconds))
    request.store.upload(folder)
    for name in ("report.json", "report.md", "report.png", "report.html"):
        tracker.parent.log_artifact(folder / name, "report")
    if outcome.executed:
        tracker.parent.log_figure("graph", plot_graph(steps, seconds))
    for picture in sorted(files.glob("*.png")):
        tracker.parent.log_artifact(picture, "figures")
    tracker.parent.describe(writer.report_markdown(report))
    tracker.parent.log_table("leaderboard", writer.flat_rows(report))
    tracker.parent.log_table("starts", flat_inits(report["starts"]))
    tracker.parent.log_table("learning_curve", report["learning_curve"])
    if report["advice"]:
        tracker.parent.log_table("next", report["advice"])
    tracker.parent.log_metrics(
        {
            f"leaderboard/{row['name']}/{name}": row[name]["mean"]
            for row in report["rows"]
            for name in ("accuracy", "macro_f1")
        }
    )
    console.print(writer.leaderboard_table(report, console.width))
    for note in report["notes"]:
        console.print(escape(note), style="dim", highlight=False)
    console.print(f"report  {escape(request.store.uri_of(folder / 'report.html'))}", highlight=False, soft_wrap=True)


def _log_costs(
    tracker: Tracker, outcome: RunResult, figures: Mapping[str, float], seconds: Mapping[str, float]
) -> None:
    """What this run cost, and what all of its results together did when they were made."""
    executed = sum(outcome.steps[name].seconds for name in outcome.executed)
    costs = {**figures, "executed_s": round(executed, 2), "results_s": round(sum(seconds.values()), 2)}
    tracker.parent.log_metrics({f"pipeline/{name}": float(value) for name, value in costs.items()})
    rows = [
        {"step": name, "status": step.status.value, "seconds": round(step.seconds, 1), "why": step.reason}
        for name, step in outcome.steps.items()
    ]
    tracker.parent.log_table("times", rows)


def flat(config: BaseModel) -> dict[str, Any]:
    """The resolved recipe with dotted names, so that two runs can be compared key by key; what is not set is left out.

    Names and patterns are free text: a dot in them stays what it is.
    """
    found: dict[str, Any] = {}
    waiting = list(config.model_dump(mode="json").items())
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting = [(f"{name}.{key}", item) for key, item in value.items()] + waiting
        elif value is not None:
            found[name] = value
    return found
