"""The report on results that were put together by hand: rows, spreads, comparisons, notes, and the four files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.canonical_json import plain
from pipelines.kinds import ROW_COLORS, ROW_KINDS
from pipelines.report import stage as report
from pipelines.report.config import ReportConfig
from pipelines.report.leaderboard import row_name
from pipelines.report.page import writer
from stages.common.data.step_outputs import read_correct, write_logits
from stages.common.engine import InProcessEngine
from stages.common.examples import Example
from stages.common.protocols import NullRecorder

LABELS = ("rotten", "fresh")
Answers = Sequence[int]
"""1 where a text is labelled rightly."""


def put(root: Path, step: str, answers: Answers, uids: Sequence[str] | None = None, **more: Any) -> None:
    """A measured step's folder: `result.json`, and `test_logits.jsonl` with these right and wrong answers."""
    folder = root / step
    folder.mkdir(parents=True)
    uids = uids or [f"test-{number}" for number in range(len(answers))]
    texts = [Example(uid, {"text": uid}, LABELS[number % 2]) for number, uid in enumerate(uids)]
    guesses = [number % 2 if right else 1 - number % 2 for number, right in enumerate(answers)]
    write_logits(folder / "test_logits.jsonl", texts, np.eye(2)[guesses], LABELS)
    share = sum(answers) / len(answers)
    test = {"accuracy": share, "macro_f1": share / 2, "mcc": 2 * share - 1, "ece": 0.1, "exact_match": None}
    about = {"num_labeled": 16, "num_unlabeled": 0, "trainable_parameters": 2048}
    result = {"test": {**test, "num_examples": len(answers)} | more.pop("test", {}), **about, **more}
    (folder / "result.json").write_text(json.dumps(result))


def put_result(root: Path, step: str, result: Mapping[str, Any]) -> None:
    (root / step).mkdir(parents=True)
    (root / step / "result.json").write_text(json.dumps(result))


def report_on(root: Path, *steps: str) -> dict[str, Any]:
    """The result of the report step, as result.json has it."""
    out = root / "report"
    out.mkdir()
    config = ReportConfig(recipe="films", task="films", steps=steps)
    inputs = report.Inputs(measured=tuple(root / step for step in steps))
    found = report.run(config, inputs, out, NullRecorder(), InProcessEngine())
    assert (out / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    result: dict[str, Any] = plain(found)
    return result


ROWS = {
    "baseline/0": ("baseline", "baseline"),
    "zero_shot/review": ("zero_shot/review", "zero-shot"),
    "pet/review/0": ("pet/review", "sub-model"),
    "pet/g1/review/0": ("pet/g1/review", "sub-model"),
    "pet/large/review/2": ("pet/large/review", "sub-model"),
    "probe/mpnet": ("probe/mpnet", "probe"),
    "priming/review/1": ("priming/review", "priming"),
    "soft_labels": ("ensemble", "ensemble"),
    "soft_labels/g1": ("ensemble/g1", "ensemble"),
    "distill/0": ("student", "student"),
    "prompts/plots/p_tuning/0": ("prompts/plots/p_tuning", "prompt"),
}


def test_every_step_has_its_row_and_every_kind_its_colour(tmp_path: Path) -> None:
    for step in ROWS:
        put(tmp_path, step, [1, 0])
    rows = report_on(tmp_path, *ROWS)["rows"]
    assert [(row["name"], row["kind"]) for row in rows] == list(ROWS.values())
    assert [row["steps"] for row in rows] == [[step] for step in ROWS]
    assert {row["task"] for row in rows} == {"films", "plots"}
    assert set(ROW_COLORS) == set(ROW_KINDS.values())


def test_patterns_and_members_with_numbers_for_names_keep_them() -> None:
    assert row_name("pet/1/0") == "pet/1"
    assert row_name("zero_shot/1") == "zero_shot/1"
    assert row_name("probe/2") == "probe/2"


def test_scores_of_the_seeds_become_mean_and_deviation(tmp_path: Path) -> None:
    for seed, answers in enumerate([(1, 1, 1, 0), (1, 0, 0, 0), (1, 1, 0, 0)]):
        put(tmp_path, f"distill/{seed}", answers, test={"ece": 0.1 * seed, "exact_match": 0.2 + 0.1 * seed})
    put(tmp_path, "soft_labels", [1, 1, 1, 1])
    student, ensemble = report_on(tmp_path, "distill/0", "distill/1", "distill/2", "soft_labels")["rows"]
    shares = [0.75, 0.25, 0.5]
    assert student["accuracy"] == {"mean": 0.5, "std": pytest.approx(statistics.stdev(shares), abs=1e-6)}
    assert student["mcc"] == {"mean": 0, "std": pytest.approx(2 * statistics.stdev(shares), abs=1e-6)}
    assert student["ece"] == {"mean": 0.1, "std": 0.1}
    assert student["exact_match"] == {"mean": 0.3, "std": 0.1}
    assert ensemble["exact_match"] is None
    assert ensemble["mcc"] == {"mean": 1, "std": None}


# --- comparisons ----------------------------------------------------------------------------------------------------


def test_the_student_is_compared_with_the_baseline_over_texts_and_seeds(tmp_path: Path) -> None:
    """Of 100 texts the student has 80 and 90, the baseline 50 and 30, among the same ones."""
    for step, share in {"distill/0": 80, "distill/1": 90, "baseline/0": 50, "baseline/1": 30}.items():
        put(tmp_path, step, [1] * share + [0] * (100 - share))
    found = report_on(tmp_path, "baseline/0", "baseline/1", "distill/0", "distill/1")
    (duel,) = found["comparisons"]
    assert (duel["first"], duel["second"]) == ("student", "baseline")
    assert duel["difference"] == pytest.approx((80 + 90 - 50 - 30) / 200)
    assert 0.2 < duel["low"] < 0.35 < 0.55 < duel["high"] < 0.7
    assert (duel["num_texts"], duel["num_seeds"]) == (100, [2, 2])
    low, high = f"{100 * duel['low']:+.1f}", f"{100 * duel['high']:+.1f}"
    assert found["notes"] == [
        f"student - baseline: +45.0 points (95% interval {low} to {high}, p < 0.001, paired bootstrap over 100 texts "
        "and 2 x 2 seeds)."
    ]


def test_the_ensemble_is_compared_with_its_best_member(tmp_path: Path) -> None:
    steps = {"pet/review/0": 60, "pet/review/1": 62, "probe/mpnet": 64, "zero_shot/review": 90, "soft_labels": 64}
    for step, share in steps.items():
        put(tmp_path, step, [1] * share + [0] * (100 - share))
    found = report_on(tmp_path, *steps)
    (duel,) = found["comparisons"]
    assert (duel["first"], duel["second"], duel["num_seeds"]) == ("ensemble", "probe/mpnet", [1, 1])
    assert (duel["difference"], duel["p_value"]) == (0, 1)
    assert "ensemble - probe/mpnet: +0.0 points (95% interval +0.0 to +0.0, p = 1.000," in found["notes"][0]


def test_texts_are_paired_by_uid_and_not_by_line(tmp_path: Path) -> None:
    """Both are right about the first three quarters, but one has them in the other order."""
    uids = [f"test-{number}" for number in range(40)]
    put(tmp_path, "distill/0", [1] * 30 + [0] * 10, uids)
    put(tmp_path, "baseline/0", [0] * 10 + [1] * 30, uids[::-1])
    (duel,) = report_on(tmp_path, "baseline/0", "distill/0")["comparisons"]
    assert (duel["low"], duel["high"], duel["p_value"]) == (0, 0, 1)


def test_methods_on_other_texts_or_without_predictions_are_not_compared(tmp_path: Path) -> None:
    put(tmp_path, "distill/0", [1, 1, 0])
    put(tmp_path, "baseline/0", [1, 1, 0], ["test-0", "test-1", "other"])
    put(tmp_path, "soft_labels", [1, 1, 0])
    put(tmp_path, "probe/mpnet", [1, 0, 0])
    (tmp_path / "probe/mpnet/test_logits.jsonl").unlink()
    found = report_on(tmp_path, "baseline/0", "distill/0", "soft_labels", "probe/mpnet")
    assert found["comparisons"] == found["notes"] == []


def test_a_hit_is_a_text_whose_gold_label_has_the_largest_logit(tmp_path: Path) -> None:
    texts = [Example("a", {}, "fresh"), Example("b", {}, "fresh"), Example("c", {}, "rotten")]
    write_logits(tmp_path / "x.jsonl", texts, np.array([[-2.0, -1.0], [0.5, 0.25], [3.0, -4.0]]), LABELS)
    assert read_correct(tmp_path / "x.jsonl") == {"a": True, "b": False, "c": True}


# --- notes ----------------------------------------------------------------------------------------------------------


def test_a_searched_verbalizer_is_told_in_a_note(tmp_path: Path) -> None:
    put_result(tmp_path, "verbalizer/review", {"words": {"rotten": ["bad", "dull"], "fresh": ["good", "great"]}})
    put(tmp_path, "soft_labels", [1, 0], unlabeled={"accuracy": 0.9, "num_examples": 1200}, dropped=[])
    found = report_on(tmp_path, "verbalizer/review", "soft_labels")
    assert [row["name"] for row in found["rows"]] == ["ensemble"]
    assert found["notes"] == [
        "The soft labels are right on 90.0% of the 1,200 unlabelled texts (gold labels serve this figure only).",
        "verbalizer/review chose bad, dull for rotten; good, great for fresh.",
    ]


# --- the files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """A report on a student and a baseline, and the folder with its files."""
    put(tmp_path, "baseline/0", [1, 0, 0, 0])
    put(tmp_path, "distill/0", [1, 1, 1, 0])
    put(tmp_path, "distill/1", [1, 0, 1, 0])
    result = report_on(tmp_path, "baseline/0", "distill/0", "distill/1")
    content = writer.build_report("films", result, {"distill/0": 2.0}, {"executed": 3, "cached": 0, "wall_s": 5.0})
    writer.write_report(content, tmp_path / "report" / "leaderboard.png", tmp_path / "pages")
    return content, tmp_path / "pages"


def test_report_json_holds_scores_and_comparisons(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    read = json.loads((folder / "report.json").read_text())
    assert read == content
    assert read["rows"][0]["mcc"] == {"mean": -0.5, "std": None}
    assert read["rows"][0]["ece"] == {"mean": 0.1, "std": None}
    assert read["rows"][0]["exact_match"] is None
    assert (read["rows"][0]["seconds"], read["rows"][1]["seconds"]) == (None, 2.0)
    assert read["comparisons"][0]["difference"] == 0.375
    assert read["notes"][0].startswith("student - baseline: +37.5 points")
    assert [item["rule"] for item in read["advice"]] == ["small_test", "student_not_ahead", "large_spread"]
    assert read["step_seconds"] == {"distill/0": 2.0}


def test_advice_stands_in_markdown_with_its_figure(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    text = (folder / "report.md").read_text()
    assert "## What to try next" in text
    assert all(f"- {item['because']} {item['attempt']}" in text for item in content["advice"])
    assert "What to try next" not in writer.report_markdown({**content, "advice": []})


def test_the_leaderboard_as_plain_values(written: tuple[dict[str, Any], Path]) -> None:
    baseline, student = writer.flat_rows(written[0])
    assert (student["accuracy"], student["seconds"]) == (0.625, 2.0)
    assert student["accuracy_std"] == pytest.approx(statistics.stdev([0.75, 0.5]), abs=1e-6)
    assert list(baseline) == list(student)
    assert "steps" not in student


def test_pages_show_the_correlation_and_the_terminal_keeps_its_columns(written: tuple[dict[str, Any], Path]) -> None:
    content, folder = written
    head, _, baseline, student = (folder / "report.md").read_text().splitlines()[2:6]
    assert head == "| row | accuracy | macro-F1 | MCC | seeds | labelled | unlabelled | trained | seconds |"
    assert baseline == "| baseline | 25.0 | 12.5 | -50.0 | 1 | 16 | 0 | 2.0k |  |"
    assert student == "| student | 62.5 ± 17.7 | 31.2 ± 8.8 | 25.0 ± 35.4 | 2 | 16 | 0 | 2.0k | 2 |"
    assert "<th>MCC</th>" in (folder / "report.html").read_text()
    columns = [str(column.header) for column in writer.leaderboard_table(content, 120).columns]
    assert columns == ["row", "accuracy", "macro-F1", "seeds", "labelled", "unlabelled", "trained", "seconds"]
    assert [str(column.header) for column in writer.leaderboard_table(content, 80).columns] == columns[:4]


def test_exact_match_is_shown_where_some_row_has_one(tmp_path: Path) -> None:
    put(tmp_path, "soft_labels", [1, 0], test={"exact_match": 0.25})
    put(tmp_path, "prompts/plots/random/0", [1, 0])
    result = report_on(tmp_path, "soft_labels", "prompts/plots/random/0")
    content = writer.build_report("films", result, {}, {"executed": 2, "cached": 0, "wall_s": 1.0})
    lines = writer.report_markdown(content).splitlines()
    assert "| MCC | exact match | seeds |" in lines[2]
    assert lines[4] == "| ensemble | 50.0 | 25.0 | 0.0 | 25.0 | 1 | 16 | 0 | 2.0k |  |"
    assert lines[5] == "| prompts/plots/random | 50.0 | 25.0 | 0.0 |  | 1 | 16 | 0 | 2.0k |  |"
    page = writer.report_html(content)
    assert "<th>exact match</th>" in page
