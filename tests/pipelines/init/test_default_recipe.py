"""What is in the default recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.init.assets import MINILM, MPNET, MULTILINGUAL_E5, SMOLLM2
from pipelines.init.budget import COSTS, Workload
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

LENGTHS = Lengths(30, 50)
SOURCE = {"asset": "x.csv", "label": "label"}


def profile(**changes: Any) -> RecipeProfile:
    workload = Workload(
        lengths=LENGTHS,
        label_tokens=0,
        num_labeled=changes.pop("num_labeled", 32),
        num_unlabeled=changes.pop("num_unlabeled", 1000),
        num_test=500,
    )
    settings: dict[str, Any] = {
        "name": "tickets",
        "labels": ("billing", "bug"),
        "patterns": {"topic": "{text}\nTopic:{mask}"},
        "words": {"billing": ["billing"], "bug": ["bug"]},
        "data": {"train": SOURCE, "test": SOURCE, "unlabeled": {"asset": "y.csv"}},
        "encoders": {
            name: encoder_section(model, "packages", LENGTHS) for name, model in default_encoders("english").items()
        },
        "backbone": {"asset": SMOLLM2.asset, "max_length": 64},
        "counts": {"billing": 16, "bug": 16},
        "workload": workload,
    }
    return RecipeProfile(**(settings | changes))


def fit(budget: float = 1e6, **changes: Any) -> FittedRecipe:
    return fit_recipe(profile(**changes), budget)


def test_default_recipe_is_valid() -> None:
    config = load_config(fit().sections)
    assert list(config.members) == ["small", "base"]
    assert (config.ensemble.average, config.ensemble.weights) == ("probabilities", "balanced")
    assert config.data.unlabeled_size == 5000 and len(config.distill.seeds) == 3
    assert config.zero_shot and config.pet.lora.targets == ("q_proj", "v_proj")


def test_models_follow_language_and_form() -> None:
    assert default_encoders("english") == {"small": MINILM, "base": MPNET}
    assert default_encoders("other") == {"small": MULTILINGUAL_E5}
    assert default_backbone("english", is_pair=False) is SMOLLM2
    assert default_backbone("english", is_pair=True) is default_backbone("other", is_pair=False) is None
    assert encoder_section(MULTILINGUAL_E5, "hub", LENGTHS) == {
        "asset": "hf:intfloat/multilingual-e5-small", "max_length": 56, "prefix": "query: "
    }  # fmt: skip


@pytest.mark.parametrize("model", COSTS)
def test_references_of_models_are_valid(model: Any) -> None:
    assert Asset.parse(reference(model, "packages")).scheme not in ("path", "hf")
    assert Asset.parse(reference(model, "hub")).scheme == "hf"


def test_recipe_without_label_words_has_no_language_model() -> None:
    sections = fit(words={}, backbone=None).sections
    assert not {"pet", "backbone"} & set(sections)
    assert sections["zero_shot"] is False
    assert sections["task"] == {
        "name": "tickets", "labels": ["billing", "bug"], "patterns": {"topic": "{text}\nTopic:{mask}"}
    }  # fmt: skip
    assert list(sections["members"]) == ["small", "base"]


def test_recipe_without_unlabeled_texts_has_no_distillation() -> None:
    sections = fit(num_unlabeled=0, data={"train": SOURCE, "test": SOURCE}).sections
    assert not {"distill", "ensemble"} & set(sections)
    assert "unlabeled_size" not in sections["data"]
    assert {"members", "baseline", "student"} <= set(sections)


def test_probes_are_tuned_if_a_label_has_two_examples() -> None:
    one = fit(counts={"billing": 1, "bug": 1}, num_labeled=2).sections["members"]
    assert not any("contrastive" in item for item in one.values())
    two = fit(counts={"billing": 2, "bug": 1}, num_labeled=3).sections["members"]
    assert all("contrastive" in item for item in two.values())


def test_training_grows_with_the_data_within_bounds() -> None:
    few, many = fit(num_labeled=4, num_unlabeled=20).sections, fit(num_labeled=5000, num_unlabeled=90_000).sections
    for key, steps in {"pet": (24, 150), "baseline": (50, 600), "distill": (50, 600)}.items():
        assert (few[key]["training"]["steps"], many[key]["training"]["steps"]) == steps


def test_dev_set_stops_training_early() -> None:
    sections = fit(data={**profile().data, "dev": SOURCE}).sections
    assert all("early_stopping" in sections[key]["training"] for key in ("distill", "baseline"))
    load_config(sections)


def test_budget_leaves_out_parts_until_the_estimate_fits() -> None:
    full = fit()
    assert full.left_out == []
    previous = full
    for share in (0.9, 0.5, 0.2, 0.05):
        fitted = fit(share * full.seconds)
        assert fitted.seconds <= previous.seconds and len(fitted.left_out) >= len(previous.left_out)
        previous = fitted
    assert fit(0.4 * full.seconds).seconds <= 0.4 * full.seconds


def test_smallest_recipe_is_written_if_nothing_fits() -> None:
    fitted = fit(1)
    assert fitted.seconds > 1
    assert fitted.left_out == [
        "no base student", "no base member", "no PET", "at most 500 unlabeled texts", "1 seed instead of 3"
    ]  # fmt: skip
    assert list(fitted.sections["members"]) == ["small"]
    assert fitted.sections["distill"]["seeds"] == [0] and fitted.sections["data"]["unlabeled_size"] == 500


def test_base_models_are_used_if_there_are_any() -> None:
    small = {"small": profile().encoders["small"]}
    assert list(fit(encoders=small).sections["members"]) == ["small"]
    assert fit_recipe(replace(profile(), encoders=small), 1).left_out[0] == "no PET"
