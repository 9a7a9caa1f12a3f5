"""The pattern-search stage: finds better patterns than the one that the task has, from the labeled examples.

Candidates are edits of the pattern (edits.py), patterns with trigger words (triggers.py), patterns with a text that a
seq2seq model writes (generation.py), with texts that occur in the data (mining.py), and with paraphrases
(paraphrases.py). Each is scored zero-shot:
the accuracy, and then the cross-entropy, of a calibration that is cross-validated on the labeled examples. The best of
many candidates looks better than it is. So the whole search is cross-validated, too: it runs on all folds but one, and
its result predicts this one. If the results predict the held-out examples no better than the pattern that the task has,
this pattern stays.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.common.data.groups import group_numbers
from stages.common.errors import InputError
from stages.common.examples import Example, label_indices, load_examples
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.patterns.search_results import PATTERNS_FILE
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.common.training.cross_validation import Indices, stratified_folds
from stages.common.training.untrained_scores import HeldOutScore, calibrated_logits
from stages.pet.pattern_search.config import CANDIDATES_FILE, PatternSearchConfig
from stages.pet.pattern_search.edits import search_edits
from stages.pet.pattern_search.generation import borrow_generator, generated_patterns
from stages.pet.pattern_search.mining import mined_patterns
from stages.pet.pattern_search.paraphrases import paraphrased_patterns
from stages.pet.pattern_search.scorer import PatternScorer
from stages.pet.pattern_search.templates import Template
from stages.pet.pattern_search.triggers import candidate_words, search_triggers

MAX_WRITTEN = 100
"""Candidates that are written with their scores."""
FROM_TASK = "task"
"""Source of the pattern that the task has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage, with the labeled set, and for mining the unlabeled set."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The patterns. Files: `patterns.json` (name -> text) and `candidates.jsonl` (the best ones, with their scores)."""

    patterns: dict[str, str]
    is_better: bool
    """True if the search predicts held-out examples better than the pattern that the task has. Else this one stays."""
    held_out: HeldOutScore
    """Score of the search on examples that it did not read."""
    before: HeldOutScore
    """Score of the pattern that the task has."""
    num_candidates: int
    num_labeled: int


class Candidate(NamedTuple):
    """A pattern, what proposed it, and its score."""

    text: str
    source: str
    score: HeldOutScore


def run(config: PatternSearchConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Finds the patterns and writes them to `out`.

    Raises:
        InputError: a label has no example, no example can be held out, or there are too few candidates.
    """
    train_set = load_examples(inputs.data / "train.jsonl")
    _check_labeled(config.task.labels, train_set)
    examples = sample_per_label(train_set, config.max_examples, python_rng(config.seed, "examples"))
    folds = _folds(config, examples)
    start = Template.of(config.task.pattern(config.pattern))
    fixed = _propose_without_labels(config, start, inputs, train_set, recorder)
    generated = _generate(config, start, examples, folds, recorder, engine)
    with borrow_backbone(config.backbone, engine) as backbone:
        scorer = PatternScorer(config, backbone, examples, recorder, engine)
        words = candidate_words(scorer) if config.gradient else {}

        def search(rows: Indices) -> list[Candidate]:
            return find_candidates(start, scorer, rows, words, {"generate": generated.get(rows.tobytes(), []), **fixed})

        ranked = search(np.arange(len(examples)))
        held_out = _held_out_score(scorer, lambda rows: search(rows)[0].text)
    before = next(item.score for item in ranked if item.source == FROM_TASK)
    is_better = held_out.loss < before.loss
    patterns = _assign(config, ranked if is_better else sorted(ranked, key=lambda item: item.source != FROM_TASK))
    (out / PATTERNS_FILE).write_text(json.dumps(patterns, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    rows = [_row(item) for item in ranked[:MAX_WRITTEN]]
    with (out / CANDIDATES_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    recorder.log_table("candidates", rows)
    recorder.log_table("patterns", [{"name": name, "pattern": text} for name, text in patterns.items()])
    for name, score in (("", held_out), ("_before", before)):
        recorder.log_metric(f"train/held_out_accuracy{name}", score.accuracy)
        recorder.log_metric(f"train/held_out_loss{name}", score.loss)
    return Result(
        patterns=patterns,
        is_better=is_better,
        held_out=held_out,
        before=before,
        num_candidates=len(ranked),
        num_labeled=len(examples),
    )


def find_candidates(
    start: Template,
    scorer: PatternScorer,
    rows: Indices,
    words: dict[str, int],
    proposed: Mapping[str, Sequence[str]] | None = None,
) -> list[Candidate]:
    """Returns the pattern of the task and all candidates, the best first.

    Args:
        start: The pattern of the task.
        scorer: Scores patterns.
        rows: Examples that decide.
        words: Word -> token id of the words that can become triggers.
        proposed: Source -> patterns that it proposed before.
    """
    config = scorer.config
    sources = {start.text: FROM_TASK}
    if config.edit:
        rng = python_rng(config.seed, "edits")  # the same in each fold, so that folds share candidates
        edited = search_edits(start, scorer, rows, config.edit, rng)
        sources |= dict.fromkeys((text for text in edited if text not in sources), "edit")
    if config.gradient:
        found = search_triggers(start, scorer, rows, config.gradient, words)
        sources |= dict.fromkeys((text for text in found if text not in sources), "gradient")
    for source, texts in (proposed or {}).items():
        sources |= dict.fromkeys((text for text in texts if text not in sources and scorer.fits(text)), source)
    candidates = [Candidate(text, source, scorer.score(text, rows)) for text, source in sources.items()]
    return sorted(candidates, key=lambda item: item.score.rank)


def _propose_without_labels(
    config: PatternSearchConfig, start: Template, inputs: Inputs, train_set: Sequence[Example], recorder: Recorder
) -> dict[str, list[str]]:
    """Returns source -> patterns that no label influences, which are the same in all folds."""
    proposed = {}
    if config.mine:
        path = inputs.data / "unlabeled.jsonl"
        examples = [*train_set, *(load_examples(path) if path.exists() else [])]
        proposed["mine"] = mined_patterns(config.mine, config.task, start, examples)
    if config.paraphrase:
        proposed["paraphrase"] = paraphrased_patterns(config.paraphrase, start, recorder)
    return proposed


def sample_per_label(examples: Sequence[Example], size: int, rng: random.Random) -> list[Example]:
    """Returns `size` examples in their order, with labels as evenly as possible; all if there are fewer."""
    if len(examples) <= size:
        return list(examples)
    rows_of: dict[object, list[int]] = {}
    for row in rng.sample(range(len(examples)), len(examples)):
        rows_of.setdefault(examples[row].label, []).append(row)
    turns = sorted((turn, row) for rows in rows_of.values() for turn, row in enumerate(rows))
    return [examples[row] for row in sorted(row for _, row in turns[:size])]


def _held_out_score(scorer: PatternScorer, best_pattern: Callable[[Indices], str]) -> HeldOutScore:
    """Returns the score of the search: the best pattern of each fold's other examples predicts the fold."""
    logits = calibrated_logits(
        lambda fitted: scorer.logits(best_pattern(fitted)),
        scorer.gold, scorer.num_labels, scorer.config.num_folds, groups=scorer.groups.tolist(),
    )  # fmt: skip
    assert logits is not None, "there are folds"
    return HeldOutScore.of(logits, scorer.gold)


def _folds(config: PatternSearchConfig, examples: Sequence[Example]) -> Indices:
    """Returns the fold of each example, [n].

    Raises:
        InputError: no example can be held out.
    """
    gold = label_indices(examples, config.task.labels)
    folds = stratified_folds(gold, config.num_folds, group_numbers(examples, config.task.fields))
    if folds is None:
        raise InputError(
            "the pattern search needs two labeled examples of a label that do not belong together.",
            "Add labeled examples, or remove pattern_search.",
            key="pattern_search",
        )
    return folds


def _generate(
    config: PatternSearchConfig,
    start: Template,
    examples: Sequence[Example],
    folds: Indices,
    recorder: Recorder,
    engine: Engine,
) -> dict[bytes, list[str]]:
    """Returns the generated patterns for all examples, and for those outside of each fold. The key: their rows.

    They are generated before anything is scored, because a process keeps one language model.
    """
    if config.generate is None:
        return {}
    subsets = [np.arange(len(examples)), *(np.flatnonzero(folds != fold) for fold in range(int(folds.max()) + 1))]
    with borrow_generator(config, engine) as backbone:
        return {
            rows.tobytes(): generated_patterns(config, start, backbone, examples, rows, recorder, engine)
            for rows in subsets
        }


def _assign(config: PatternSearchConfig, ranked: Sequence[Candidate]) -> dict[str, str]:
    names = config.names
    if len(ranked) < len(names):
        raise InputError(
            f"{len(names)} patterns start from the same text, but the search found only {len(ranked)} different ones.",
            f"Remove one of the patterns {', '.join(names)}, or raise num_candidates.",
            key="pattern_search",
        )
    return {name: item.text for name, item in zip(names, ranked, strict=False)}


def _check_labeled(labels: Sequence[str], train_set: Sequence[Example]) -> None:
    used = {item.label for item in train_set}
    for label in labels:
        if label not in used:
            raise InputError(
                f"the pattern search needs labeled examples, but the label {label!r} has none.",
                "Add some, or remove pattern_search.",
                key="pattern_search",
            )


def _row(item: Candidate) -> dict[str, str | float]:
    score = {"accuracy": round(item.score.accuracy, 4), "loss": round(item.score.loss, 4)}
    return {"pattern": item.text, "source": item.source, **score}
