"""Gradient-free edits of a pattern: phrases are deleted, swapped and added (GrIPS, Prasad et al., EACL 2023).

GrIPS splits an instruction with a parser; here a phrase is a run of words between two fields or masks, so that every
language works. Its fourth edit, the paraphrase by a neural model, is left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stages.common.patterns.verbalizers import WITHOUT_SPACES
from stages.common.training.cross_validation import Indices
from stages.pet.pattern_search.config import EditConfig
from stages.pet.pattern_search.scorer import PatternScorer
from stages.pet.pattern_search.templates import MASK, Template, space_before

_WORD = re.compile(rf"(\s*)({WITHOUT_SPACES.pattern}|(?:(?!{WITHOUT_SPACES.pattern})\S)+)")


class Word(NamedTuple):
    """A word of a gap with the white space before it. In scripts without spaces, each character is a word."""

    space: str
    text: str


class Phrase(NamedTuple):
    """The words `start` to `end` (exclusive) of a gap."""

    gap: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """An edited pattern, and the phrase that was deleted, if any."""

    template: Template
    deleted: str = ""


def words_of(text: str) -> tuple[list[Word], str]:
    """Returns the words of a text, and the white space after the last one."""
    matches = list(_WORD.finditer(text))
    end = matches[-1].end() if matches else 0
    return [Word(*match.groups()) for match in matches], text[end:]


def delete(template: Template, phrase: Phrase) -> Edit:
    """Deletes a phrase. What follows takes the white space in front of it."""
    words, tail = words_of(template.gaps[phrase.gap])
    deleted = words[phrase.start : phrase.end]
    rest = words[phrase.end :]
    if rest:
        rest = [Word(deleted[0].space, rest[0].text), *rest[1:]]
    text = _join([*words[: phrase.start], *rest]) + tail
    return Edit(template.with_gap(phrase.gap, text), _join(deleted).strip())


def swap(template: Template, first: Phrase, second: Phrase) -> Edit:
    """Swaps two phrases that do not overlap. The white space in front of them stays where it is."""
    first, second = sorted((first, second))
    words = {phrase.gap: words_of(template.gaps[phrase.gap]) for phrase in (first, second)}
    phrases = [words[phrase.gap][0][phrase.start : phrase.end] for phrase in (first, second)]
    # the later phrase first, so that the numbers of the words of the earlier one stay valid
    for phrase, old, new in ((second, phrases[1], phrases[0]), (first, phrases[0], phrases[1])):
        words[phrase.gap][0][phrase.start : phrase.end] = [Word(old[0].space, new[0].text), *new[1:]]
    for gap, (changed, tail) in words.items():
        template = template.with_gap(gap, _join(changed) + tail)
    return Edit(template)


def add(template: Template, phrase: str, gap: int, position: int) -> Edit:
    """Adds a phrase before the word `position` of a gap, or after its last word."""
    words, tail = words_of(template.gaps[gap])
    if not words:
        before = "" if gap == 0 else tail or space_before(phrase)
        is_last = gap == len(template.parts) or template.parts[gap] == MASK
        return Edit(template.with_gap(gap, before + phrase + ("" if is_last else tail or space_before(phrase))))
    if position == len(words):
        words.append(Word(space_before(phrase), phrase))
    else:
        following = words[position]
        words[position : position + 1] = [
            Word(following.space, phrase),
            Word(space_before(following.text), following.text),
        ]
    return Edit(template.with_gap(gap, _join(words) + tail))


def random_edit(template: Template, phrases: Sequence[str], max_words: int, rng: random.Random) -> Edit | None:
    """Returns the template after a random edit; None if the edit that was drawn is not possible.

    Args:
        template: The pattern.
        phrases: Phrases that can be added.
        max_words: Words of the longest phrase that is deleted or swapped.
        rng: Draws the edit, the phrases and the position.
    """
    kind = rng.choice(["delete", "swap", "add"] if phrases else ["delete", "swap"])
    if kind == "add":
        gap = rng.choice(template.editable)
        return add(template, rng.choice(list(phrases)), gap, rng.randint(0, len(words_of(template.gaps[gap])[0])))
    first = _random_phrase(template, max_words, rng)
    if first is None or kind == "delete":
        return None if first is None else delete(template, first)
    second = _random_phrase(template, max_words, rng)
    if second is None or (first.gap == second.gap and first.start < second.end and second.start < first.end):
        return None
    return swap(template, first, second)


def search_edits(
    start: Template, scorer: PatternScorer, rows: Indices, settings: EditConfig, rng: random.Random
) -> list[str]:
    """Returns the patterns that edits led to, in the order in which they were tried.

    Each round edits the best pattern so far, and continues from the best result if it is better.

    Args:
        start: The first pattern.
        scorer: Scores the patterns.
        rows: Examples that decide.
        settings: Settings of the edits.
        rng: Draws the edits.
    """
    best, phrases, tried = start, list(settings.phrases), [start.text]
    num_stale = 0
    for _ in range(settings.num_rounds):
        drafts: dict[str, Edit] = {}
        for _ in range(settings.num_candidates):
            edit = random_edit(best, phrases, settings.max_words, rng)
            if edit is not None and edit.template.text not in tried and scorer.fits(edit.template.text):
                drafts[edit.template.text] = edit
        tried += drafts
        top = min(drafts, key=lambda text: scorer.score(text, rows).rank, default=None)
        if top is None or scorer.score(top, rows).rank >= scorer.score(best.text, rows).rank:
            num_stale += 1
            if num_stale == settings.patience:
                break
            continue
        num_stale, best = 0, drafts[top].template
        if drafts[top].deleted:
            phrases.append(drafts[top].deleted)
    return tried


def _random_phrase(template: Template, max_words: int, rng: random.Random) -> Phrase | None:
    counts = {gap: len(words_of(text)[0]) for gap, text in enumerate(template.gaps)}
    gaps = [gap for gap, count in counts.items() if count]
    if not gaps:
        return None
    gap = rng.choice(gaps)
    start = rng.randrange(counts[gap])
    return Phrase(gap, start, rng.randint(start + 1, min(start + max_words, counts[gap])))


def _join(words: Sequence[Word]) -> str:
    return "".join(word.space + word.text for word in words)
