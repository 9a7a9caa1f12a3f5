"""Figures, tables, metrics and data of a run in MLflow."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.run.publication import own_keys
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe


class Tracked:
    """The database and the files of a store's runs."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.database = sqlite3.connect(store / "mlflow.db")

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        return self.database.execute(query, values).fetchall()

    def run(self, name: str) -> str:
        ((run_id,),) = self.rows("select run_uuid from runs where name = ?", name)
        return str(run_id)

    def files(self, name: str) -> dict[str, Path]:
        """Returns name without suffix -> path, for all files of a run."""
        folder = self.store / "mlartifacts" / self.run(name) / "artifacts"
        return {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.*")}

    def table(self, name: str, table: str) -> list[dict[str, Any]]:
        content = json.loads(self.files(name)[f"tables/{table}"].read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

    def values(self, kind: str, name: str) -> dict[str, Any]:
        return dict(self.rows(f"select key, value from {kind} where run_uuid = ?", self.run(name)))

    def data(self, name: str) -> dict[str, tuple[str, str]]:
        """Returns dataset -> digest and context."""
        rows = self.rows(
            "select datasets.name, digest, input_tags.value from inputs join datasets on source_id = dataset_uuid "
            "join input_tags using (input_uuid) where destination_id = ? and input_tags.name = 'mlflow.data.context'",
            self.run(name),
        )
        return {dataset: (digest, context) for dataset, digest, context in rows}


@pytest.fixture
def tracked(smoke_run: tuple[Path, str]) -> Iterator[Tracked]:
    contents = Tracked(smoke_run[0])
    yield contents
    contents.database.close()


FILES = {
    "pet/review/0": {"figures/confusion", "tables/per_class"},
    "zero_shot/review": {"figures/confusion", "tables/per_class"},
    "soft_labels": {
        "figures/agreement", "figures/entropy", "figures/confusion", "tables/weights", "tables/disagreements",
    },
    "distill/small/0": {"figures/confusion", "figures/reliability", "figures/coverage", "tables/misclassified"},
    "baseline/small/0": {"figures/confusion", "figures/reliability", "figures/coverage"},
    "ppt/pair": {"figures/prompt_norms", "tables/examples", "tables/nearest_words"},
    "prompts/rotten_tomatoes/ppt/0": {"figures/prompt_norms", "figures/confusion", "tables/nearest_words"},
    "data/rotten_tomatoes": {"tables/train_examples"},
    "smoke": {
        "figures/graph", "figures/leaderboard", "tables/leaderboard", "tables/plan", "tables/step_times", "recipe",
        "report/report",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_runs_have_figures_and_tables(name: str, tracked: Tracked) -> None:
    files = tracked.files(name)
    assert FILES[name] <= set(files)
    for path in files.values():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG"), path
    for key in FILES[name]:
        if key.startswith("tables/"):
            assert tracked.table(name, key.removeprefix("tables/")), f"{key} is empty"


def test_metrics_have_the_same_names_in_all_steps(tracked: Tracked) -> None:
    statuses = "select name from runs join tags using (run_uuid) where key = 'step.status' and value = ?"
    names = [name for (name,) in tracked.rows(statuses, "executed") if name != "report"]
    measured = [name for name in names if not name.startswith(("data/", "ppt/"))]
    assert len(measured) == 15
    groups = [name for (name,) in tracked.rows(statuses, "group")]
    assert {"test/accuracy", "test/accuracy_std"} <= set(tracked.values("latest_metrics", "pet"))
    assert {"pet", "distill", "baseline"} <= set(groups)
    for name in measured:
        metrics = set(tracked.values("latest_metrics", name))
        assert {"test/accuracy", "test/macro_f1", "test/mcc", "test/ece", "step/seconds"} <= metrics, name


def test_sub_models_have_held_out_accuracy_and_accuracy_after_training(tracked: Tracked) -> None:
    metrics = tracked.values("latest_metrics", "pet/review/0")
    assert {"train/held_out_accuracy", "train/accuracy", "train/loss", "train/learning_rate"} <= set(metrics)
    assert "train/accuracy" not in tracked.values("latest_metrics", "zero_shot/review"), "zero-shot steps do not train"


def test_runs_have_datasets_with_the_digests_of_their_files(tracked: Tracked) -> None:
    (manifest,) = (tracked.store / "data" / "rotten_tomatoes").rglob("manifest.json")
    fields = json.loads(manifest.read_text())
    files = fields["files"]
    digests = {name: files[f"{name}.jsonl"]["sha256"][:32] for name in ("train", "unlabeled", "test")}
    datasets = {f"rotten_tomatoes/{name}": (digest, name) for name, digest in digests.items()}
    assert tracked.data("pet/review/0") == tracked.data("data/rotten_tomatoes") == datasets
    assert set(tracked.data("distill/small/0")) == {"rotten_tomatoes/unlabeled", "rotten_tomatoes/test"}
    assert set(tracked.data("smoke")) == {*datasets, "plot_or_quote/train", "plot_or_quote/test"}
    ((source,),) = tracked.rows("select dataset_source from datasets where name = 'rotten_tomatoes/train'")
    path = Path(json.loads(source)["uri"])
    assert path == manifest.parent / fields["folder"] / "train.jsonl"
    assert path.exists()


def test_pipeline_run_has_versions_params_and_costs(tracked: Tracked) -> None:
    tags, params, metrics = (tracked.values(kind, "smoke") for kind in ("tags", "params", "latest_metrics"))
    assert {"version.python", "version.torch", "version.ray", "version.transformers"} <= set(tags)
    assert tags["mlflow.note.content"].startswith("Use student/small.")
    assert len(tags["mlflow.note.content"]) < 500, "the metrics below it are visible without scrolling"
    resolved = yaml.safe_load(tracked.files("smoke")["recipe"].read_text())
    assert float(params["distill.training.learning_rate"]) == resolved["distill"]["training"]["learning_rate"]
    assert params["task.name"] == "rotten_tomatoes"
    own = own_keys(read_recipe(find_recipe("smoke"), PipelineConfig))
    assert set(params) == set(own) and len(own) < 60, "keys that the recipe sets, without defaults"
    times = tracked.table("smoke", "step_times")
    assert {row["status"] for row in times} == {"executed"}
    assert metrics["pipeline/executed_s"] == pytest.approx(sum(row["seconds"] for row in times), abs=1)
    assert metrics["pipeline/results_s"] == metrics["pipeline/executed_s"]


def test_all_runs_have_the_same_columns(tracked: Tracked) -> None:
    row = next(row for row in tracked.table("smoke", "leaderboard") if row["name"] == "student/small")
    for name in ("smoke", "pet", "pet/review/0", "distill/small/0"):
        metrics, tags = tracked.values("latest_metrics", name), tracked.values("tags", name)
        assert {"accuracy", "macro_f1", "seconds"} <= set(metrics), name
        assert tags["step"] == name
    assert tracked.values("latest_metrics", "smoke")["accuracy"] == row["accuracy"]
    assert tracked.values("latest_metrics", "smoke")["macro_f1"] == row["macro_f1"]
    assert tracked.values("tags", "pet/review/0")["reason"] == "never run"
    assert tracked.values("tags", "smoke")["reason"].endswith("steps to run")


def test_steps_have_the_params_that_differ_from_defaults(tracked: Tracked) -> None:
    params = tracked.values("params", "pet/review/0")
    assert {"pattern", "seed", "training.learning_rate"} <= set(params)
    assert len(params) < 20
    assert len(tracked.values("params", "report")) < 20


def test_leaderboard_table_has_plain_values(tracked: Tracked) -> None:
    report = json.loads((tracked.store / "reports" / "smoke" / "report.json").read_text())
    table = {row["name"]: row for row in tracked.table("smoke", "leaderboard")}
    assert set(table) == {row["name"] for row in report["rows"]}
    assert all(table[row["name"]]["accuracy"] == row["accuracy"]["mean"] for row in report["rows"])
    assert all(table[row["name"]]["accuracy_std"] == row["accuracy"]["std"] for row in report["rows"])


def test_page_shows_all_curves_and_the_graph(tracked: Tracked) -> None:
    page = (tracked.store / "reports" / "smoke" / "report.html").read_text()
    for row in ("pet/review", "student/small", "baseline/small", "ppt/pair", "prompts/plot_or_quote/random"):
        assert f"<h3>{row}</h3>" in page
    assert 'aria-label="Graph of the steps, from data to report"' in page
    report = json.loads((tracked.store / "reports" / "smoke" / "report.json").read_text())
    assert {item["rule"] for item in report["suggestions"]} >= {"small_test"}
    assert page.count('class="suggestions"') == 1
    assert set(report["step_seconds"]) >= {"distill/small/0", "report"}
