"""Durations, estimates, and what a budget leaves out."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import pytest

from pipelines.default_models import COSTS, MINILM, MPNET, PATTERN_TOKENS, QWEN_CODER, SMOLLM2, STEP_OVERHEAD
from pipelines.init.budget import (
    MAX_SCORED,
    MIN_SCORED,
    Parts,
    Workload,
    describe_reductions,
    estimate_seconds,
    fit_parts,
    format_duration,
    num_scored,
    parse_budget,
    reductions,
)
from pipelines.init.text_lengths import Lengths
from stages.common.errors import InputError

WORK = Workload(lengths=Lengths(40, 60, "word"), num_labeled=100, num_unlabeled=8000, num_test=500)
ENCODER = {"asset": MPNET.asset, "max_length": 64}
TRAINING = {"steps": 100, "batch_size": 16}
SECTIONS: dict[str, Any] = {
    "task": {"patterns": {"one": "", "two": ""}},
    "data": {"unlabeled_size": 5000},
    "backbone": {"asset": SMOLLM2.asset, "max_length": 64},
    "pet": {"num_folds": 3, "training": {"steps": 50, "batch_size": 8}},
    "members": {
        "words": {"kind": "tfidf", "num_folds": 4},
        "frozen": {"kind": "probe", "encoder": ENCODER, "num_folds": 4},
        "tuned": {
            "kind": "probe",
            "encoder": ENCODER,
            "num_folds": 4,
            "contrastive": {"training": {"steps": 25, "batch_size": 16}},
        },
        "finetuned": {"kind": "finetuned", "encoder": ENCODER, "num_folds": 2, "training": TRAINING},
    },
    "students": {
        "small": {"asset": MINILM.asset, "max_length": 64, "training": TRAINING, "baseline_training": TRAINING},
    },
    "distill": {},
    "baseline": {"num_folds": 2},
}


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("25m", 1500), ("2h", 7200), ("1h30m", 5400), (" 1m ", 60)])
def test_durations_are_parsed(text: str, seconds: int) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("25", "--budget 25m"), ("0m", "--budget 30m"), ("", "--budget"), ("5 min", "--budget"), ("30s", "--budget")],
)
def test_other_texts_are_not_durations(text: str, remedy: str) -> None:
    with pytest.raises(InputError, match="is not a duration") as caught:
        parse_budget(text)
    assert remedy in caught.value.remedy and "units" in caught.value.remedy


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 minute"), (60, "1 minute"), (61, "2 minutes"), (3600, "1 hour"), (5430, "1 hour 31 minutes")],
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_estimate_sums_tokens_times_cost() -> None:
    seconds = estimate_seconds(SECTIONS, WORK)
    assert set(seconds) == {*(f"members.{name}" for name in SECTIONS["members"]), "pet", "distill", "baseline"}
    mpnet, minilm, smollm2 = COSTS[MPNET], COSTS[MINILM], COSTS[SMOLLM2]
    reading = STEP_OVERHEAD + 5600 * 0.04 * mpnet.reading
    assert seconds["members.words"] == STEP_OVERHEAD
    assert seconds["members.frozen"] == pytest.approx(reading)
    assert seconds["members.tuned"] == pytest.approx(reading + 5 * 25 * 16 * 0.04 * mpnet.training)
    assert seconds["members.finetuned"] == pytest.approx(reading + 3 * 1600 * 0.04 * mpnet.training)
    one = 1600 * 0.04 * minilm.training
    assert seconds["distill"] == pytest.approx(STEP_OVERHEAD + one + 500 * 0.04 * minilm.reading)
    assert seconds["baseline"] == pytest.approx(STEP_OVERHEAD + 3 * one + 500 * 0.04 * minilm.reading)
    tokens = (40 + PATTERN_TOKENS) / 1000
    submodel = 4 * 400 * tokens * smollm2.training + (5600 + 500) * tokens * smollm2.reading
    assert seconds["pet"] == pytest.approx(2 * (2 * STEP_OVERHEAD + submodel)), "with the zero-shot test of a pattern"


def test_a_student_that_teaches_also_reads_the_unlabeled_texts() -> None:
    sections, before = copy.deepcopy(SECTIONS), estimate_seconds(SECTIONS, WORK)
    sections["students"]["tiny"] = {**SECTIONS["students"]["small"], "teacher": "small"}
    after = estimate_seconds(sections, WORK)
    assert after["distill"] == pytest.approx(2 * before["distill"] + 5000 * 0.04 * COSTS[MINILM].reading)
    assert after["baseline"] == pytest.approx(2 * before["baseline"])


def test_estimate_grows_with_lengths_texts_and_label_words() -> None:
    base = estimate_seconds(SECTIONS, WORK)
    longer = estimate_seconds(SECTIONS, replace(WORK, lengths=Lengths(50, 60, "word")))
    assert all(longer[name] > base[name] for name in base if name != "members.words")
    words = estimate_seconds(SECTIONS, replace(WORK, num_readings=8.0))
    assert words["pet"] > base["pet"] and words["distill"] == base["distill"]
    assert estimate_seconds(SECTIONS, replace(WORK, num_unlabeled=9000)) == base, "5,000 of them are used"
    truncated = estimate_seconds(SECTIONS, replace(WORK, lengths=Lengths(500, 600, "word")))
    assert truncated == estimate_seconds(SECTIONS, replace(WORK, lengths=Lengths(64, 600, "word")))


def test_models_of_the_user_count_as_the_largest() -> None:
    sections = copy.deepcopy(SECTIONS)
    sections["members"]["frozen"]["encoder"]["asset"] = sections["students"]["small"]["asset"] = "folder"
    seconds, base = estimate_seconds(sections, WORK), estimate_seconds(SECTIONS, WORK)
    assert seconds["members.frozen"] == base["members.frozen"]
    assert seconds["distill"] > 2 * base["distill"]
    sections["students"]["small"]["asset"] = f"hf:{MINILM.hub}"
    assert estimate_seconds(sections, WORK)["distill"] == base["distill"]


def test_reductions_leave_out_one_part_after_the_other() -> None:
    full = Parts(has_base=True, num_patterns=3)
    steps = list(reductions(full, 8000))
    assert [describe_reductions(one, other)[0] for one, other in itertools.pairwise(steps)] == [
        "3 folds instead of 4", "2 folds instead of 3", "2 patterns instead of 3", "1 pattern instead of 2",
        "no PET", "no base student",
        "at most 4,000 unlabeled texts", "at most 3,000 unlabeled texts", "at most 2,000 unlabeled texts",
        "at most 1,000 unlabeled texts", "no base encoder", "at most 500 unlabeled texts", "no fine-tuned members",
    ]  # fmt: skip
    assert describe_reductions(full, steps[-1]) == [
        "no PET", "no base encoder", "no fine-tuned members", "at most 500 unlabeled texts", "2 folds instead of 4"
    ]  # fmt: skip


def test_long_texts_are_cut_where_the_training_of_encoders_ended_then_shorter() -> None:
    def lost(max_length: int) -> list[str]:
        steps = reductions(Parts(has_base=True, num_patterns=1, max_length=max_length), 500)
        return [describe_reductions(one, other)[0] for one, other in itertools.pairwise(steps)]

    cut = [f"texts cut after {number} tokens" for number in (128, 64, 32)]
    assert lost(256)[2:5] == [cut[0], "no PET", "no base student"]
    assert lost(256)[-3:] == ["no fine-tuned members", *cut[1:]]
    assert [item for item in lost(100) if item.startswith("texts")] == cut[1:]
    assert [item for item in lost(32) if item.startswith("texts")] == []


def test_fine_tuned_members_stay_if_there_are_many_labels() -> None:
    *_, last = reductions(Parts(has_base=False, num_patterns=0), 500, keep_finetuned=True)
    assert (last.has_finetuned, last.has_tuned) == (True, False)


def test_language_model_is_left_out_last_if_labels_relate_texts() -> None:
    full = Parts(has_base=True, num_patterns=2)
    steps = list(reductions(full, 8000, relates_texts=True))
    lost = [describe_reductions(one, other)[0] for one, other in itertools.pairwise(steps)]
    assert lost[2:5] == ["1 pattern instead of 2", "no tuned encoders", "no base student"]
    assert lost[-4:] == ["no base encoder", "at most 500 unlabeled texts", "no PET", "no fine-tuned members"]
    assert all(item.has_tuned for item in reductions(full, 8000))


def test_reductions_skip_parts_that_the_recipe_does_not_have() -> None:
    small = Parts(has_base=False, num_patterns=0)
    lost = [describe_reductions(small, item) for item in reductions(small, 0)]
    assert lost[-2:] == [["2 folds instead of 4"], ["no fine-tuned members", "2 folds instead of 4"]]
    assert list(dict.fromkeys(item.max_unlabeled for item in reductions(small, 1500))) == [5000, 1000, 500]


def test_patterns_of_the_user_are_left_out_together() -> None:
    full = Parts(has_base=True, num_patterns=3)
    assert {item.num_patterns for item in reductions(full, 8000, keep_patterns=True)} == {0, 3}


def test_what_fits_again_comes_back_the_most_useful_first() -> None:
    full = Parts(has_base=True, num_patterns=2)
    path = list(reductions(full, 3000))

    def seconds(parts: Parts) -> float:
        return 100 * parts.has_base + 10 * parts.num_patterns + parts.num_folds + parts.max_unlabeled / 1000

    assert fit_parts(path, lambda parts: seconds(parts) <= 1000) == full
    fitted = fit_parts(path, lambda parts: seconds(parts) <= 28)
    assert describe_reductions(full, fitted) == ["no base encoder", "3 folds instead of 4"]
    assert (fitted.num_patterns, fitted.max_unlabeled) == (2, 5000)
    assert fit_parts(path, lambda parts: False) == path[-1]


def test_base_student_comes_back_with_its_encoder_only() -> None:
    path = list(reductions(Parts(has_base=True, num_patterns=0), 1000))
    fitted = fit_parts(path, lambda parts: not parts.has_base)
    assert (fitted.has_base, fitted.has_base_student, fitted.num_folds) == (False, False, 4)


def test_sub_models_without_training_take_the_time_of_reading() -> None:
    sections = {**SECTIONS, "backbone": {"asset": QWEN_CODER.asset, "max_length": 64}, "pet": {"tune": "none"}}
    tokens = (2 * 500 + 100 + 5000) * (40 + PATTERN_TOKENS) / 1000
    expected = 2 * (2 * STEP_OVERHEAD + tokens * COSTS[QWEN_CODER].reading)
    assert estimate_seconds(sections, WORK)["pet"] == pytest.approx(expected)
    once = 2 * (STEP_OVERHEAD + (tokens - 500 * (40 + PATTERN_TOKENS) / 1000) * COSTS[QWEN_CODER].reading)
    assert estimate_seconds({**sections, "zero_shot": False}, WORK)["pet"] == pytest.approx(once)


def test_fewer_examples_are_scored_if_a_pass_takes_longer() -> None:
    work, backbone = replace(WORK, num_labeled=5000), {"asset": SMOLLM2.asset, "max_length": 256}
    assert num_scored(backbone, 7, work) == MAX_SCORED
    assert num_scored(backbone, 7, replace(work, num_readings=8.0)) < MAX_SCORED
    assert num_scored(backbone, 7, replace(work, num_readings=800.0)) == MIN_SCORED
    assert num_scored(backbone, 7, replace(work, num_labeled=8)) == 8
