"""The leaderboard: rows, kinds, tasks, means and deviations."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from pipelines.kinds import KINDS
from pipelines.report.leaderboard import flat_rows
from pipelines.report.leaderboard_plot import ROW_COLORS
from tests.support.reports import report_on, write_predictions, write_result

ROWS = {
    "baseline/small/0": ("baseline/small", "baseline"),
    "zero_shot/review": ("zero_shot/review", "zero-shot"),
    "pet/review/0": ("pet/review", "sub-model"),
    "pet/g1/review/0": ("pet/g1/review", "sub-model"),
    "pet/large/review/2": ("pet/large/review", "sub-model"),
    "pet/1/0": ("pet/1", "sub-model"),
    "probe/2": ("probe/2", "probe"),
    "finetuned/large": ("finetuned/large", "fine-tuned"),
    "tfidf/words": ("tfidf/words", "TF-IDF"),
    "word_vectors/mini": ("word_vectors/mini", "word-vectors"),
    "nli/mnli": ("nli/mnli", "NLI"),
    "llm/assistant": ("llm/assistant", "LLM"),
    "priming/review/1": ("priming/review", "priming"),
    "chain_of_thought/vote/0": ("chain_of_thought/vote", "chain-of-thought"),
    "instructed/plots/review/0": ("instructed/plots/review", "instructed"),
    "pattern_summary/zero_shot/mean": ("pattern_summary/zero_shot/mean", "patterns"),
    "soft_labels": ("ensemble", "ensemble"),
    "distill/small/0": ("student/small", "student"),
    "prompts/plots/p_tuning/0": ("prompts/plots/p_tuning", "prompt"),
    "knowledge_probing/plots/lama/0": ("knowledge_probing/plots/lama", "facts"),
}


def test_leaderboard_has_a_row_and_a_kind_per_method(tmp_path: Path) -> None:
    counts = dict.fromkeys(("num_unanswered", "num_ties", "num_cut"), 0)  # of chain of thought
    for step in ROWS:
        write_predictions(tmp_path, step, [1, 0], **counts)
    rows = report_on(tmp_path, *ROWS)["rows"]
    assert [(row["name"], row["kind"]) for row in rows] == list(ROWS.values())
    assert [row["steps"] for row in rows] == [[step] for step in ROWS]
    assert {row["task"] for row in rows} == {"films", "plots"}
    assert set(ROW_COLORS) == {kind.row for kind in KINDS.values() if kind.row} == {kind for _, kind in ROWS.values()}


def test_leaderboard_skips_steps_without_a_row(tmp_path: Path) -> None:
    write_result(tmp_path, "data/films", {"num_test": 2})
    write_predictions(tmp_path, "soft_labels", [1, 0])
    assert [row["name"] for row in report_on(tmp_path, "data/films", "soft_labels")["rows"]] == ["ensemble"]


def test_leaderboard_averages_seeds(tmp_path: Path) -> None:
    for seed, correct in enumerate([(1, 1, 1, 0), (1, 0, 0, 0), (1, 1, 0, 0)]):
        test = {"ece": 0.1 * seed, "exact_match": 0.2 + 0.1 * seed}
        write_predictions(tmp_path, f"distill/small/{seed}", correct, test=test)
    write_predictions(tmp_path, "soft_labels", [1, 1, 1, 1])
    seeds = [f"distill/small/{seed}" for seed in range(3)]
    student, ensemble = report_on(tmp_path, *seeds, "soft_labels")["rows"]
    accuracies = [0.75, 0.25, 0.5]
    assert student["accuracy"] == {"mean": 0.5, "std": pytest.approx(statistics.stdev(accuracies), abs=1e-6)}
    assert student["mcc"] == {"mean": 0, "std": pytest.approx(2 * statistics.stdev(accuracies), abs=1e-6)}
    assert student["ece"] == {"mean": 0.1, "std": 0.1}
    assert student["exact_match"] == {"mean": 0.3, "std": 0.1}
    assert ensemble["exact_match"] is None
    assert ensemble["mcc"] == {"mean": 1, "std": None}
    flat_student, flat_ensemble = flat_rows([student, ensemble])
    assert (flat_student["accuracy"], flat_student["accuracy_std"]) == (0.5, student["accuracy"]["std"])
    assert flat_ensemble["exact_match"] is None and "steps" not in flat_ensemble
    assert list(flat_student) == list(flat_ensemble)


def test_leaderboard_has_size_and_held_out_accuracy_of_classifiers(tmp_path: Path) -> None:
    for seed, accuracy in enumerate([0.5, 0.75]):
        more = {"num_parameters": 5000, "held_out_accuracy": accuracy}
        write_predictions(tmp_path, f"baseline/small/{seed}", [1, 0], **more)
        more["held_out_accuracy"] = None if seed else accuracy
        write_predictions(tmp_path, f"baseline/large/{seed}", [1, 0], **more)
    write_predictions(tmp_path, "probe/mpnet", [1, 0])
    steps = [f"baseline/{name}/{seed}" for name in ("small", "large") for seed in (0, 1)]
    small, large, probe = report_on(tmp_path, *steps, "probe/mpnet")["rows"]
    assert (small["student"], small["num_parameters"], small["held_out_accuracy"]) == ("small", 5000, 0.625)
    assert (large["student"], large["held_out_accuracy"]) == ("large", 0.5), "the first seed is cross-validated"
    assert (probe["student"], probe["num_parameters"], probe["held_out_accuracy"]) == ("", None, None)
