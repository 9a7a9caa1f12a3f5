"""The verbalizer-search stage: finds label words for one pattern from the labeled examples.

PETAL (Schick, Schmid & Schütze, "Automatically Identifying Words That Can Serve as Labels for Few-Shot Text
Classification", COLING 2020). Only words that are frequent in the texts of the task are considered. Candidates are
those that the frozen model finds most likely in the examples of a label. The search keeps those that best separate
these examples from all others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.batching import batches_by_length
from stages.common.patterns.encoding import Encoder
from stages.common.patterns.vocabulary import most_frequent, whole_words
from stages.common.protocols import Engine, Recorder
from stages.pet.verbalizer_search.config import SearchMethod, VerbalizerSearchConfig

MAX_WRITTEN = 100
"""Candidates per label that are written with their scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage, with the labeled set and the unlabeled set."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The label words. Files: `words.json` (label -> words) and `candidates.jsonl` (the best of each label, with their
    scores).
    """

    words: dict[str, list[str]]
    num_candidates: int
    num_labeled: int


class RankedWord(NamedTuple):
    """A candidate: its number among all words, and its score."""

    number: int
    score: float


def run(config: VerbalizerSearchConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Finds the label words and writes them to `out`.

    Raises:
        InputError: a label has no example, or the vocabulary has too few words.
    """
    labels = config.task.labels
    train_set = load_examples(inputs.data / "train.jsonl")
    _check_labeled(labels, train_set)
    with borrow_backbone(config.backbone, engine) as backbone:
        vocabulary = whole_words(backbone.tokenizer)
        if config.num_frequent is not None:
            texts = [*train_set, *load_examples(inputs.data / "unlabeled.jsonl")]
            vocabulary = most_frequent(vocabulary, backbone.tokenizer, texts, config.task.fields, config.num_frequent)
        _check_size(config, len(vocabulary))
        log_likelihoods = word_log_likelihoods(config, backbone, train_set, list(vocabulary.values()), recorder)
    names = list(vocabulary)
    ranked = {}
    for label in labels:
        is_label = [item.label == label for item in train_set]
        ranked[label] = rank(log_likelihoods, is_label, config.method, config.num_candidates)
    words = {label: [names[item.number] for item in ranked[label][: config.num_words]] for label in labels}
    (out / "words.json").write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    with (out / "candidates.jsonl").open("w", encoding="utf-8") as file:
        for label in labels:
            for number, score in ranked[label][:MAX_WRITTEN]:
                row = {"label": label, "word": names[number], "score": round(score, 4)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    recorder.log_table("words", [{"label": label, "words": ", ".join(words[label])} for label in labels])
    return Result(words=words, num_candidates=min(config.num_candidates, len(names)), num_labeled=len(train_set))


def _check_labeled(labels: Sequence[str], train_set: Sequence[Example]) -> None:
    used = {item.label for item in train_set}
    for label in labels:
        if label not in used:
            raise InputError(
                f"the verbalizer search needs labeled examples, but the label {label!r} has none.",
                "Add some, or write a verbalizer.",
                key="verbalizer_search",
            )


def _check_size(config: VerbalizerSearchConfig, vocabulary_size: int) -> None:
    if vocabulary_size < config.num_words * len(config.task.labels):
        raise InputError(
            f"the vocabulary has {vocabulary_size} words, too few for {config.num_words} per label.",
            "Lower num_words.",
            key="verbalizer_search.num_words",
        )


def rank(
    log_likelihoods: NDArray[np.float64], is_label: Sequence[bool], method: SearchMethod, num_candidates: int
) -> list[RankedWord]:
    """Ranks words for one label, the best first.

    Args:
        log_likelihoods: [n, W] log-probability of each word in each labeled example.
        is_label: [n] True for examples of the label, at least one. Together they have the weight of all others.
        method: likelihood_ratio: log p - log(1 - p), added for examples of the label and subtracted for others;
            cross_entropy: log p for examples of the label, log(1 - p) for others.
        num_candidates: Number of words to rank: those with the largest sum of log p over the examples of the label.
    """
    of_label = np.array(is_label)
    log_p = np.minimum(log_likelihoods, -1e-9)  # a probability of 1 has no log(1 - p)
    log_not_p = np.log1p(-np.exp(log_p))
    balance = (~of_label).sum() / of_label.sum()
    if method == "likelihood_ratio":
        log_odds = log_p - log_not_p
        scores = balance * log_odds[of_label].sum(axis=0) - log_odds[~of_label].sum(axis=0)
    else:
        scores = balance * log_p[of_label].sum(axis=0) + log_not_p[~of_label].sum(axis=0)
    candidates = np.argsort(-log_p[of_label].sum(axis=0), kind="stable")[:num_candidates]
    ranked = sorted(candidates.tolist(), key=lambda index: (-scores[index], index))
    return [RankedWord(index, float(scores[index])) for index in ranked]


def word_log_likelihoods(
    config: VerbalizerSearchConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    token_ids: list[int],
    recorder: Recorder,
) -> NDArray[np.float64]:
    """Returns the log-probability [n, W] of each word at the mask, among the full vocabulary."""
    task = config.task
    encoder = Encoder(
        task.pattern(config.pattern), backbone.tokenizer, backbone.family, config.backbone.max_length, task.truncation
    )
    if backbone.family == "causal" and not encoder.pattern.ends_in_mask:
        raise InputError(
            f"cannot search words for pattern {config.pattern!r}: a causal model predicts them only at the end.",
            "Put {mask} at the end of the pattern, or write a verbalizer.",
        )
    encoded = encoder.all(examples)
    log_likelihoods = np.zeros((len(examples), len(token_ids)))
    num_done = 0
    with torch.inference_mode():
        for rows in batches_by_length([len(item.ids) for item in encoded], backbone.eval_batch_tokens):
            logits = backbone.vocabulary_logits(backbone.batch([encoded[row] for row in rows]))
            log_likelihoods[rows] = logits.double().log_softmax(dim=1)[:, token_ids].cpu().numpy()
            num_done += len(rows)
            recorder.log_progress(num_done, len(encoded), phase="labeled examples")
    return log_likelihoods
