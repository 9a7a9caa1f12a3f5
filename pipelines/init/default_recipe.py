"""What a new recipe contains: a function from a task and its sizes to the sections of a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.default_models import MINILM, MPNET, MULTILINGUAL_E5, QWEN_CODER, SMOLLM2, ModelAsset
from pipelines.init.budget import (
    MAX_FOLDS,
    Parts,
    Workload,
    describe_reductions,
    estimate_seconds,
    fit_parts,
    reductions,
)
from pipelines.init.language import Language
from pipelines.init.text_lengths import Lengths
from stages.common.config import MULTI_LABEL, SINGLE_LABEL, ClassWeights, LabelBias, ProblemType
from stages.distillation.config import min_unlabeled

Assets = Literal["packages", "hub"]
"""Where a new recipe takes its models from: a package index, or the Hugging Face hub."""
SEED = 42
AVERAGED_FOLDS = 3
"""Folds of the cross-validation from which on the mean of their encoders is as good as one that saw all labels."""
CONTRASTIVE_STEPS, PET_STEPS, BASELINE_STEPS = (30, 200), (24, 150), (50, 600)
"""Bounds of the numbers of optimizer steps, which grow with the number of labels or of labeled examples."""
STUDENT_EPOCHS = {"small": 2, "base": 1}
MIN_STUDENT_STEPS = 100
LEARNING_RATES = {"small": 5e-5, "base": 2e-5}
"""Learning rates of full training on labels. A larger encoder needs a lower one."""
MANY_EXAMPLES = 32
"""Labeled examples per label from which fine-tuning the base encoder is worth its time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeProfile:
    """A task, its models and its sizes."""

    name: str
    labels: Sequence[str]
    problem_type: ProblemType = SINGLE_LABEL
    patterns: Mapping[str, str]
    """Name -> cloze template, the best first. Without label words they only define the fields."""
    has_two_texts: bool = False
    """Whether an example has two texts."""
    relates_texts: bool = False
    """Whether a label seems to say how two texts relate."""
    has_own_patterns: bool = False
    """Whether the user sets the patterns, so that none is left out."""
    verbalizer: Mapping[str, Any]
    """Label -> label words, or label -> pattern -> label words. Empty before the language model is downloaded."""
    data: Mapping[str, Any]
    """Sources and sizes of the sets."""
    encoders: Mapping[str, Mapping[str, Any]]
    """Name -> encoder: `small` and, for accuracy, `base`."""
    backbone: Mapping[str, Any] | None
    """The language model; None: no PET."""
    counts: Mapping[str, int]
    """Label -> number of examples in the train set."""
    analyzer: str
    """Units of TF-IDF: word, or char for languages without spaces."""
    workload: Workload
    class_weights: ClassWeights = "none"
    label_bias: LabelBias = "none"

    @property
    def has_enough_unlabeled(self) -> bool:
        """Whether there are enough unlabeled texts for students to learn from."""
        return self.workload.num_unlabeled >= min_unlabeled(len(self.labels))


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


def default_backbone(language: Language, *, is_pair: bool) -> ModelAsset:
    """Returns the language model for a task.

    SmolLM2 reads English only, and cannot compare two texts (explanation/results.md).
    """
    return SMOLLM2 if language == "english" and not is_pair else QWEN_CODER


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
    num_patterns = len(profile.patterns) if profile.backbone else 0
    longest = max(encoder["max_length"] for encoder in profile.encoders.values())
    full = Parts(has_base="base" in profile.encoders, num_patterns=num_patterns, max_length=longest)
    smaller = reductions(
        full,
        profile.workload.num_unlabeled,
        keep_patterns=profile.has_own_patterns,
        relates_texts=profile.relates_texts,
        keep_finetuned=_num_per_label(profile) >= MANY_EXAMPLES,
    )

    def seconds_of(parts: Parts) -> float:
        return sum(estimate_seconds(default_recipe(profile, parts), profile.workload).values())

    parts = fit_parts(list(smaller), lambda parts: seconds_of(parts) <= budget)
    return FittedRecipe(default_recipe(profile, parts), seconds_of(parts), describe_reductions(full, parts))


def default_recipe(profile: RecipeProfile, parts: Parts) -> dict[str, Any]:
    """Returns name -> section."""
    workload = profile.workload
    num_unlabeled = min(workload.num_unlabeled, parts.max_unlabeled) if profile.has_enough_unlabeled else 0
    sections: dict[str, Any] = {
        "name": profile.name,
        "seed": SEED,
        "task": _task(profile, parts.num_patterns),
        "data": _data(profile, parts.max_unlabeled if num_unlabeled else 0),
        **({} if profile.class_weights == "none" else {"class_weights": profile.class_weights}),
        **({} if profile.label_bias == "none" else {"label_bias": profile.label_bias}),
        **(_pet(profile, parts) if parts.num_patterns else {}),
        "members": _members(profile, parts),
        "students": _students(profile, parts, num_unlabeled),
    }
    if num_unlabeled:
        has_label_sets = profile.problem_type == MULTI_LABEL
        weights = "uniform" if has_label_sets else "held_out"
        sections["ensemble"] = {"average": "probabilities", "weights": weights, "scaling": "held_out"}
        if _is_balanced(profile) and not has_label_sets:  # by design, so the unlabeled data may have other frequencies
            sections["ensemble"] |= {"calibration": "unlabeled"} if parts.num_patterns else {}
            sections["ensemble"]["label_frequencies"] = "unlabeled"
        # students wait for all members, and the small one for the base one, so one student has the machine to itself
        sections["distill"] = {"temperature": 1.0, "gold_weight": 0.5, "cpus": min(2, os.cpu_count() or 1)}
    sections["baseline"] = {} if num_unlabeled else {"num_folds": parts.num_folds}
    return sections


def _data(profile: RecipeProfile, max_unlabeled: int) -> dict[str, Any]:
    """Returns the sets. Without unlabeled data, nothing that is left of a pool is unlabeled data either."""
    if max_unlabeled:
        return {**profile.data, "unlabeled_size": max_unlabeled}
    data = {name: value for name, value in profile.data.items() if name != "unlabeled"}
    return data | ({"unlabeled_size": 0} if "pool" in data else {})


def _task(profile: RecipeProfile, num_patterns: int) -> dict[str, Any]:
    """Returns the task with the first patterns and their label words, or with all patterns and no words."""
    task: dict[str, Any] = {"name": profile.name, "labels": list(profile.labels)}
    if profile.problem_type != SINGLE_LABEL:
        task["problem_type"] = profile.problem_type
    if not num_patterns:
        return {**task, "patterns": dict(profile.patterns)}
    names = list(profile.patterns)[:num_patterns]
    verbalizer = {
        label: {name: words[name] for name in names} if isinstance(words, Mapping) else list(words)
        for label, words in profile.verbalizer.items()
    }
    return {**task, "patterns": {name: profile.patterns[name] for name in names}, "verbalizer": verbalizer}


def _pet(profile: RecipeProfile, parts: Parts) -> dict[str, Any]:
    """Returns language model and sub-models. Few labels make the larger model worse, so it is calibrated only."""
    assert profile.backbone is not None
    backbone = dict(profile.backbone)
    if backbone["asset"] in (QWEN_CODER.asset, QWEN_CODER.hub_asset):
        return {"backbone": backbone, "pet": {"tune": "none"}, "zero_shot": False}
    lora: dict[str, Any] = {"rank": 8, "alpha": 16}
    if backbone["asset"] in (SMOLLM2.asset, SMOLLM2.hub_asset):
        lora["targets"] = ["q_proj", "v_proj"]
    steps = _steps(profile.workload.num_labeled * 6 / 8, PET_STEPS)
    training = {"learning_rate": 0.001, "batch_size": 8, "steps": steps}
    return {
        "backbone": backbone,
        "pet": {"tune": "lora", "lora": lora, "training": training, "num_folds": parts.num_folds},
    }


def _encoders(profile: RecipeProfile, parts: Parts) -> dict[str, dict[str, Any]]:
    """Returns name -> encoder, which reads at most `max_length` tokens of a text."""
    return {
        name: {**encoder, "max_length": min(encoder["max_length"], parts.max_length)}
        for name, encoder in profile.encoders.items()
    }


def _members(profile: RecipeProfile, parts: Parts) -> dict[str, Any]:
    """Returns a tuned, a frozen and a fine-tuned member per encoder, and TF-IDF; the slowest members first. If examples
    have two texts, another member compares them.
    """
    members: dict[str, Any] = {}
    for name, encoder in reversed(list(_encoders(profile, parts).items())):
        if name == "base" and not parts.has_base:
            continue
        if max(profile.counts.values()) > 1 and parts.has_tuned:  # texts of one label must be near each other
            members[f"{name}_tuned"] = {
                "kind": "probe",
                "encoder": dict(encoder),
                "contrastive": contrastive_settings(len(profile.labels), parts.num_folds),
                "num_folds": parts.num_folds,
            }
        members[f"{name}_frozen"] = {"kind": "probe", "encoder": dict(encoder), "num_folds": MAX_FOLDS}
        if profile.has_two_texts:
            members[f"{name}_compared"] = {
                "kind": "probe", "encoder": dict(encoder), "pairs": "separate", "num_folds": MAX_FOLDS
            }  # fmt: skip
        if parts.has_finetuned and (name == "small" or _num_per_label(profile) >= MANY_EXAMPLES):
            members[f"{name}_finetuned"] = {
                "kind": "finetuned",
                "encoder": dict(encoder),
                "training": _baseline_training(profile, name),
                "num_folds": parts.num_folds,
            }
    return members | {"words": {"kind": "tfidf", "analyzer": profile.analyzer, "num_folds": MAX_FOLDS}}


def _students(profile: RecipeProfile, parts: Parts, num_unlabeled: int) -> dict[str, Any]:
    """Returns a student per encoder, and one that counts words. The base student has seen all soft labels, so it
    teaches the others as well.
    """
    students: dict[str, Any] = {}
    for name, encoder in _encoders(profile, parts).items():
        if name == "base" and not parts.has_base_student:
            continue
        student: dict[str, Any] = dict(encoder)
        if num_unlabeled:
            student["training"] = {
                "learning_rate": _student_learning_rate(student["asset"], name),
                "batch_size": 16,
                "steps": max(MIN_STUDENT_STEPS, STUDENT_EPOCHS[name] * num_unlabeled // 16),
                "warmup_ratio": 0.1,
                **_early_stopping(profile),
            }
        student["baseline_training"] = _baseline_training(profile, name)
        students[name] = student
    if num_unlabeled:
        students["words"] = {"kind": "tfidf", "analyzer": profile.analyzer}
    if num_unlabeled and "base" in students:
        for name in ("small", "words"):
            students[name]["teacher"] = "base"
    return students


def _student_learning_rate(asset: str, name: str) -> float:
    """Returns the learning rate on soft labels. MiniLM takes a higher one there, where thousands of texts teach it."""
    return 1e-4 if asset in (MINILM.asset, MINILM.hub_asset) else LEARNING_RATES[name]


def contrastive_settings(num_labels: int, num_folds: int) -> dict[str, Any]:
    """Returns how a probe is tuned: a batch shows few labels, so many labels need more steps."""
    training = {
        "learning_rate": 2e-5,
        "batch_size": 16,
        "steps": _steps(12 * num_labels + 10, CONTRASTIVE_STEPS),
        "lr_scheduler": "constant",
        "warmup_ratio": 0.1,
        "average_last": 0.75,
    }
    return {"training": training, "average_folds": num_folds >= AVERAGED_FOLDS}


def _baseline_training(profile: RecipeProfile, name: str) -> dict[str, Any]:
    """Returns how an encoder is trained on the labels."""
    return {
        "learning_rate": LEARNING_RATES[name],
        "batch_size": 8,
        "steps": _steps(profile.workload.num_labeled * 12 / 8, BASELINE_STEPS),
        "warmup_ratio": 0.1,
        **_early_stopping(profile),
    }


def _early_stopping(profile: RecipeProfile) -> dict[str, Any]:
    """Returns the settings with which the best step on the dev set counts, not the last; none without a dev set."""
    return {"early_stopping": {"eval_steps": 20, "patience": 3}} if "dev" in profile.data else {}


def _is_balanced(profile: RecipeProfile) -> bool:
    """Returns True if all labels are about equally frequent, as calibration with unlabeled data assumes."""
    return max(profile.counts.values()) <= 1.5 * min(profile.counts.values())


def _num_per_label(profile: RecipeProfile) -> float:
    return profile.workload.num_labeled / len(profile.labels)


def _steps(number: float, bounds: tuple[int, int]) -> int:
    return round(min(bounds[1], max(bounds[0], number)))
