"""Texts in front of label words that occur in the data (mining, Jiang et al., TACL 2020,
https://arxiv.org/abs/1911.12543).

The paper mines sentences that contain the subject and the object of a fact. A classification task has no subject, so
here a context is the words directly before a label word, such as "it was" in "it was great". Contexts before words of
many labels come first, because a pattern must suit all labels. No label is read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from stages.common.examples import Example
from stages.common.patterns.config import Task
from stages.common.patterns.verbalizers import WITHOUT_SPACES
from stages.pet.pattern_search.config import MineConfig
from stages.pet.pattern_search.edits import words_of
from stages.pet.pattern_search.templates import Template, space_before

_SENTENCE_END = re.compile(r"[.!?。！？;；\n]")


@dataclass(slots=True)
class Context:
    """Words before label words. `counts`: label -> how often; `text`: as it was written first."""

    text: str
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def total(self) -> int:
        """How often it occurs before a label word."""
        return sum(self.counts.values())


def mined_patterns(settings: MineConfig, task: Task, start: Template, examples: Iterable[Example]) -> list[str]:
    """Returns patterns whose text in front of the mask was found in the data, the best first.

    Args:
        settings: Length, number and frequency of the texts.
        task: The task, whose label words are searched in its fields. It has one pattern.
        start: The pattern, whose text in front of the mask is replaced.
        examples: Labeled and unlabeled examples.
    """
    words = {label: list(found) for label, found in task.words(next(iter(task.patterns))).items()}
    contexts = find_contexts(settings, words, (item.fields[name] for item in examples for name in task.fields))
    ranked = sorted(contexts, key=lambda item: (-len(item.counts), -item.total, -len(item.text), item.text))
    index = start.mask_gap
    patterns = []
    for context in ranked[: settings.num_candidates]:
        text = context.text if index == 0 else space_before(context.text) + context.text
        patterns.append(start.with_gap(index, text + _end_of(start.gaps[index])).text)
    return patterns


def find_contexts(
    settings: MineConfig, words: dict[str, Sequence[str]] | dict[str, list[str]], texts: Iterable[str]
) -> list[Context]:
    """Returns the contexts that occur often enough. `words`: label -> its words."""
    label_of = {word.strip().lower(): label for label, found in words.items() for word in found}
    pattern = re.compile("|".join(_as_regex(word) for word in sorted(label_of, key=len, reverse=True)), re.IGNORECASE)
    contexts: dict[str, Context] = {}
    for text in texts:
        for match in pattern.finditer(text):
            label = label_of[match.group().lower()]
            sentence = _SENTENCE_END.split(text[: match.start()])[-1]
            for context in _endings(sentence, settings.max_words):
                if not pattern.search(context):
                    contexts.setdefault(context.lower(), Context(context)).counts[label] += 1
    return [item for item in contexts.values() if item.total >= settings.min_count]


def _as_regex(word: str) -> str:
    """Returns the regular expression of a word: in scripts with spaces, it is no part of another word."""
    escaped = re.escape(word)
    return escaped if WITHOUT_SPACES.match(word) else rf"(?<!\w){escaped}(?!\w)"


def _endings(sentence: str, max_words: int) -> Iterator[str]:
    """Yields the last words of a text: one word, two words, and so on."""
    words, _ = words_of(sentence)
    for count in range(1, min(max_words, len(words)) + 1):
        yield "".join(word.space + word.text for word in words[-count:]).strip()


def _end_of(gap: str) -> str:
    """Returns the white space at the end of a gap."""
    return gap[len(gap.rstrip()) :]
