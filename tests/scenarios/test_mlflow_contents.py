"""What a person finds in MLflow after a run: pictures, tables and data of every step, and of the run as a whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml


class Tracked:
    """The database and the files of a store's runs."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.database = sqlite3.connect(store / "mlflow.db")

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        return self.database.execute(query, values).fetchall()

    def run(self, name: str) -> str:
        ((found,),) = self.rows("select run_uuid from runs where name = ?", name)
        return str(found)

    def files(self, name: str) -> dict[str, Path]:
        """Names of a run's files without their ends -> paths."""
        folder = self.store / "mlartifacts" / self.run(name) / "artifacts"
        return {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.*")}

    def table(self, name: str, table: str) -> list[dict[str, Any]]:
        found = json.loads(self.files(name)[f"tables/{table}"].read_text())
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]

    def values(self, kind: str, name: str) -> dict[str, Any]:
        return dict(self.rows(f"select key, value from {kind} where run_uuid = ?", self.run(name)))

    def data(self, name: str) -> dict[str, tuple[str, str]]:
        """Dataset -> digest and context."""
        found = self.rows(
            "select datasets.name, digest, input_tags.value from inputs join datasets on source_id = dataset_uuid "
            "join input_tags using (input_uuid) where destination_id = ? and input_tags.name = 'mlflow.data.context'",
            self.run(name),
        )
        return {dataset: (digest, context) for dataset, digest, context in found}


@pytest.fixture
def seen(smoke_run: tuple[Path, str]) -> Iterator[Tracked]:
    tracked = Tracked(smoke_run[0])
    yield tracked
    tracked.database.close()


PICTURES = {
    "pet/review/0": {"figures/confusion", "tables/per_class"},
    "zero_shot/review": {"figures/confusion", "tables/per_class"},
    "soft_labels": {
        "figures/agreement", "figures/entropy", "figures/confusion", "tables/weights", "tables/disputed",
    },
    "distill/0": {"figures/confusion", "figures/reliability", "figures/coverage", "tables/misclassified"},
    "baseline/0": {"figures/confusion", "figures/reliability", "figures/coverage"},
    "ppt/pair": {"figures/prompt_norms", "tables/examples", "tables/nearest_words"},
    "prompts/rotten_tomatoes/ppt/0": {"figures/prompt_norms", "figures/confusion", "tables/nearest_words"},
    "data/rotten_tomatoes": {"tables/train_examples"},
    "smoke": {
        "figures/graph", "figures/leaderboard", "tables/leaderboard", "tables/plan", "tables/times", "recipe",
        "report/report",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_a_run_has_its_pictures_and_tables(name: str, seen: Tracked) -> None:
    files = seen.files(name)
    assert PICTURES[name] <= set(files)
    for path in files.values():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG"), path
    for key in PICTURES[name]:
        if key.startswith("tables/"):
            assert seen.table(name, key.removeprefix("tables/")), f"{key} is empty"


def test_scores_have_the_same_names_in_every_step(seen: Tracked) -> None:
    statuses = "select name from runs join tags using (run_uuid) where key = 'step.status' and value = ?"
    names = [name for (name,) in seen.rows(statuses, "executed") if name != "report"]
    measured = [name for name in names if not name.startswith(("data/", "ppt/"))]
    assert len(measured) == 15
    groups = [name for (name,) in seen.rows(statuses, "group")]
    assert {"test/accuracy", "test/accuracy_std"} <= set(seen.values("latest_metrics", "pet"))
    assert {"pet", "distill", "baseline"} <= set(groups)
    for name in measured:
        metrics = set(seen.values("latest_metrics", name))
        assert {"test/accuracy", "test/macro_f1", "test/mcc", "test/ece", "step/seconds"} <= metrics, name


def test_sub_models_show_their_accuracy_before_and_after(seen: Tracked) -> None:
    metrics = seen.values("latest_metrics", "pet/review/0")
    assert {"train/accuracy_before_training", "train/accuracy", "train/loss", "train/learning_rate"} <= set(metrics)
    assert "train/accuracy" not in seen.values("latest_metrics", "zero_shot/review"), "nothing was trained"


def test_steps_name_their_data_by_the_digest_of_the_files(seen: Tracked) -> None:
    (manifest,) = (seen.store / "data" / "rotten_tomatoes").rglob("manifest.json")
    files = json.loads(manifest.read_text())["files"]
    digests = {name: files[f"{name}.jsonl"]["sha256"][:32] for name in ("train", "unlabeled", "test")}
    whole = {f"rotten_tomatoes/{name}": (digest, name) for name, digest in digests.items()}
    assert seen.data("pet/review/0") == seen.data("data/rotten_tomatoes") == whole
    assert set(seen.data("distill/0")) == {"rotten_tomatoes/unlabeled", "rotten_tomatoes/test"}
    assert set(seen.data("smoke")) == {*whole, "plot_or_quote/train", "plot_or_quote/test"}
    ((source,),) = seen.rows("select dataset_source from datasets where name = 'rotten_tomatoes/train'")
    path = Path(json.loads(source)["uri"])
    assert path == manifest.parent / "files" / "train.jsonl"
    assert path.exists()


def test_the_pipelines_run_says_what_it_was_made_with_and_what_it_cost(seen: Tracked) -> None:
    tags, params, metrics = (seen.values(kind, "smoke") for kind in ("tags", "params", "latest_metrics"))
    assert {"version.python", "version.torch", "version.ray", "version.transformers"} <= set(tags)
    assert tags["mlflow.note.content"].startswith("# smoke\n")
    resolved = yaml.safe_load(seen.files("smoke")["recipe"].read_text())
    assert float(params["distill.training.learning_rate"]) == resolved["distill"]["loop"]["learning_rate"]
    assert params["task.name"] == "rotten_tomatoes"
    times = seen.table("smoke", "times")
    assert {row["status"] for row in times} == {"executed"}
    assert metrics["pipeline/executed_s"] == pytest.approx(sum(row["seconds"] for row in times), abs=1)
    assert metrics["pipeline/results_s"] == metrics["pipeline/executed_s"]


def test_the_leaderboard_is_a_table_of_plain_values(seen: Tracked) -> None:
    report = json.loads((seen.store / "reports" / "smoke" / "report.json").read_text())
    table = {row["name"]: row for row in seen.table("smoke", "leaderboard")}
    assert set(table) == {row["name"] for row in report["rows"]}
    assert all(table[row["name"]]["accuracy"] == row["accuracy"]["mean"] for row in report["rows"])
    assert all(table[row["name"]]["accuracy_std"] == row["accuracy"]["std"] for row in report["rows"])


def test_the_page_shows_every_curve_and_the_graph(seen: Tracked) -> None:
    page = (seen.store / "reports" / "smoke" / "report.html").read_text()
    for row in ("pet/review", "student", "baseline", "ppt/pair", "prompts/plot_or_quote/random"):
        assert f"<h3>{row}</h3>" in page
    assert 'aria-label="Graph of the steps, from data to report"' in page
    report = json.loads((seen.store / "reports" / "smoke" / "report.json").read_text())
    assert {item["rule"] for item in report["advice"]} >= {"small_test"}
    assert page.count('class="next"') == 1
    assert set(report["step_seconds"]) >= {"distill/0", "report"}
