"""Publishes a run: logs recipe, graph, plan, costs and report to the tracker, and writes the report files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from cluster.run.result import RunResult
from cluster.steps.code_digests import versions
from cluster.steps.plan import Plan
from cluster.tracking.tracker import Tracker
from pipelines.report.comparisons import flat_inits
from pipelines.report.leaderboard import flat_rows
from pipelines.report.page import charts, graph, writer
from pipelines.report.page.graph_plot import plot_graph
from pipelines.run import provenance
from pipelines.run.request import RunRequest


def log_plan(tracker: Tracker, request: RunRequest, planned: Plan) -> None:
    """Logs the resolved recipe, the graph and the plan to the parent run, before any step runs."""
    resolved = yaml.safe_dump(request.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    tracker.parent.log_text("recipe.yaml", resolved)
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
    tracker.parent.log_params({"recipe": request.config.name, "steps": len(planned.steps), **flat(request.config)})


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
    counts = {"executed": len(result.executed), "cached": len(result.cached), "wall_s": round(result.wall_s, 2)}
    _log_costs(tracker, result, counts, seconds)
    manifest = result.manifests.get("report")
    if manifest is None:
        return
    commit = provenance.git_commit()
    run = {**counts, "versions": versions(), "commit": commit[0] if commit else None}
    report = writer.build_report(request.config.name, manifest.result, seconds, run)
    files = request.store.files("report", manifest.fingerprint)
    folder = request.store.local / "reports" / request.config.name
    details = json.loads((files / "details.json").read_text())
    writer.write_report(report, files / "leaderboard.png", folder, details, charts.graph_svg(steps, seconds))
    request.store.upload(folder)
    for name in ("report.json", "report.md", "report.png", "report.html"):
        tracker.parent.log_artifact(folder / name, "report")
    if result.executed:
        tracker.parent.log_figure("graph", plot_graph(steps, seconds))
    for image in sorted(files.glob("*.png")):
        tracker.parent.log_artifact(image, "figures")
    tracker.parent.describe(writer.report_markdown(report))
    tracker.parent.log_table("leaderboard", flat_rows(report["rows"]))
    tracker.parent.log_table("prompt_inits", flat_inits(report["prompt_inits"]))
    tracker.parent.log_table("learning_curve", report["learning_curve"])
    if report["suggestions"]:
        tracker.parent.log_table("suggestions", report["suggestions"])
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
    console.print(f"report    {escape(request.store.uri_of(folder / 'report.html'))}", highlight=False, soft_wrap=True)


def _log_costs(tracker: Tracker, result: RunResult, counts: Mapping[str, float], seconds: Mapping[str, float]) -> None:
    """Logs the cost of this run, and the cost of all its results when they were computed."""
    executed = sum(result.steps[name].seconds for name in result.executed)
    costs = {**counts, "executed_s": round(executed, 2), "results_s": round(sum(seconds.values()), 2)}
    tracker.parent.log_metrics({f"pipeline/{name}": float(value) for name, value in costs.items()})
    rows = [
        {"step": name, "status": step.status.value, "seconds": round(step.seconds, 1), "reason": step.reason}
        for name, step in result.steps.items()
    ]
    tracker.parent.log_table("step_times", rows)


def flat(config: BaseModel) -> dict[str, Any]:
    """Returns the resolved recipe with dotted keys, to compare runs key by key. Omits keys without a value."""

    def items(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from items(value, f"{prefix}{key}.")
            elif value is not None:
                yield prefix + key, value

    return dict(items(config.model_dump(mode="json")))
