"""Starts of prompts side by side: which methods are compared, and what the page shows of them."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from pipelines import page
from pipelines.report import Row, Spread, flat_starts
from pipelines.starts import mean_losses, starts

STARTS = {"ppt": "ppt", "random": "normal", "long": "normal"}


def row(name: str, mean: float, std: float | None = 0.01) -> Row:
    spread = Spread(mean=mean, std=std)
    return Row(
        name=name, kind="prompt", task=name.split("/")[1], accuracy=spread, macro_f1=spread, mcc=None, ece=None,
        exact_match=None, entity_f1=None, num_seeds=2, num_test=9, num_labelled=4, num_unlabelled=0,
        trainable_parameters=1, steps=(f"{name}/0", f"{name}/1"),
    )  # fmt: skip


ROWS = (row("prompts/films/ppt", 0.8), row("prompts/films/random", 0.7, None), row("prompts/books/random", 0.6))
CURVES = {"prompts/films/ppt": {"a/0": [(1, 0.9), (2, 0.5)], "a/1": [(1, 0.7), (2, 0.3)]}}


def test_tasks_with_several_starts_are_compared_and_others_are_not() -> None:
    found = starts(ROWS, STARTS, CURVES)
    assert [(item.task, item.method, item.start) for item in found] == [
        ("films", "ppt", "ppt"), ("films", "random", "normal"),
    ]  # fmt: skip
    assert (found[0].accuracy, found[0].accuracy_std, found[0].num_seeds) == (0.8, 0.01, 2)
    assert (found[0].first_loss, found[0].last_loss) == pytest.approx((0.8, 0.4))
    assert found[1].losses == () and found[1].last_loss is None


def test_methods_that_start_alike_are_no_comparison() -> None:
    alike = (row("prompts/films/random", 0.8), row("prompts/films/long", 0.7))
    assert starts(alike, STARTS, {}) == ()
    others = tuple(replace(item, kind="baseline") for item in ROWS)
    assert starts(others, STARTS, {}) == ()


def test_the_mean_loss_is_of_the_steps_that_all_seeds_have() -> None:
    assert mean_losses({"a": [(1, 1.0), (2, 3.0)], "b": [(1, 2.0)]}) == ((1, 1.5),)
    assert mean_losses({}) == ()


def test_the_page_has_a_table_and_a_line_for_each_start() -> None:
    compared = [asdict(item) for item in starts(ROWS, STARTS, CURVES)]
    (shown,) = page._starts(compared)
    assert [item["cells"] for item in shown["rows"]] == [
        ("ppt", "ppt", "80.0 ± 1.0", "0.400"), ("random", "normal", "70.0", ""),
    ]  # fmt: skip
    assert len({item["colour"] for item in shown["rows"]}) == 2
    assert str(shown["chart"]).count("<polyline") == 2
    assert all("losses" not in item for item in flat_starts(compared))


def test_accuracy_against_labels_has_a_column_for_each_number_and_whiskers() -> None:
    points = [
        {"method": "baseline", "num_labelled": 4, "accuracy": 0.5, "accuracy_std": 0.1, "num_seeds": 2},
        {"method": "baseline", "num_labelled": 16, "accuracy": 0.75, "accuracy_std": None, "num_seeds": 2},
    ]
    shown = page._learning(points)
    assert shown is not None
    assert shown["sizes"] == [4, 16]
    assert shown["rows"][0]["cells"] == ("baseline", "50.0 ± 10.0", "75.0")
    assert str(shown["chart"]).count('<line class="s0"') == 1, "one point has a deviation"
    assert page._learning([]) is None
