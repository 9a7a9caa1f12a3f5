"""One run with soft prompts of all kinds: batched training, sub-models with prompts, predictions for several tasks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.slow

METHODS = "prompts.methods={v2: {method: p_tuning_v2, num_virtual_tokens: 3}, ppt: {init: ppt}}"
BATCHED = "prompts.batched_training=true"
SUBMODELS = ("pet.tune=prompt", "pet.prompt={num_virtual_tokens: 4}", "pet.batched_training=true")
SOFT = "task.patterns.soft='{text} {soft:2} is {mask}.'"
SOFT_WORDS = "task.verbalizer={rotten: [bad], fresh: [good]}"


@pytest.fixture(scope="module")
def soft_run(tmp_path_factory: pytest.TempPathFactory, clozeline: Clozeline) -> tuple[Path, list[str]]:
    """The store of a run with batched training, and the options of its command."""
    store = tmp_path_factory.mktemp("soft") / "store"
    overrides = [
        "name=soft",
        SOFT,
        SOFT_WORDS,
        "pet.patterns=[review, soft]",
        *SUBMODELS,
        METHODS,
        BATCHED,
        "zero_shot=false",
    ]
    options = [word for override in overrides for word in ("-o", override)] + ["--store", str(store)]
    done = clozeline("run", "smoke", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return store, options


def test_a_run_with_batched_training_has_a_row_per_method(
    soft_run: tuple[Path, list[str]], clozeline: Clozeline
) -> None:
    store, options = soft_run
    report = json.loads((store / "reports" / "soft" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    tasks = ("rotten_tomatoes", "plot_or_quote")
    assert {f"prompts/{task}/{method}" for task in tasks for method in ("v2", "ppt")} <= set(rows)
    assert rows["pet/review"]["trainable_parameters"] == 2 * rows["pet/soft"]["trainable_parameters"], "4 and 2 vectors"
    again = clozeline("run", "smoke", *options)
    assert "0 steps executed" in again.stdout


def test_predict_uses_the_prompt_of_the_task_of_each_line(
    soft_run: tuple[Path, list[str]], clozeline: Clozeline, tmp_path: Path
) -> None:
    store, options = soft_run
    rows = [
        {"task": ("rotten_tomatoes", "plot_or_quote")[number % 2], "text": f"The film number {number}."}
        for number in range(7)
    ]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = clozeline("predict", "smoke", "--prompts", "v2", "--input", str(tmp_path / "mixed.jsonl"), *options)
    assert done.returncode == 0, done.stderr
    predictions = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["task"] for row in predictions] == [row["task"] for row in rows]
    labels = {"rotten_tomatoes": {"rotten", "fresh"}, "plot_or_quote": {"plot", "quote"}}
    assert all(set(row["probabilities"]) == labels[row["task"]] for row in predictions)
    folder = next((store / "prompts" / "plot_or_quote" / "v2" / "0").glob("*/files/*"))
    alone = clozeline("predict", str(folder), "--input", "-", stdin="The film number 1.\n")
    assert alone.returncode == 0, alone.stderr
    one = json.loads(alone.stdout)
    assert one["label"] == predictions[1]["label"]
    assert one["probabilities"] == pytest.approx(predictions[1]["probabilities"], abs=1e-3)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "A film."}', "stdin:1: no row can be labeled: the field task is missing"),
        (
            '{"task": "weather", "text": "A film."}',
            "stdin:1: no row can be labeled: the task 'weather' has no prompt here",
        ),
        ('{"task": "plot_or_quote"}', "stdin:1: no row can be labeled: the field 'text' is missing"),
        ("A film.", "stdin has plain lines, but this model reads several values per row"),
    ],
)
def test_predict_rejects_lines_without_a_known_task(
    line: str, problem: str, soft_run: tuple[Path, list[str]], clozeline: Clozeline
) -> None:
    done = clozeline("predict", "smoke", "--prompts", "v2", "--input", "-", *soft_run[1], stdin=line + "\n")
    assert done.returncode == 2
    assert problem in done.stderr


def test_predict_lists_the_methods_for_an_unknown_one(soft_run: tuple[Path, list[str]], clozeline: Clozeline) -> None:
    done = clozeline("predict", "smoke", "--prompts", "v3", "--input", "-", *soft_run[1], stdin="x\n")
    assert done.returncode == 2
    assert "Use one of: v2, ppt" in done.stderr
