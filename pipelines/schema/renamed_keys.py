"""Keys and values of recipes that were renamed. An old one is an error that names the new one, never an alias."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from stages.common.errors import InputError

_TRAINING = r"(ppt|pet|distill|baseline|prompts|prompts\.methods\.\w[\w.-]*|members\.\w[\w.-]*?(\.contrastive)?)"
_PROMPT = r"(ppt|(pet|members\.\w[\w.-]*)\.prompt|prompts\.methods\.\w[\w.-]*)"
_PET = r"(pet|members\.\w[\w.-]*)"
_MEMBER = r"members\.\w[\w.-]*"
_SOURCE = r"(.*\.)?(data|source)(\.\w+)?"
_TASK = r"(task|prompts\.tasks\.\d+\.task)"
_STEPS = (
    r"(resources|ppt(\.corpus)?|pet|distill|baseline|priming|verbalizer_search|unlabeled_shards|prompts"
    r"|members\.\w[\w.-]*)"
)

RENAMED_KEYS: Sequence[tuple[str, str, str]] = (
    (_TRAINING, "loop", "training"),
    (_TRAINING + r"\.training", "warmup", "warmup_ratio"),
    (_TRAINING + r"\.training", "schedule", "lr_scheduler"),
    (_TRAINING + r"\.training\.early_stopping", "every", "eval_steps"),
    (_PROMPT, "start", "init"),
    (_PROMPT + r"\.init", "words", "text"),
    (_PROMPT + r"\.init", "most_common", "num_candidate_tokens"),
    (_PROMPT, "num_vectors", "num_virtual_tokens"),
    (_PROMPT, "hidden", "encoder_hidden_size"),
    (_PROMPT, "reparameterise", "reparameterization"),
    (_PROMPT, "hard_steps", "hard_prompt_steps"),
    (r"(pet|prompts|members\.\w[\w.-]*)", "together", "batched_training"),
    (r"", "shards", "unlabeled_shards"),
    (r"unlabeled_shards", "num_taught", "max_student_examples"),
    (r"distill", "gold_share", "gold_weight"),
    (r"distill", "keep_share", "keep_fraction"),
    (_PET + r"\.ipet", "scale", "scale_factor"),
    (_PET + r"\.ipet", "teacher_share", "teacher_fraction"),
    (_PET + r"\.ipet", "most_confident", "num_most_likely"),
    (r"ensemble", "mean", "average"),
    (r"", "student", "students: {small: {...}}"),
    (r"students\.\w[\w.-]*", "head_strength", "head_regularization_c"),
    (_MEMBER, "strength", "regularization_c"),
    (_MEMBER, "contrast", "contrastive"),
    (_PET + r"\.mlm", "share", "mlm_probability"),
    (r"(.*\.)?backbone", "read_tokens", "eval_batch_tokens"),
    (_TASK, "score", "label_score"),
    (_TASK, "shorten", "truncation"),
    (r"ppt\.corpus", "sentence_words", "max_sentence_words"),
    (r"ppt\.single", "words", "verbalizer"),
    (r"ppt\.single", "candidates", "candidates_per_example"),
    (r"prompts", "tokens", "token_classification"),
    (r"prompts", "spans", "question_answering"),
    (r"prompts\.question_answering\.\w[\w.-]*", "max_answer", "max_answer_tokens"),
    (_SOURCE, "keep", "filter"),
    (_SOURCE, "label_names", "label_map"),
    (_STEPS, "offload_to", "nvme_path"),
)
"""(pattern of the section with the key, old name, new name). Sections have their new names."""

RENAMED_VALUES: Sequence[tuple[str, str, str]] = (
    (_PROMPT + r"\.init\.kind", "vocabulary", "sample_vocab"),
    (_PROMPT + r"\.init\.kind", "words", "text"),
    (_PROMPT + r"\.head", "words", "verbalizer"),
    (r"(ensemble|ppt\.single)\.calibration", "pile", "unlabeled"),
)
"""(pattern of the dotted key, old value, new value)."""


def check_renamed_keys(values: Any) -> None:
    """Rejects the first key or value, from the top of the recipe down, that has a new name.

    Raises:
        InputError: names the old and the new name.
    """
    for section, key, value in _items(values, ""):
        dotted = f"{section}.{key}" if section else key
        for pattern, old, new in RENAMED_KEYS:
            if key == old and re.fullmatch(pattern, section):
                place = f"{section}.{new}" if section else new
                raise InputError(f"{old!r} was renamed to {new!r}.", f"Rename the key to {place}.", key=dotted)
        for pattern, old, new in RENAMED_VALUES:
            if value == old and re.fullmatch(pattern, dotted):
                raise InputError(f"the value {old!r} was renamed to {new!r}.", f"Set {dotted}: {new}.", key=dotted)


def _items(values: Any, section: str) -> Iterator[tuple[str, str, Any]]:
    """(dotted section, key, value) of every key; a section before what is in it."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    entries = [(str(key), value) for key, value in items]
    if isinstance(values, dict):
        yield from ((section, key, value) for key, value in entries)
    for key, value in entries:
        yield from _items(value, f"{section}.{key}" if section else key)
