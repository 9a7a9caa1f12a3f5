"""Losses and figures of merit against computations of a few lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.data.split_files import write_examples
from stages.common.examples import Example
from stages.common.metrics.classification import expected_calibration_error, per_class_report, score, softmax
from stages.common.models.backbones.base import Backbone
from stages.common.models.batching import batches_by_length, round_up_length
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.protocols import NullRecorder
from stages.common.training.evaluation import evaluate_on_test
from stages.distillation.stage import distillation_loss
from tests.support.small_models import FAMILIES, backbone_config, film_examples, film_task
from tests.support.stage_runs import Kept

# --- losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_cross_entropy_over_the_labels_only(name: str, backbones: dict[str, Backbone]) -> None:
    """By hand: each label scores the mean of its words' logits; minus the log of the right label's share."""
    backbone = backbones[name]
    task = film_task(name)
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config("unused"))
    items = classifier.items(film_examples(3))
    assert [item.label for item in items] == [0, 1, 0]
    ids = {
        word: backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1]
        for word in ("bad", "terrible", "good", "great")
    }
    total = 0.0
    with torch.inference_mode():
        found = float(classifier.loss(items))
        for item in items:
            logits = dict(zip(ids, _alone(backbone, item.cloze[0], list(ids.values())), strict=True))
            scores = [(logits["bad"] + logits["terrible"]) / 2, (logits["good"] + logits["great"]) / 2]
            total -= math.log(math.exp(scores[item.label]) / sum(math.exp(value) for value in scores))
    assert found == pytest.approx(total / 3, abs=1e-4)


def _alone(backbone: Backbone, encoded: object, ids: list[int]) -> list[float]:
    return backbone.word_logits(backbone.batch([encoded]), ids)[0].tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_distillation_is_the_kl_divergence_of_softened_distributions(temperature: float) -> None:
    teacher, student = [[2.0, -1.0, 0.5], [0.0, 3.0, 3.0]], [[1.0, 1.0, -2.0], [0.1, -0.2, 4.0]]
    total = 0.0
    for goal, guess in zip(teacher, student, strict=True):
        p, q = (
            [math.exp(value / temperature) / sum(math.exp(item / temperature) for item in row) for value in row]
            for row in (goal, guess)
        )
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(found) == pytest.approx(temperature**2 * total / 2, rel=1e-5)


def test_a_student_that_agrees_up_to_a_constant_has_no_loss() -> None:
    teacher = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    assert float(distillation_loss(teacher + 5, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(-teacher, teacher, 2.0)) > 0.5


# --- figures ------------------------------------------------------------------------------------------------------


def test_macro_f1_is_the_plain_mean_over_labels() -> None:
    """Gold a a a b c, predicted a a b b a. F1: a 2*2/(2*2+1+1), b 2*1/(2*1+1+0), c 0."""
    logits = np.eye(3)[[0, 0, 1, 1, 0]]
    found = score(logits, ["a", "a", "a", "b", "c"], ["a", "b", "c"])
    assert found.accuracy == 0.6
    assert found.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 0) / 3, abs=1e-6)
    assert found.num_examples == 5


def test_a_label_that_never_occurs_counts_as_zero() -> None:
    assert score(np.eye(3)[[0, 1]], ["a", "b"], ["a", "b", "c"]).macro_f1 == pytest.approx(2 / 3, abs=1e-6)


def test_matthews_correlation_is_that_of_the_confusion_table() -> None:
    """Of 90 and 10 texts, 85 and 4 right: (85 * 4 - 6 * 5) / sqrt(91 * 90 * 9 * 10), and guessing has none."""
    guess = [0] * 85 + [1] * 5 + [0] * 6 + [1] * 4
    gold = ["a"] * 90 + ["b"] * 10
    found = score(np.eye(2)[guess], gold, ["a", "b"])
    assert found.mcc == pytest.approx((85 * 4 - 6 * 5) / math.sqrt(91 * 90 * 9 * 10), abs=1e-6)
    always = score(np.eye(2)[[0] * 100], gold, ["a", "b"])
    assert (always.accuracy, always.mcc) == (0.9, 0)
    assert score(np.eye(2)[[1, 0]], ["a", "b"], ["a", "b"]).mcc == -1


def test_exact_match_counts_groups_whose_every_example_is_right() -> None:
    logits = np.eye(2)[[0, 1, 0, 0, 1]]
    gold = ["a", "b", "b", "a", "b"]  # the third is wrong
    assert score(logits, gold, ["a", "b"], ["q1", "q2", "q1", "q3", "q2"]).exact_match == pytest.approx(2 / 3, abs=1e-6)
    assert score(logits, gold, ["a", "b"], ["q1", "q2", "q3", "q4", "q5"]).exact_match == 0.8


def test_there_is_no_exact_match_without_groups() -> None:
    logits, gold = np.eye(2)[[0, 1]], ["a", "b"]
    assert score(logits, gold, ["a", "b"]).exact_match is None
    assert score(logits, gold, ["a", "b"], [None, None]).exact_match is None


def test_the_table_of_classes_has_the_figures_of_each_label() -> None:
    """Gold a a a b c, predicted a a b b a."""
    table = per_class_report(np.eye(3)[[0, 0, 1, 1, 0]], ["a", "a", "a", "b", "c"], ["a", "b", "c"])
    third = pytest.approx(2 / 3, abs=1e-6)
    assert table == [
        {"label": "a", "precision": third, "recall": third, "f1": third, "support": 3}
        | {"predicted a": 2, "predicted b": 1, "predicted c": 0},
        {"label": "b", "precision": 0.5, "recall": 1, "f1": third, "support": 1}
        | {"predicted a": 0, "predicted b": 1, "predicted c": 0},
        {"label": "c", "precision": 0, "recall": 0, "f1": 0, "support": 1}
        | {"predicted a": 1, "predicted b": 0, "predicted c": 0},
    ]


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    """Two bins: three answers of confidence 0.9 with two right, one of 0.55 that is wrong."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.55, 0.45]])
    truth = np.array([0, 0, 0, 1])
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * abs(0.55 - 0)
    assert expected_calibration_error(probabilities, truth) == pytest.approx(expected)


def test_full_confidence_falls_into_the_last_bin() -> None:
    assert expected_calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])) == pytest.approx(0.5)


def test_softmax_takes_large_logits() -> None:
    assert softmax(np.array([[1000.0, 1000.0 + math.log(3)]])) == pytest.approx(np.array([[0.25, 0.75]]))


def test_scores_of_another_number_of_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions, but 1 gold labels"):
        score(np.zeros((2, 2)), ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="2 predictions, but 1 gold labels"):
        per_class_report(np.zeros((2, 2)), ["a"], ["a", "b"])


class AlwaysFresh:
    """Gives every text the second label."""

    def predict(self, examples: Sequence[Example], recorder: NullRecorder, phase: str) -> np.ndarray:
        del recorder, phase
        return np.tile([0.0, 1.0], (len(examples), 1))


@pytest.mark.parametrize("groups", [("q1", "q1", "q2"), (None, None, None)])
def test_measuring_records_the_scores_and_the_table_of_classes(groups: tuple[str | None, ...], tmp_path: Path) -> None:
    gold = ("fresh", "rotten", "fresh")
    texts = [
        Example(str(n), {"text": "x"}, label, group) for n, (label, group) in enumerate(zip(gold, groups, strict=True))
    ]
    write_examples(tmp_path / "test.jsonl", texts)
    recorder = Kept()
    found = evaluate_on_test(AlwaysFresh(), ("rotten", "fresh"), tmp_path, tmp_path, recorder)
    assert (found.accuracy, found.mcc) == (pytest.approx(2 / 3, abs=1e-6), 0)
    assert found.exact_match == (0.5 if groups[0] else None)
    expected = {"accuracy": found.accuracy, "macro_f1": 0.4, "mcc": 0.0, "ece": found.ece}
    expected |= {"exact_match": 0.5} if groups[0] else {}
    assert recorder.metrics == {f"test/{name}": value for name, value in expected.items()}
    assert [(row["label"], row["recall"], row["support"]) for row in recorder.tables["per_class"]] == [
        ("rotten", 0, 1),
        ("fresh", 1, 2),
    ]


# --- batches without gradients ------------------------------------------------------------------------------------


def test_batches_hold_every_row_once_and_few_enough_tokens() -> None:
    lengths = [3, 40, 7, 7, 12, 1, 90, 5]
    batches = batches_by_length(lengths, 48)
    assert sorted(row for batch in batches for row in batch) == list(range(8))
    assert batches[0] == [6], "a row longer than the limit is a batch of its own"
    assert all(len(batch) * round_up_length(max(lengths[row] for row in batch)) <= 48 for batch in batches[1:])
    assert batches == [[6], [1], [4, 2, 3], [7, 0, 5]], "12 takes 16 places, so three rows are 48"


@dataclass
class Progress(NullRecorder):
    """Keeps what a display would be told."""

    last: tuple[int, int] = (0, 0)

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        del info
        self.last = (done, total)


@pytest.mark.parametrize("name", FAMILIES)
def test_predictions_come_in_the_order_of_the_examples(name: str, backbones: dict[str, Backbone]) -> None:
    classifier = ClozeClassifier.of(film_task(name), "summary", backbones[name], backbone_config("unused"))
    examples = film_examples(60)
    recorder = Progress()
    found = classifier.predict(examples, recorder, "test")
    assert found.shape == (60, 2)
    assert recorder.last == (60, 60)
    with torch.inference_mode():
        for row in (0, 17, 59):
            alone = classifier.logits([classifier.encode(examples[row])])[0].numpy()
            assert found[row] == pytest.approx(alone, abs=1e-4)
    assert len(np.unique(found.round(3), axis=0)) > 5
