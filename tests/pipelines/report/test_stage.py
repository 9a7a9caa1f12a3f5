"""The report stage: its notes, and its files with initializations and the learning curve."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.canonical_json import plain
from pipelines.report.page import writer
from stages.common.engine import InProcessEngine
from stages.common.protocols import NullRecorder
from stages.learning_curve import stage as learning_curve
from stages.learning_curve.config import LearningCurveConfig
from tests.support.reports import RUN, report_on, scores, write_predictions, write_result


def test_notes_describe_label_words_soft_labels_and_pretraining(tmp_path: Path) -> None:
    write_result(tmp_path, "data/films", {"num_test": 100, "num_test_seen": 3})
    write_result(tmp_path, "verbalizer/review", {"words": {"rotten": ["bad", "dull"], "fresh": ["good", "great"]}})
    unlabeled = {"accuracy": 0.9, "num_examples": 1200}
    write_predictions(tmp_path, "soft_labels", [1, 0], unlabeled=unlabeled, dropped=["pet/a/0"])
    held_out = {"held_out_before": {"accuracy": 0.5}, "held_out": {"accuracy": 0.75, "num_examples": 64}}
    write_result(tmp_path, "ppt/pair", held_out)
    assert report_on(tmp_path, "data/films", "verbalizer/review", "soft_labels", "ppt/pair")["notes"] == [
        "The soft labels are correct for 90.0% of the 1,200 unlabeled examples. Gold labels are used only for this "
        "number.",
        "The ensemble lacks pet/a/0, which failed (ensemble.min_members).",
        "data/films: 3 test examples are also in the training files (leak).",
        "verbalizer/review selected bad, dull for rotten; good, great for fresh.",
        "ppt/pair learned to relate sentences: 50.0% before, 75.0% after, on 64 held-out examples.",
    ]


def test_notes_count_rationales_without_an_answer(tmp_path: Path) -> None:
    counts = {"num_unanswered": 3, "num_ties": 1, "num_rationales": 40, "num_cut": 2}
    write_result(tmp_path, "chain_of_thought/vote/0", scores(0.75, 8, test={"ece": None}, **counts))
    write_result(tmp_path, "chain_of_thought/few/0", scores(0.5, 8, **dict.fromkeys(counts, 0) | {"num_rationales": 8}))
    assert report_on(tmp_path, "chain_of_thought/vote/0", "chain_of_thought/few/0")["notes"] == [
        "chain_of_thought/vote/0: no answer can be extracted for 3 of 8 test examples, which count as wrong.",
        "chain_of_thought/vote/0: 1 votes are ties, in which the label counts that was named first.",
        "chain_of_thought/vote/0: 2 of 40 rationales end at max_rationale_tokens.",
    ]


def test_report_has_votes_and_suspects(tmp_path: Path) -> None:
    votes = [
        {"member": "pet/a/0", "weight": 0.0, "temperature": 1.0, "held_out_accuracy": 0.5},
        {"member": "probe/b", "weight": 1.0, "temperature": 0.2, "held_out_accuracy": 0.875},
    ]
    write_predictions(tmp_path, "soft_labels", [1, 0], votes=votes)
    suspect = {"uid": "1", "text": "A joy | to see.", "label": "rotten", "predicted": "fresh", "probability": 0.97}
    (tmp_path / "soft_labels" / "suspects.jsonl").write_text(json.dumps(suspect) + "\n")
    report = writer.build_report("films", report_on(tmp_path, "soft_labels"), {}, RUN)
    reasons = ["not clearly better than a guess", "87.5% right on held-out labeled examples"]
    assert [vote["reason"] for vote in report["votes"]] == reasons
    for text in (writer.report_markdown(report), writer.report_html(report)):
        assert text.index("probe/b") < text.index("pet/a/0"), "the largest weight first"
        assert all(reason in text for reason in reasons)
        assert "Labels that are probably wrong" in text and "0.97" in text


def test_report_has_prompt_inits_and_the_learning_curve(tmp_path: Path) -> None:
    write_result(tmp_path, "prompts/films/ppt/0", scores(0.75, 8), [0.7, 0.2])
    write_result(tmp_path, "prompts/films/random/0", scores(0.5, 8), [0.9, 0.6])
    for name, size, accuracy in (("few", 4, 0.5), ("more", 8, 0.625)):
        write_result(tmp_path, name, {"num_labeled": size, "test": {"accuracy": accuracy}})
    plot = tmp_path / "learning_curve"
    plot.mkdir()
    curve = learning_curve.run(
        LearningCurveConfig(methods=("baseline", "baseline")),
        learning_curve.Inputs(measured=(tmp_path / "few", tmp_path / "more")),
        plot, NullRecorder(), InProcessEngine(),
    )  # fmt: skip
    (plot / "result.json").write_text(json.dumps(plain(curve)))

    steps = ("prompts/films/ppt/0", "prompts/films/random/0", "learning_curve")
    result = report_on(tmp_path, *steps, prompt_inits={"ppt": "ppt", "random": "normal"})
    assert [row["name"] for row in result["rows"]] == ["prompts/films/ppt", "prompts/films/random"]
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"leaderboard.png", "prompt_inits-films.png", "learning_curve.png"} <= files

    report = writer.build_report("films", result, {}, RUN)
    assert [item["last_loss"] for item in report["prompt_inits"]] == [0.2, 0.6]
    assert [point["accuracy"] for point in report["learning_curve"]] == [0.5, 0.625]
    page = writer.report_html(report)
    assert "<h2>Prompt initializations</h2>" in page and "<h2>Accuracy by number of labeled examples</h2>" in page
    markdown = writer.report_markdown(report)
    assert "| labeled examples | 4 | 8 |" in markdown and "| baseline | 50.0 | 62.5 |" in markdown
    assert "## Initializations of the prompts of films" in markdown and "| 0.200 |" in markdown
    without = writer.report_html(report | {"prompt_inits": [], "learning_curve": []})
    assert "Prompt initializations" not in without and "Accuracy by number" not in without


def test_report_of_several_students_has_a_classifier_and_a_plot_of_their_sizes(tmp_path: Path) -> None:
    for name, size in (("small", 1_000), ("large", 9_000)):
        write_predictions(tmp_path, f"distill/{name}/0", [1, 0], num_parameters=size)
        write_predictions(tmp_path, f"baseline/{name}/0", [1, 0], num_parameters=size)
    write_predictions(tmp_path, "soft_labels", [1, 0])
    steps = [f"{kind}/{name}/0" for kind in ("baseline", "distill") for name in ("small", "large")]
    result = report_on(tmp_path, *steps, "soft_labels")
    assert result["delivered"]["row"] == "student/large"
    assert (tmp_path / "report/accuracy_by_size.png").read_bytes().startswith(b"\x89PNG")
    report = writer.build_report("films", result, {}, RUN)
    assert "## Accuracy by size" in writer.report_markdown(report)
    assert "<h2>Accuracy by size</h2>" in writer.report_html(report)


def test_report_without_a_classifier_delivers_none(tmp_path: Path) -> None:
    write_predictions(tmp_path, "soft_labels", [1, 0])
    assert report_on(tmp_path, "soft_labels")["delivered"] is None
    assert not (tmp_path / "report/accuracy_by_size.png").exists()
