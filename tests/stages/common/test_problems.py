"""Tests of the two classification problems, compared with scikit-learn, SciPy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from stages.common.config import MULTI_LABEL, SINGLE_LABEL
from stages.common.examples import Example, Label, label_indices, load_examples, write_examples
from stages.common.losses import classification_loss
from stages.common.metrics.classification import expected_calibration_error, softmax
from stages.common.models.averaging import Scaling, average_members
from stages.common.problems import MultiLabel, SingleLabel, problem_of

LABELS = ("money", "sports", "weather")
NAMES: list[Label | None] = [
    ("money", "sports"),
    (),
    ("weather",),
    ("money",),
    ("money", "sports", "weather"),
    ("sports",),
]
LOGITS = np.random.default_rng(1).normal(size=(len(NAMES), 3)) * 2
PROBLEM = MultiLabel(LABELS)
GOLD = PROBLEM.gold(NAMES)


def test_problem_of_has_the_name_of_transformers() -> None:
    for name, expected in (("single_label_classification", SingleLabel), ("multi_label_classification", MultiLabel)):
        problem = problem_of(LABELS, name)
        assert isinstance(problem, expected)
        assert problem.problem_type == name


def test_gold_labels_are_those_of_the_binarizer() -> None:
    expected = MultiLabelBinarizer(classes=LABELS).fit_transform(NAMES)
    assert GOLD.tolist() == PROBLEM.targets(GOLD).tolist() == expected.tolist()
    assert PROBLEM.names(GOLD) == NAMES


@pytest.mark.parametrize("wrong", [None, "money", ("news",)])
def test_gold_rejects_what_is_no_set_of_labels(wrong: Label | None) -> None:
    with pytest.raises(ValueError, match=r"not in|not a tuple"):
        PROBLEM.gold([wrong])


def test_single_label_rejects_sets() -> None:
    with pytest.raises(ValueError, match="not one label"):
        SingleLabel(LABELS).gold([("money",)])
    with pytest.raises(ValueError, match="not in"):
        label_indices([Example("0", {"text": "x"}, ("money",))], LABELS)


def test_scores_are_those_of_scikit_learn() -> None:
    predicted = LOGITS > 0
    score = PROBLEM.score(LOGITS, NAMES)
    assert score.accuracy == pytest.approx(accuracy_score(GOLD, predicted), abs=1e-6)
    assert score.micro_f1 == pytest.approx(f1_score(GOLD, predicted, average="micro"), abs=1e-6)
    assert score.macro_f1 == pytest.approx(f1_score(GOLD, predicted, average="macro", zero_division=0), abs=1e-6)
    assert score.mcc is None
    assert score.num_examples == len(NAMES)
    probabilities = expit(LOGITS).ravel()
    decisions = np.stack([1 - probabilities, probabilities], axis=1)
    expected = expected_calibration_error(decisions, GOLD.ravel().astype(np.int64))
    assert score.ece == pytest.approx(expected, abs=1e-6)
    rows = PROBLEM.report(LOGITS, NAMES)
    precision, recall, f1, support = precision_recall_fscore_support(GOLD, predicted, zero_division=0)
    assert [row["label"] for row in rows] == list(LABELS)
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        assert [row[name] for row in rows] == pytest.approx(values, abs=1e-6)
    assert [row["predicted"] for row in rows] == predicted.sum(axis=0).tolist()


def test_one_label_per_example_has_no_micro_f1() -> None:
    assert SingleLabel(LABELS).score(np.eye(3), ["money", "sports", "money"]).micro_f1 is None


def test_predictions_probabilities_and_confidence() -> None:
    logits = np.array([[3.0, -1.0, 0.5], [-2.0, -2.0, -2.0]])
    assert PROBLEM.names(PROBLEM.predict(logits)) == [("money", "weather"), ()]
    probabilities = PROBLEM.probabilities(logits)
    assert probabilities == pytest.approx(expit(logits))
    assert PROBLEM.logits(probabilities) == pytest.approx(logits)
    assert PROBLEM.confidence(probabilities) == pytest.approx([expit(0.5), expit(2.0)])
    gold = PROBLEM.gold([("money", "weather"), ("money",)])
    assert PROBLEM.is_right(logits, gold).tolist() == [True, False]


def test_decisions_are_binary() -> None:
    """One decision per example and label, whose options are absent and present; also of several members at once."""
    pairs = softmax(PROBLEM.decision_logits(LOGITS))
    assert pairs[:, 1] == pytest.approx(expit(LOGITS).ravel())
    assert PROBLEM.decisions(GOLD).tolist() == GOLD.ravel().tolist()
    members = np.stack([LOGITS, -LOGITS])
    assert PROBLEM.decision_logits(members)[1] == pytest.approx(PROBLEM.decision_logits(-LOGITS))
    assert PROBLEM.decision_logits(np.zeros((2, 0, 3))).shape == (2, 0, 2)


def test_strata_are_the_rarest_labels() -> None:
    names: list[Label | None] = [("money", "sports"), ("money", "weather"), ("money",), (), ("sports",)]
    assert PROBLEM.strata(PROBLEM.gold(names)).tolist() == [1, 2, 0, 3, 1]
    single = SingleLabel(LABELS)
    assert single.strata(single.gold(["sports", "money"])).tolist() == [1, 0]


def test_loss_is_the_mean_over_all_decisions() -> None:
    loss = classification_loss(MULTI_LABEL, torch.from_numpy(LOGITS), torch.from_numpy(GOLD))
    probabilities = expit(LOGITS)
    expected = -np.log(np.where(GOLD == 1, probabilities, 1 - probabilities)).mean()
    assert float(loss) == pytest.approx(expected)
    indices = torch.tensor([0, 2])
    single = classification_loss(SINGLE_LABEL, torch.from_numpy(LOGITS[:2]), indices)
    assert float(single) == pytest.approx(-np.log(softmax(LOGITS[:2])[[0, 1], [0, 2]]).mean())


def test_average_of_probabilities_is_per_label() -> None:
    members = np.stack([LOGITS, LOGITS[::-1]])
    averaged = average_members(members, np.array([0.75, 0.25]), "probabilities", 2.0, PROBLEM)
    assert expit(averaged) == pytest.approx(0.75 * expit(LOGITS / 2) + 0.25 * expit(LOGITS[::-1] / 2))


def test_temperature_of_decisions_is_that_of_the_logits() -> None:
    """Labels that are sampled from sigmoid(logits) need the temperature by which the logits are scaled."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 3)) * 2
    gold = (rng.random(logits.shape) < expit(logits)).astype(float)
    for scale in (1.0, 4.0):
        scaling = Scaling.fit(PROBLEM.decision_logits(scale * logits), PROBLEM.decisions(gold), has_bias=False)
        assert scaling.temperature == pytest.approx(scale, rel=0.05)


def test_label_sets_survive_a_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "examples.jsonl"
    examples = [Example(str(row), {"text": "x"}, label) for row, label in enumerate([*NAMES, None, "money"])]
    write_examples(path, examples)
    assert load_examples(path) == examples
