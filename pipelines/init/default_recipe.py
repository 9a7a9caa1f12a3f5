"""What a new recipe contains: a function from a task and its sizes to the sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.init.assets import MINILM, MPNET, MULTILINGUAL_E5, SMOLLM2, ModelAsset
from pipelines.init.budget import Parts, Workload, describe_reductions, estimate_seconds, reductions
from pipelines.init.language import Language
from pipelines.init.text_lengths import Lengths

Assets = Literal["packages", "hub"]
"""Where a new recipe takes its models from: a package index, or the Hugging Face hub."""
SEED = 42
NUM_PAIRS = 1280
"""Maximum number of pairs for the contrastive tuning of a probe."""
PET_STEPS, BASELINE_STEPS, STUDENT_STEPS = (24, 150), (50, 600), (50, 600)
"""Bounds of the numbers of optimizer steps, which grow with the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeProfile:
    """A task, its models and its sizes."""

    name: str
    labels: Sequence[str]
    patterns: Mapping[str, str]
    """Name -> cloze template. Without label words they only define the fields."""
    words: Mapping[str, Sequence[str]]
    """Label -> label words. Empty: no language model."""
    data: Mapping[str, Any]
    """Sources and sizes of the sets."""
    encoders: Mapping[str, Mapping[str, Any]]
    """Name -> encoder: `small` and, for accuracy, `base`."""
    backbone: Mapping[str, Any] | None
    """The language model. Required if there are label words."""
    counts: Mapping[str, int]
    """Label -> number of examples in the train set."""
    workload: Workload


@dataclass(frozen=True, slots=True)
class FittedRecipe:
    """The sections of a recipe, and how it fits into the budget."""

    sections: dict[str, Any]
    seconds: float
    """Estimated seconds on two cores."""
    left_out: Sequence[str]
    """What the budget has no time for, in words."""


def default_encoders(language: Language) -> dict[str, ModelAsset]:
    """Returns name -> encoder for a language."""
    return {"small": MINILM, "base": MPNET} if language == "english" else {"small": MULTILINGUAL_E5}


def default_backbone(language: Language, *, is_pair: bool) -> ModelAsset | None:
    """Returns the language model for a task; None if it would not help.

    SmolLM2 reads English only, and cannot compare two texts (explanation/results.md).
    """
    return SMOLLM2 if language == "english" and not is_pair else None


def reference(model: ModelAsset, assets: Assets) -> str:
    """Returns the reference of a model for a recipe."""
    return model.asset if assets == "packages" else model.hub_asset


def encoder_section(model: ModelAsset, assets: Assets, lengths: Lengths) -> dict[str, Any]:
    """Returns the settings of a pretrained encoder for texts of these lengths."""
    section: dict[str, Any] = {"asset": reference(model, assets), "max_length": lengths.max_length}
    return section | ({"prefix": model.prefix} if model.prefix else {})


def fit_recipe(profile: RecipeProfile, budget: float) -> FittedRecipe:
    """Returns the default recipe, without the parts for which the budget has no time.

    If even the smallest recipe takes longer, it is that one.

    Args:
        profile: The task.
        budget: Seconds on two cores.
    """
    full = Parts(
        has_base_student="base" in profile.encoders,
        has_base_member="base" in profile.encoders,
        has_pet=bool(profile.words),
    )
    for parts in reductions(full, profile.workload.num_unlabeled):
        sections = default_recipe(profile, parts)
        seconds = sum(estimate_seconds(sections, profile.workload).values())
        if seconds <= budget:
            break
    return FittedRecipe(sections, seconds, describe_reductions(full, parts))


def default_recipe(profile: RecipeProfile, parts: Parts) -> dict[str, Any]:
    """Returns name -> section."""
    seeds = list(range(parts.num_seeds))
    workload = profile.workload
    num_unlabeled = min(workload.num_unlabeled, parts.max_unlabeled)
    sections: dict[str, Any] = {
        "name": profile.name,
        "seed": SEED,
        "task": _task(profile, has_words=parts.has_pet),
        "data": {**profile.data, **({"unlabeled_size": parts.max_unlabeled} if num_unlabeled else {})},
        **(_pet(profile) if parts.has_pet else {"zero_shot": False}),
        "members": _members(profile, parts),
        **_students(profile, parts),
    }
    if num_unlabeled:
        sections["ensemble"] = {"average": "probabilities", "weights": "balanced"}
        sections["distill"] = {
            "seeds": seeds,
            "temperature": 2.0,
            "training": _training(profile, batch_size=16, steps=_steps(num_unlabeled / 5, STUDENT_STEPS)),
        }
    sections["baseline"] = {
        "seeds": seeds,
        "training": _training(profile, batch_size=8, steps=_steps(workload.num_labeled * 12 / 8, BASELINE_STEPS)),
    }
    return sections


def _task(profile: RecipeProfile, *, has_words: bool) -> dict[str, Any]:
    task: dict[str, Any] = {
        "name": profile.name,
        "labels": list(profile.labels),
        "patterns": dict(profile.patterns),
    }
    return task | ({"verbalizer": {label: list(words) for label, words in profile.words.items()}} if has_words else {})


def _pet(profile: RecipeProfile) -> dict[str, Any]:
    assert profile.backbone is not None
    lora: dict[str, Any] = {"rank": 8, "alpha": 16}
    if profile.backbone["asset"] in (SMOLLM2.asset, SMOLLM2.hub_asset):
        lora["targets"] = ["q_proj", "v_proj"]
    steps = _steps(profile.workload.num_labeled * 6 / 8, PET_STEPS)
    training = {"learning_rate": 0.001, "batch_size": 8, "steps": steps}
    return {
        "backbone": dict(profile.backbone),
        "pet": {"seeds": [0], "tune": "lora", "lora": lora, "training": training},
    }


def _members(profile: RecipeProfile, parts: Parts) -> dict[str, Any]:
    """Returns a probe per encoder."""
    names = [name for name in profile.encoders if name != "base" or parts.has_base_member]
    return {name: _probe(profile.encoders[name], profile.counts) for name in names}


def _probe(encoder: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """Returns a probe. Contrastive tuning needs two examples of a label, which must be near each other."""
    probe: dict[str, Any] = {"kind": "probe", "encoder": dict(encoder)}
    if max(counts.values()) > 1:
        probe["contrastive"] = {"num_pairs": NUM_PAIRS}
    return probe


def _students(profile: RecipeProfile, parts: Parts) -> dict[str, Any]:
    """Returns the section of the students."""
    del parts
    return {"student": dict(profile.encoders["small"])}


def _training(profile: RecipeProfile, *, batch_size: int, steps: int) -> dict[str, Any]:
    """Returns how a student is trained. With a dev set, the best step counts, not the last."""
    training = {"learning_rate": 5e-5, "batch_size": batch_size, "steps": steps, "warmup_ratio": 0.1}
    return training | ({"early_stopping": {"eval_steps": 20, "patience": 3}} if "dev" in profile.data else {})


def _steps(number: float, bounds: tuple[int, int]) -> int:
    return round(min(bounds[1], max(bounds[0], number)))
