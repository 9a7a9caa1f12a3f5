"""What is in the default recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.dag.fewshot import build_steps
from pipelines.default_models import COSTS, MINILM, MPNET, MULTILINGUAL_E5, QWEN_CODER, SMOLLM2
from pipelines.init.budget import Workload
from pipelines.init.default_recipe import (
    FittedRecipe,
    RecipeProfile,
    default_backbone,
    default_encoders,
    encoder_section,
    fit_recipe,
    reference,
)
from pipelines.init.text_lengths import Lengths
from pipelines.schema.loader import load_config
from stages.common.assets.references import Asset

LENGTHS = Lengths(30, 50, "word")
SOURCE = {"asset": "x.csv", "label": "label"}


def profile(**changes: Any) -> RecipeProfile:
    workload = Workload(
        lengths=LENGTHS,
        num_labeled=changes.pop("num_labeled", 32),
        num_unlabeled=changes.pop("num_unlabeled", 1000),
        num_test=500,
    )
    settings: dict[str, Any] = {
        "name": "tickets",
        "labels": ("billing", "bug"),
        "patterns": {"topic": "{text}\nTopic:{mask}"},
        "verbalizer": {"billing": ["billing"], "bug": ["bug"]},
        "data": {"train": SOURCE, "test": SOURCE, "unlabeled": {"asset": "y.csv"}},
        "encoders": {
            name: encoder_section(model, "packages", LENGTHS) for name, model in default_encoders("english").items()
        },
        "backbone": {"asset": SMOLLM2.asset, "max_length": 64},
        "counts": {"billing": 16, "bug": 16},
        "analyzer": "word",
        "workload": workload,
    }
    return RecipeProfile(**(settings | changes))


def fit(budget: float = 1e6, **changes: Any) -> FittedRecipe:
    return fit_recipe(profile(**changes), budget)


def test_default_recipe_is_valid() -> None:
    config = load_config(fit().sections)
    assert list(config.members) == [
        "base_tuned", "base_frozen", "small_tuned", "small_frozen", "small_finetuned", "words"
    ]  # fmt: skip
    ensemble = config.ensemble
    assert (ensemble.average, ensemble.weights, ensemble.scaling, ensemble.calibration) == (
        "probabilities", "held_out", "held_out", "unlabeled"
    )  # fmt: skip
    assert config.data.unlabeled_size == 5000
    assert config.pet is not None and (config.pet.num_folds, config.pet.lora.targets) == (4, ("q_proj", "v_proj"))
    assert build_steps(config)


def test_each_encoder_has_a_frozen_and_a_tuned_member() -> None:
    members = fit().sections["members"]
    assert members["words"] == {"kind": "tfidf", "analyzer": "word", "num_folds": 4}
    for name, model in (("small", MINILM), ("base", MPNET)):
        frozen, tuned = members[f"{name}_frozen"], members[f"{name}_tuned"]
        assert frozen["encoder"]["asset"] == tuned["encoder"]["asset"] == model.asset
        assert "contrastive" not in frozen and tuned["contrastive"]["training"]["average_last"] == 0.75
    small = {"small": profile().encoders["small"]}
    assert list(fit(encoders=small).sections["members"]) == ["small_tuned", "small_frozen", "small_finetuned", "words"]
    assert fit(analyzer="char").sections["members"]["words"]["analyzer"] == "char"


def test_two_texts_are_compared_too() -> None:
    source = {**SOURCE, "fields": {"text_a": "a", "text_b": "b"}}
    pairs: dict[str, Any] = {
        "has_two_texts": True,
        "patterns": {"same": "{text_a}\n{text_b}\nTopic:{mask}"},
        "data": {"train": source, "test": source, "unlabeled": {"asset": "y.csv", "fields": source["fields"]}},
    }
    sections = fit(**pairs).sections
    config = load_config(sections)
    assert {name for name in config.members if name.endswith("compared")} == {"base_compared", "small_compared"}
    assert sections["members"]["base_compared"]["pairs"] == "separate"
    assert not [name for name in fit().sections["members"] if name.endswith("compared")]
    assert build_steps(config)
    without = {"base_frozen", "base_compared", "small_frozen", "small_compared", "small_finetuned", "words"}
    fitted = fit(0.6 * fit(**pairs).seconds, **pairs, relates_texts=True)
    assert fitted.sections["members"].keys() == without and "no tuned encoders" in fitted.left_out
    assert "pet" in fitted.sections


@pytest.mark.parametrize(("num_labeled", "is_finetuned"), [(63, False), (64, True), (640, True)])
def test_base_encoder_is_fine_tuned_from_32_examples_per_label(num_labeled: int, is_finetuned: bool) -> None:
    sections = fit(num_labeled=num_labeled).sections
    names = [name for name, item in sections["members"].items() if item["kind"] == "finetuned"]
    assert names == (["base_finetuned", "small_finetuned"] if is_finetuned else ["small_finetuned"])
    load_config(sections)


def test_the_base_student_teaches_the_others() -> None:
    students = fit().sections["students"]
    assert {name: item.get("teacher") for name, item in students.items()} == {
        "small": "base", "base": None, "words": "base",
    }  # fmt: skip
    assert students["base"]["training"]["learning_rate"] < students["small"]["training"]["learning_rate"]
    alone = fit(encoders={"small": profile().encoders["small"]}).sections["students"]
    assert list(alone) == ["small", "words"] and all("teacher" not in item for item in alone.values())


@pytest.mark.parametrize(("counts", "is_balanced"), [((16, 10), False), ((15, 10), True)])
def test_frequencies_are_estimated_if_the_labeled_examples_say_nothing_about_them(
    counts: tuple[int, int], is_balanced: bool
) -> None:
    ensemble = fit(counts=dict(zip(("billing", "bug"), counts, strict=True))).sections["ensemble"]
    assert ensemble.get("calibration") == ensemble.get("label_frequencies") == ("unlabeled" if is_balanced else None)


def test_models_follow_language_and_form() -> None:
    assert default_encoders("english") == {"small": MINILM, "base": MPNET}
    assert default_encoders("other") == {"small": MULTILINGUAL_E5}
    assert default_backbone("english", is_pair=False) is SMOLLM2
    assert default_backbone("english", is_pair=True) is default_backbone("other", is_pair=False) is QWEN_CODER
    assert encoder_section(MULTILINGUAL_E5, "hub", LENGTHS) == {
        "asset": "hf:intfloat/multilingual-e5-small", "max_length": 80, "prefix": "query: "
    }  # fmt: skip


def test_the_larger_language_model_is_calibrated_only() -> None:
    sections = fit(backbone={"asset": QWEN_CODER.asset, "max_length": 64}).sections
    assert sections["pet"] == {"tune": "none"}
    assert build_steps(load_config(sections))


def test_budget_leaves_out_patterns_from_the_last() -> None:
    patterns = {name: f"{{text}}\n{name}:{{mask}}" for name in ("one", "two", "three")}
    verbalizer = {label: {name: [f"{label} {name}"] for name in patterns} for label in ("billing", "bug")}
    settings: dict[str, Any] = {
        "patterns": patterns,
        "verbalizer": verbalizer,
        "backbone": {"asset": QWEN_CODER.asset, "max_length": 64},
        "num_unlabeled": 5000,
    }
    seconds = fit(**settings).seconds
    fewer = [item for item in (fit(share * seconds, **settings) for share in (0.9, 0.8, 0.7)) if item.left_out]
    fitted = next(item for item in fewer if "1 pattern instead of 3" in item.left_out)
    task = fitted.sections["task"]
    assert task["patterns"] == {"one": patterns["one"]}
    assert task["verbalizer"] == {"billing": {"one": ["billing one"]}, "bug": {"one": ["bug one"]}}
    load_config(fitted.sections)
    own = fit(fitted.seconds, has_own_patterns=True, **settings)
    assert "no PET" in own.left_out and own.sections["task"]["patterns"] == patterns


@pytest.mark.parametrize("model", COSTS)
def test_references_of_models_are_valid(model: Any) -> None:
    assert Asset.parse(reference(model, "packages")).scheme not in ("path", "hf")
    assert Asset.parse(reference(model, "hub")).scheme == "hf"


def test_recipe_without_label_words_has_no_language_model() -> None:
    sections = fit(verbalizer={}, backbone=None).sections
    assert not {"pet", "backbone"} & set(sections)
    assert "calibration" not in sections["ensemble"]
    assert sections["task"] == {
        "name": "tickets", "labels": ["billing", "bug"], "patterns": {"topic": "{text}\nTopic:{mask}"}
    }  # fmt: skip
    load_config(sections)


def test_recipe_without_unlabeled_texts_has_no_distillation() -> None:
    sections = fit(num_unlabeled=0, data={"train": SOURCE, "test": SOURCE}).sections
    assert not {"distill", "ensemble"} & set(sections)
    assert "unlabeled_size" not in sections["data"]
    assert all("training" not in item and "teacher" not in item for item in sections["students"].values())
    assert sections["baseline"] == {"num_folds": 4}, "cross-validation selects the classifier"
    load_config(sections)


def test_probes_are_tuned_if_a_label_has_two_examples() -> None:
    one = fit(counts={"billing": 1, "bug": 1}, num_labeled=2).sections["members"]
    assert list(one) == ["base_frozen", "small_frozen", "small_finetuned", "words"]
    two = fit(counts={"billing": 2, "bug": 1}, num_labeled=3).sections["members"]
    assert {"small_tuned", "base_tuned"} <= set(two)


def test_training_grows_with_the_data_within_bounds() -> None:
    few = fit(num_labeled=4, num_unlabeled=50).sections
    many = fit(num_labeled=5000, num_unlabeled=90_000, labels=[f"label {number}" for number in range(50)]).sections

    def steps(sections: dict[str, Any]) -> dict[str, int]:
        small, base = (sections["students"][name] for name in ("small", "base"))
        return {
            "pet": sections["pet"]["training"]["steps"],
            "contrastive": sections["members"]["small_tuned"]["contrastive"]["training"]["steps"],
            "baseline": small["baseline_training"]["steps"],
            "small": small["training"]["steps"],
            "base": base["training"]["steps"],
        }

    assert steps(few) == {"pet": 24, "contrastive": 34, "baseline": 50, "small": 100, "base": 100}
    assert steps(many) == {"pet": 150, "contrastive": 200, "baseline": 600, "small": 625, "base": 312}


LABELS = [f"label {number}" for number in range(60)]


@pytest.mark.parametrize(
    ("num_unlabeled", "labels", "is_enough"),
    [(49, LABELS[:2], False), (50, LABELS[:2], True), (59, LABELS, False), (60, LABELS, True)],
)
def test_students_need_enough_unlabeled_texts(num_unlabeled: int, labels: list[str], is_enough: bool) -> None:
    words: dict[str, Any] = {"labels": labels, "verbalizer": {label: [label] for label in labels}}
    sections = fit(num_unlabeled=num_unlabeled, **words).sections
    config = load_config(sections)
    assert config.has_unlabeled == is_enough
    assert {"ensemble", "distill"} <= set(sections) if is_enough else not {"ensemble", "distill"} & set(sections)
    kinds = {step.kind for step in build_steps(config)}
    assert ("distill" in kinds, "soft_labels" in kinds) == (is_enough, is_enough)
    assert "baseline" in kinds and config.baseline and (config.baseline.num_folds is None) == is_enough


def test_what_is_left_of_a_pool_counts_as_unlabeled_texts() -> None:
    few = load_config(fit(num_unlabeled=5, data={"pool": SOURCE, "shots": 4}).sections)
    assert few.data.unlabeled_size == 0 and not few.has_unlabeled


def test_class_weights_reach_all_classifiers() -> None:
    sections = fit(num_labeled=64, class_weights="balanced").sections
    config = load_config(sections)
    assert config.class_weights == "balanced" and "class_weights" not in fit().sections
    kinds = {step.kind for step in build_steps(config) if getattr(step.config, "class_weights", "none") == "balanced"}
    assert kinds == {"probe", "finetuned", "tfidf", "distill", "baseline"}


@pytest.mark.parametrize(
    ("num_unlabeled", "kinds"), [(500, {"soft_labels"}), (5, {"probe", "tfidf", "finetuned", "baseline"})]
)
def test_label_bias_is_that_of_the_ensemble_or_of_each_classifier(num_unlabeled: int, kinds: set[str]) -> None:
    config = load_config(fit(num_labeled=64, num_unlabeled=num_unlabeled, label_bias="macro_f1").sections)
    biased = {step.kind for step in build_steps(config) if getattr(step.config, "label_bias", "none") == "macro_f1"}
    assert biased - {"report"} == kinds and "report" in biased


def test_dev_set_stops_training_early() -> None:
    sections = fit(num_labeled=64, data={**profile().data, "dev": SOURCE}).sections
    students, members = sections["students"], sections["members"]
    for name in ("small", "base"):
        trainings = (students[name]["training"], students[name]["baseline_training"])
        assert all("early_stopping" in item for item in (*trainings, members[f"{name}_finetuned"]["training"]))
    load_config(sections)


def test_budget_leaves_out_parts_until_the_estimate_fits() -> None:
    full = fit()
    assert full.left_out == []
    previous = full
    for share in (0.9, 0.5, 0.2, 0.05):
        fitted = fit(share * full.seconds)
        assert fitted.seconds <= previous.seconds and len(fitted.left_out) >= len(previous.left_out)
        load_config(fitted.sections)
        previous = fitted
    assert fit(0.4 * full.seconds).seconds <= 0.4 * full.seconds


def test_smallest_recipe_is_written_if_nothing_fits() -> None:
    fitted = fit(1)
    assert fitted.seconds > 1
    assert fitted.left_out == [
        "no PET", "no base encoder", "no fine-tuned members", "texts cut after 32 tokens",
        "at most 500 unlabeled texts", "2 folds instead of 4",
    ]  # fmt: skip
    sections = fitted.sections
    assert list(sections["members"]) == ["small_tuned", "small_frozen", "words"]
    read = [member["encoder"] for member in sections["members"].values() if "encoder" in member]
    assert {encoder["max_length"] for encoder in [*read, sections["students"]["small"]]} == {32}
    assert list(sections["students"]) == ["small", "words"] and sections["data"]["unlabeled_size"] == 500
    assert sections["members"]["small_tuned"]["num_folds"] == 2
    assert "verbalizer" not in sections["task"]
    load_config(sections)


@pytest.mark.parametrize("num_labels", [2, 8, 20])
def test_five_minutes_are_enough_for_long_texts(num_labels: int) -> None:
    """16 examples per label, and 3,000 unlabeled texts of 250 tokens."""
    labels, lengths = tuple(f"c{number}" for number in range(num_labels)), Lengths(250, 500, "word")
    workload = Workload(lengths=lengths, num_labeled=16 * num_labels, num_unlabeled=3000, num_test=500)
    encoders = {
        name: encoder_section(model, "packages", lengths) for name, model in default_encoders("english").items()
    }
    changes: dict[str, Any] = {"labels": labels, "verbalizer": {}, "encoders": encoders, "workload": workload}
    changes["counts"] = dict.fromkeys(labels, 16)
    fitted = fit_recipe(replace(profile(), **changes), 300)
    assert fitted.seconds <= 300
    assert {"small_tuned", "small_frozen"} <= set(fitted.sections["members"])


def test_frozen_members_keep_their_folds() -> None:
    """Their cross-validation takes no time: texts are embedded once."""
    members = fit(1).sections["members"]
    assert members["words"]["num_folds"] == members["small_frozen"]["num_folds"] == 4


def test_base_models_are_used_if_there_are_any() -> None:
    small = {"small": profile().encoders["small"]}
    assert list(fit(encoders=small).sections["students"]) == ["small", "words"]
    assert "no base encoder" not in fit_recipe(replace(profile(), encoders=small), 1).left_out
