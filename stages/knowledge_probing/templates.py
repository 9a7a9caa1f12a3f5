"""Patterns from the templates of relations: words, or blocks of vectors."""

from __future__ import annotations

import re
from typing import Any

from stages.common.patterns.config import Family
from stages.common.patterns.syntax import Pattern
from stages.common.prompts.initialization import word_ids
from stages.knowledge_probing.config import SUBJECT, FactPromptConfig

P_TUNING_VECTORS, RANDOM_VECTORS = 3, 5
"""Vectors per gap in the P-tuning paper, and of a relation in the OptiPrompt paper."""
_PARTS = re.compile(r"(\[X\]|\[Y\])")


def relation_pattern(name: str, template: str, prompt: FactPromptConfig, tokenizer: Any, family: Family) -> Pattern:
    """Returns the pattern of a relation: its words, or blocks of vectors.

    A causal model has no vectors after the answer, where it would not read them.

    Args:
        name: The relation.
        template: Its template.
        prompt: The method.
        tokenizer: The tokenizer of the backbone.
        family: Its family.
    """
    if prompt.method == "p_tuning":
        block = f"{{soft:{prompt.num_virtual_tokens or P_TUNING_VECTORS}}}"
        last = "" if family == "causal" else f" {block}"
        return Pattern.parse(name, f"{block} {{{SUBJECT}}} {block} {{mask}}{last}")
    if prompt.method == "optiprompt" and prompt.init == "random":
        return Pattern.parse(name, f"{{{SUBJECT}}} {{soft:{prompt.num_virtual_tokens or RANDOM_VECTORS}}} {{mask}}.")
    texts: list[str] = []
    is_after_answer = False
    for part in _PARTS.split(template):
        if part in ("[X]", "[Y]"):
            texts.append(f"{{{SUBJECT}}}" if part == "[X]" else "{mask}")
            is_after_answer = is_after_answer or part == "[Y]"
        elif prompt.method == "optiprompt" and not (is_after_answer and family == "causal"):
            texts.append(_as_vectors(part, tokenizer))
        else:
            texts.append(_escaped(part))
    return Pattern.parse(name, "".join(texts))


def _as_vectors(text: str, tokenizer: Any) -> str:
    """Returns the text as a block of vectors that start from its tokens; white space alone stays."""
    words = " ".join(text.split())
    if not words or "{" in words or "}" in words:
        return _escaped(text)
    return f" {{soft:{len(word_ids(words, tokenizer))}:{words}}} "


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
