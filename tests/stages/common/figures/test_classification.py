"""What the pictures show: the numbers behind them, and what stands in the drawn axes."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from stages.common import figures
from stages.common.examples import Example
from stages.common.figures import coverage, entropy, norms, reliability
from stages.common.metrics import calibration
from stages.common.metrics.classification import expected_calibration_error, per_class_report
from stages.soft_labels.stage import NUM_DISAGREEMENTS, disagreements

LABELS = ("rotten", "fresh")


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def texts(figure: Figure) -> list[str]:
    return [item.get_text() for item in figure.axes[0].texts]


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_bins_hold_every_text_and_give_the_calibration_error() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet([1, 1, 1], size=400)
    truth = rng.integers(0, 3, size=400)
    found = calibration.reliability_bins(probabilities, truth)
    assert sum(item.count for item in found) == 400
    assert all(1 / 3 <= item.confidence <= 1 for item in found)
    error = sum(item.count / 400 * abs(item.accuracy - item.confidence) for item in found)
    assert error == pytest.approx(expected_calibration_error(probabilities, truth), abs=1e-5)


def test_coverage_answers_the_surest_first() -> None:
    """Ten texts, surer and surer; the five least sure ones are wrong."""
    sure = np.linspace(0.55, 0.95, 10)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    truth = np.array([1] * 5 + [0] * 5)
    points = dict(calibration.accuracy_at_coverage(probabilities, truth, num_points=10))
    assert list(points) == pytest.approx([number / 10 for number in range(1, 11)])
    assert (points[0.1], points[0.5], points[1.0]) == (1, 1, 0.5)
    assert points[0.8] == pytest.approx(5 / 8)


def test_texts_of_equal_confidence_are_in_or_out_together() -> None:
    probabilities = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]] * 7)
    truth = np.array([0, 0, 1] + [0] * 7)
    assert calibration.accuracy_at_coverage(probabilities, truth) == ((0.3, 0.666667), (1.0, 0.9))


def test_entropy_is_a_share_of_the_largest_one() -> None:
    found = calibration.entropies(np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]]))
    assert found == pytest.approx([0, 1, 0.5], abs=1e-6)


def test_the_most_disputed_texts_come_first() -> None:
    """Three members: they agree on a; b and c are 2 to 1, and c has the less sure soft label."""
    pile = [Example(uid, {"text": f"text {uid}"}) for uid in "abc"]
    votes = np.array([[[0, 1], [0, 1], [0, 1]], [[0, 1], [1, 0], [1, 0]], [[0, 1], [0, 1], [0, 1]]], dtype=float)
    soft = np.array([[0.1, 0.9], [0.3, 0.7], [0.45, 0.55]])
    rows = disagreements(pile, votes, soft, LABELS)
    assert [row["text"] for row in rows] == ["text c", "text b", "text a"]
    assert rows[0] == {"text": "text c", "votes": "fresh 2, rotten 1", "soft_label": "fresh 0.55, rotten 0.45"}
    assert rows[2]["votes"] == "fresh 3"
    many = [Example(str(number), {"text": "x"}) for number in range(50)]
    assert len(disagreements(many, np.zeros((2, 50, 2)), np.full((50, 2), 0.5), LABELS)) == NUM_DISAGREEMENTS


# --- the drawings ---------------------------------------------------------------------------------------------------


def test_the_confusion_matrix_shows_counts_row_by_row() -> None:
    logits = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    figure = figures.confusion(per_class_report(logits, ["rotten", "rotten", "rotten", "fresh"], LABELS))
    axes = figure.axes[0]
    assert texts(figure) == ["2", "1", "0", "1"]
    assert [item.get_text() for item in axes.get_yticklabels()] == list(LABELS)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted label", "right label")
    assert axes.get_title() == "3 of 4 texts right"
    assert png(figure).startswith(b"\x89PNG")


def test_a_label_without_test_texts_is_an_empty_row() -> None:
    figure = figures.confusion(per_class_report(np.array([[1.0, 0]]), ["rotten"], LABELS))
    assert texts(figure) == ["1", "0", "0", "0"]
    assert figure.axes[0].images[0].get_array().tolist() == [[1, 0], [0, 0]]


def test_many_labels_are_drawn_without_numbers_and_long_names_are_cut() -> None:
    labels = tuple(f"a very long name of a label, number {number}" for number in range(figures.MAX_NUMBERS + 1))
    figure = figures.confusion(per_class_report(np.eye(len(labels)), labels, labels))
    assert texts(figure) == []
    assert all(len(item.get_text()) <= figures.MAX_NAME for item in figure.axes[0].get_yticklabels())


def test_agreement_is_the_share_of_texts_with_the_same_label() -> None:
    votes = np.array([[[1, 0], [1, 0], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1], [1, 0]]], dtype=float)
    figure = figures.agreement(votes, ("one", "two"))
    assert texts(figure) == ["1.00", "0.50", "0.50", "1.00"]


def test_members_that_never_agree_are_within_the_colours() -> None:
    votes = np.array([[[1, 0]] * 4, [[0, 1]] * 4], dtype=float)
    image = figures.agreement(votes, ("one", "two")).axes[0].images[0]
    assert image.norm.vmin == 0


def test_reliability_coverage_and_entropy_have_their_axes_named() -> None:
    bins = calibration.reliability_bins(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    figures = {
        ("confidence", "accuracy"): reliability(bins, 0.123),
        ("share of texts answered, the surest first", "accuracy on them"): coverage([(0.5, 1.0), (1.0, 0.8)]),
        ("entropy of a soft label (0 sure, 1 every label alike)", "texts"): entropy(np.array([0.2, 0.9])),
        ("vector", "norm"): norms([1.0, 2.0], 1.5),
    }
    for names, figure in figures.items():
        axes = figure.axes[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == names
        assert png(figure).startswith(b"\x89PNG")
    assert "0.123" in figures[calibration, "accuracy"].axes[0].get_title()
    assert [bar.get_height() for bar in figures["vector", "norm"].axes[0].patches] == [1, 2]


def test_the_same_numbers_give_the_same_bytes() -> None:
    first, second = (png(figures.norms([1.0, 2.0], 1.5)) for _ in range(2))
    assert first == second


def test_drawing_needs_no_state_of_pyplot() -> None:
    code = "import sys, stages.common.figures as p; p.norms([1.0]).savefig(sys.stdout.buffer); "
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\x89PNG")


def test_accuracy_against_labels_has_a_line_for_each_method_and_its_numbers_for_ticks() -> None:
    sizes = (4, 8, 32)
    points = [
        {"method": method, "num_labeled": size, "accuracy": 0.5 + size / 100, "accuracy_std": 0.1 * number or None}
        for number, method in enumerate(("baseline", "ensemble"))
        for size in sizes
    ]
    figure = figures.learning_curve(points)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "32"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["baseline", "ensemble"]
    for bars in axes.containers:
        assert bars[0].get_ydata().tolist() == pytest.approx([0.54, 0.58, 0.82])
    assert png(figure) == png(figures.learning_curve(points))


def test_starts_are_shown_by_accuracy_and_by_loss_in_one_colour_each() -> None:
    found = [
        {"method": "ppt", "init": "ppt", "accuracy": 0.8, "accuracy_std": 0.1, "losses": ((1, 0.9), (2, 0.2))},
        {"method": "random", "init": "normal", "accuracy": 0.6, "accuracy_std": None, "losses": ((1, 1.1), (2, 0.7))},
        {"method": "long", "init": "words", "accuracy": 0.7, "accuracy_std": None, "losses": ()},
    ]
    scores, curves = figures.initializations("films", found).axes
    assert [label.get_text() for label in scores.get_yticklabels()] == ["ppt", "random\nnormal", "long\nwords"]
    assert [bars[0].get_xdata().tolist() for bars in scores.containers] == [[0.8], [0.6], [0.7]]
    assert [line.get_ydata().tolist() for line in curves.lines] == [[0.9, 0.2], [1.1, 0.7]]
    colours = [bars[0].get_color() for bars in scores.containers]
    assert [line.get_color() for line in curves.lines] == colours[:2]
    assert len(set(colours)) == 3
