"""How long a new recipe takes on two cores, and what it leaves out to fit into a budget.

The estimate reads the sections of the recipe, so it follows each of their settings. It is made once, when the recipe is
written: a run never looks at the clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from pipelines.default_models import PATTERN_TOKENS, STEP_OVERHEAD, cost_of
from pipelines.init.text_lengths import MIN_LENGTH, Lengths
from stages.common.errors import InputError

DEFAULT_BUDGET = "30m"


SCORING_SECONDS, MIN_SCORED, MAX_SCORED = 120.0, 32, 200
"""Time for the selection of patterns, and bounds of the number of labeled examples that they score."""
UNLABELED_SIZES = (5000, 4000, 3000, 2000, 1000, 500)
MAX_FOLDS, MIN_FOLDS = 4, 2
"""Bounds of the folds of cross-validation."""
TRAINED_LENGTH, SHORT_LENGTHS = 128, (64, 32)
"""Tokens after which texts are cut: those with which the default encoders were trained, and fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The sizes of a task."""

    lengths: Lengths
    """Lengths of the texts."""
    num_readings: float = 1.0
    """How often the language model reads a text per pattern: more than once if label words have several tokens."""
    num_labeled: int
    num_unlabeled: int
    num_test: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts of the default recipe that cost time and can be left out or made smaller."""

    has_base: bool
    """Whether the base encoder is a member and a student."""
    num_patterns: int
    """Patterns of PET; 0: no PET."""
    has_tuned: bool = True
    """Whether encoders are tuned, so that texts with one label are near each other."""
    has_base_student: bool = True
    has_finetuned: bool = True
    """Whether encoders are fine-tuned as members, too."""
    max_length: int = MIN_LENGTH
    """Maximum number of tokens that encoders read of a text."""
    max_unlabeled: int = UNLABELED_SIZES[0]
    num_folds: int = MAX_FOLDS


def parse_budget(text: str) -> int:
    """Returns the seconds of a duration: `5m`, `25m`, `2h`, `1h30m`.

    Raises:
        InputError: it is not a duration.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?", text.strip())
    if match is None or not any(int(item or 0) for item in match.groups()):
        example = f"{text.strip()}m" if text.strip().isdecimal() and int(text) else DEFAULT_BUDGET
        raise InputError(
            f"{text!r} is not a duration.", f"Write hours and minutes with their units: --budget {example}."
        )
    hours, minutes = (int(item or 0) for item in match.groups())
    return 3600 * hours + 60 * minutes


def format_duration(seconds: float) -> str:
    """Returns a duration in words, rounded up to minutes."""
    hours, minutes = divmod(-int(-seconds // 60), 60)
    parts = [f"{hours} hour{'s' * (hours > 1)}"] * (hours > 0) + [f"{minutes} minute{'s' * (minutes > 1)}"] * (
        minutes > 0
    )
    return " ".join(parts)


def reductions(
    parts: Parts,
    num_texts: int,
    *,
    keep_patterns: bool = False,
    relates_texts: bool = False,
    keep_finetuned: bool = False,
) -> Iterator[Parts]:
    """Yields the parts, then fewer and fewer of them: what costs the most for its use goes first.

    Args:
        parts: All parts that fit the task.
        num_texts: Number of unlabeled texts of the task.
        keep_patterns: If True, PET has all of its patterns or is left out.
        relates_texts: If True, a label says how two texts relate. Tuned encoders then do not help: pairs of texts with
            one label are not alike. A language model compares two texts, so it is left out last.
        keep_finetuned: If True, tuned encoders are left out before fine-tuned ones, which are better with many labels.
    """
    yield parts
    changes: list[dict[str, Any]] = [{"num_folds": count} for count in range(MAX_FOLDS, MIN_FOLDS - 1, -1)]
    changes += [{"num_patterns": count} for count in range(parts.num_patterns - 1, 0, -1) if not keep_patterns]
    no_patterns = {"num_patterns": 0}
    changes += [{"max_length": min(TRAINED_LENGTH, parts.max_length)}]
    changes += [{"has_tuned": False}] if relates_texts else [no_patterns]
    changes += [{"has_base_student": False}]
    changes += [{"max_unlabeled": size} for size in UNLABELED_SIZES if 1000 <= size < num_texts]
    changes += [{"has_base": False}]
    changes += [{"max_unlabeled": size} for size in UNLABELED_SIZES if size < min(num_texts, 1000)]
    changes += [no_patterns]
    changes += [{"has_tuned": False} if keep_finetuned else {"has_finetuned": False}]
    changes += [{"max_length": min(length, parts.max_length)} for length in SHORT_LENGTHS]
    for change in changes:
        smaller = replace(parts, **change)
        if smaller != parts:
            parts = smaller
            yield parts


def fit_parts(path: Sequence[Parts], fits: Callable[[Parts], bool]) -> Parts:
    """Returns the first parts that fit the budget, with what fits again of that which was left out before, the most
    useful first. If none fit, returns the last ones.

    Args:
        path: What `reductions` yields.
        fits: Returns whether there is time for some parts.
    """
    num_tried = next((number for number, parts in enumerate(path, 1) if fits(parts)), len(path))
    path = path[:num_tried]
    parts = path[-1]
    pairs = pairwise(asdict(item) for item in path)
    reduced = [name for one, other in pairs for name in one if one[name] != other[name]]
    for name in dict.fromkeys(reversed(reduced)):
        if name == "has_base_student" and not parts.has_base:
            continue
        larger = (replace(parts, **{name: getattr(item, name)}) for item in path)
        parts = next((item for item in larger if item == parts or fits(item)), parts)
    return parts


def describe_reductions(full: Parts, parts: Parts) -> list[str]:
    """Returns what `full` has and `parts` does not have, in words."""
    lost = []
    if full.num_patterns and not parts.num_patterns:
        lost.append("no PET")
    elif parts.num_patterns < full.num_patterns:
        lost.append(f"{parts.num_patterns} pattern{'s' * (parts.num_patterns > 1)} instead of {full.num_patterns}")
    if full.has_tuned and not parts.has_tuned:
        lost.append("no tuned encoders")
    if full.has_base and not parts.has_base:
        lost.append("no base encoder")
    elif full.has_base and full.has_base_student and not parts.has_base_student:
        lost.append("no base student")
    if full.has_finetuned and not parts.has_finetuned:
        lost.append("no fine-tuned members")
    if parts.max_length < full.max_length:
        lost.append(f"texts cut after {parts.max_length} tokens")
    if parts.max_unlabeled < full.max_unlabeled:
        lost.append(f"at most {parts.max_unlabeled:,} unlabeled texts")
    if parts.num_folds < full.num_folds:
        lost.append(f"{parts.num_folds} folds instead of {full.num_folds}")
    return lost


def estimate_seconds(sections: Mapping[str, Any], workload: Workload) -> dict[str, float]:
    """Returns part of a recipe -> estimated seconds on two cores.

    Args:
        sections: The sections of the default recipe.
        workload: Sizes of the task. `data.unlabeled_size` limits its unlabeled texts.
    """
    sized = replace(workload, num_unlabeled=unlabeled_used(sections, workload))
    seconds = {f"members.{name}": _member_seconds(item, sized) for name, item in sections.get("members", {}).items()}
    if "pet" in sections:
        seconds["pet"] = _pet_seconds(sections, sized)
    for key in ("distill", "baseline"):
        if key in sections:
            seconds[key] = _students_seconds(sections, key, sized)
    return seconds


def unlabeled_used(sections: Mapping[str, Any], workload: Workload) -> int:
    """Returns the number of unlabeled texts that the recipe uses."""
    limit: int = sections["data"].get("unlabeled_size", 0)
    return min(workload.num_unlabeled, limit)


def num_scored(backbone: Mapping[str, Any], num_patterns: int, workload: Workload) -> int:
    """Returns the number of labeled examples that all patterns can score in about two minutes.

    Args:
        backbone: The section of the language model.
        num_patterns: Number of patterns.
        workload: Sizes of the task.
    """
    tokens = _thousands(1, workload.lengths, backbone["max_length"], PATTERN_TOKENS) * workload.num_readings
    seconds = num_patterns * tokens * cost_of(backbone["asset"], is_encoder=False).reading
    return min(MAX_SCORED, max(MIN_SCORED, int(SCORING_SECONDS / seconds)), workload.num_labeled)


def _member_seconds(section: Mapping[str, Any], workload: Workload) -> float:
    if section["kind"] == "tfidf":
        return STEP_OVERHEAD
    num_read = workload.num_labeled + workload.num_unlabeled + workload.num_test
    contrastive = section.get("contrastive", {})
    training = section.get("training") or contrastive.get("training")
    num_trainings = section["num_folds"] + (not contrastive.get("average_folds")) if training else 0
    return _encoder_seconds(section["encoder"], training, num_trainings, num_read, workload)


def _encoder_seconds(
    encoder: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    num_trainings: int,
    num_read: int,
    workload: Workload,
) -> float:
    """Returns the seconds of a step that trains an encoder some times, and then reads texts."""
    cost, length = cost_of(encoder["asset"], is_encoder=True), encoder["max_length"]
    num_trained = num_trainings * training["steps"] * training["batch_size"] if training else 0
    return (
        STEP_OVERHEAD
        + _thousands(num_trained, workload.lengths, length) * cost.training
        + _thousands(num_read, workload.lengths, length) * cost.reading
    )


def _pet_seconds(sections: Mapping[str, Any], workload: Workload) -> float:
    """Returns the seconds of sub-models and, if there is one, of the zero-shot test of each pattern."""
    cost, length = cost_of(sections["backbone"]["asset"], is_encoder=False), sections["backbone"]["max_length"]
    pet = sections["pet"]
    num_trained = 0
    if "training" in pet:
        num_trained = (pet["num_folds"] + 1) * pet["training"]["steps"] * pet["training"]["batch_size"]
    num_steps = 2 if sections.get("zero_shot", True) else 1
    num_read = num_steps * workload.num_test + workload.num_labeled + workload.num_unlabeled
    tokens = (
        _thousands(num_trained, workload.lengths, length, PATTERN_TOKENS) * cost.training
        + _thousands(num_read, workload.lengths, length, PATTERN_TOKENS) * cost.reading
    )
    return len(sections["task"]["patterns"]) * (num_steps * STEP_OVERHEAD + workload.num_readings * tokens)


def _students_seconds(sections: Mapping[str, Any], key: str, workload: Workload) -> float:
    """Returns the seconds of all students on soft labels (`distill`), or on labels (`baseline`)."""
    seconds = 0.0
    num_trainings = 1 + sections[key].get("num_folds", 0)
    teachers = {student.get("teacher") for student in sections["students"].values()}
    for name, student in sections["students"].items():
        if student.get("kind") == "tfidf":
            seconds += STEP_OVERHEAD
            continue
        training = student["training" if key == "distill" else "baseline_training"]
        num_read = workload.num_test + (workload.num_unlabeled if key == "distill" and name in teachers else 0)
        seconds += _encoder_seconds(student, training, num_trainings, num_read, workload)
    return seconds


def _thousands(num_texts: int, lengths: Lengths, max_length: int, extra: int = 0) -> float:
    """Returns thousands of tokens of texts, each with `extra` tokens."""
    return num_texts * min(lengths.mean + extra, max_length) / 1000
