"""Tests of figures: their values, names of axes, and bytes."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from stages.common import figures
from stages.common.figures import coverage, entropy, norms, reliability
from stages.common.metrics import classification
from stages.common.metrics.classification import per_class_report

LABELS = ("rotten", "fresh")


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def texts(figure: Figure) -> list[str]:
    return [item.get_text() for item in figure.axes[0].texts]


def test_confusion_shows_counts_per_row() -> None:
    logits = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    figure = figures.confusion(per_class_report(logits, ["rotten", "rotten", "rotten", "fresh"], LABELS))
    axes = figure.axes[0]
    assert texts(figure) == ["2", "1", "0", "1"]
    assert [item.get_text() for item in axes.get_yticklabels()] == list(LABELS)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted label", "gold label")
    assert axes.get_title() == "3 of 4 examples correct"
    assert png(figure).startswith(b"\x89PNG")


def test_confusion_has_an_empty_row_for_an_absent_label() -> None:
    figure = figures.confusion(per_class_report(np.array([[1.0, 0]]), ["rotten"], LABELS))
    assert texts(figure) == ["1", "0", "0", "0"]
    assert figure.axes[0].images[0].get_array().tolist() == [[1, 0], [0, 0]]


def test_confusion_of_many_labels_has_no_numbers_and_short_names() -> None:
    labels = tuple(f"a very long name of a label, number {number}" for number in range(figures.MAX_NUMBERS + 1))
    figure = figures.confusion(per_class_report(np.eye(len(labels)), labels, labels))
    assert texts(figure) == []
    assert all(len(item.get_text()) <= figures.MAX_NAME for item in figure.axes[0].get_yticklabels())


def test_agreement_is_the_share_of_equal_labels() -> None:
    member_logits = np.array([[[1, 0], [1, 0], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1], [1, 0]]], dtype=float)
    figure = figures.agreement(member_logits, ("one", "two"))
    assert texts(figure) == ["1.00", "0.50", "0.50", "1.00"]


def test_agreement_of_zero_is_within_the_color_range() -> None:
    member_logits = np.array([[[1, 0]] * 4, [[0, 1]] * 4], dtype=float)
    image = figures.agreement(member_logits, ("one", "two")).axes[0].images[0]
    assert image.norm.vmin == 0


def test_figures_name_their_axes() -> None:
    bins = classification.reliability_bins(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    figures_by_axes = {
        ("confidence", "accuracy"): reliability(bins, 0.123),
        ("share of examples, the most confident first", "accuracy"): coverage(
            [classification.CoveragePoint(0.5, 1.0), classification.CoveragePoint(1.0, 0.8)]
        ),
        ("entropy of a soft label (0: certain, 1: uniform)", "examples"): entropy(np.array([0.2, 0.9])),
        ("vector", "norm"): norms([1.0, 2.0], 1.5),
    }
    for names, figure in figures_by_axes.items():
        axes = figure.axes[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == names
        assert png(figure).startswith(b"\x89PNG")
    assert "0.123" in figures_by_axes["confidence", "accuracy"].axes[0].get_title()
    assert [bar.get_height() for bar in figures_by_axes["vector", "norm"].axes[0].patches] == [1, 2]


def test_figures_are_deterministic() -> None:
    first, second = (png(figures.norms([1.0, 2.0], 1.5)) for _ in range(2))
    assert first == second


def test_figures_do_not_import_pyplot() -> None:
    code = "import sys, stages.common.figures as p; p.norms([1.0]).savefig(sys.stdout.buffer); "
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\x89PNG")


def test_learning_curve_has_one_line_per_method() -> None:
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


def test_initializations_have_one_color_for_accuracy_and_loss() -> None:
    actual = [
        {"method": "ppt", "init": "ppt", "accuracy": 0.8, "accuracy_std": 0.1, "losses": ((1, 0.9), (2, 0.2))},
        {"method": "random", "init": "normal", "accuracy": 0.6, "accuracy_std": None, "losses": ((1, 1.1), (2, 0.7))},
        {"method": "long", "init": "words", "accuracy": 0.7, "accuracy_std": None, "losses": ()},
    ]
    scores, curves = figures.initializations("films", actual).axes
    assert [label.get_text() for label in scores.get_yticklabels()] == ["ppt", "random\nnormal", "long\nwords"]
    assert [bars[0].get_xdata().tolist() for bars in scores.containers] == [[0.8], [0.6], [0.7]]
    assert [line.get_ydata().tolist() for line in curves.lines] == [[0.9, 0.2], [1.1, 0.7]]
    colors = [bars[0].get_color() for bars in scores.containers]
    assert [line.get_color() for line in curves.lines] == colors[:2]
    assert len(set(colors)) == 3
