"""The verbalizer-search stage: finds label words for one pattern from the labeled examples only.

PETAL (Schick, Schmid & Schütze, "Automatically Identifying Words That Can Serve as Labels for Few-Shot Text
Classification", COLING 2020). Candidates are the words that the frozen model finds most likely in the examples of a
label. The search keeps those that best separate these examples from all others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.common.data.split_files import load_examples
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.batching import batches_by_length
from stages.common.patterns.encoding import Encoder
from stages.common.patterns.verbalizers import word_tokens
from stages.common.protocols import Engine, Recorder
from stages.pet.verbalizer_search.config import SearchMethod, VerbalizerSearchConfig

SHOWN = 100
"""Candidates a label that are written with their scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The words found. Files: `words.json` (label -> words) and `candidates.jsonl` (the best of each label, scored)."""

    words: dict[str, list[str]]
    num_candidates: int
    num_labeled: int


def run(config: VerbalizerSearchConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Finds the words and writes them to `out`.

    Raises:
        InputError: a label has no example, or the vocabulary has fewer words than are asked for.
    """

    train_set = load_examples(inputs.data / "train.jsonl")
    _check_labeled(config.task.labels, train_set)
    with borrow_backbone(config.backbone, engine) as backbone:
        vocabulary = whole_words(backbone.tokenizer)
        _check_size(config, len(vocabulary))
        log_likelihoods = _read(config, backbone, train_set, list(vocabulary.values()), recorder)
    names = list(vocabulary)
    scored = {}
    for label in config.task.labels:
        is_label = [item.label == label for item in train_set]
        scored[label] = rank(log_likelihoods, is_label, config.method, config.num_candidates)
    words = {label: [names[place] for place, _ in found[: config.num_words]] for label, found in scored.items()}
    (out / "words.json").write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    rows = [
        {"label": label, "word": names[place], "score": round(score, 4)}
        for label, found in scored.items()
        for place, score in found[:SHOWN]
    ]
    with (out / "candidates.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    recorder.log_table("words", [{"label": label, "words": ", ".join(found)} for label, found in words.items()])
    return Result(words=words, num_candidates=min(config.num_candidates, len(names)), num_labeled=len(train_set))


def _check_labeled(labels: Sequence[str], train_set: Sequence[Example]) -> None:
    given = {item.label for item in train_set}
    for label in labels:
        if label not in given:
            raise InputError(
                f"words are found from labelled examples, and the label {label!r} has none.",
                "Label some, or write a verbalizer.",
                key="verbalizer_search",
            )


def _check_size(config: VerbalizerSearchConfig, num_found: int) -> None:
    if num_found < config.num_words * len(config.task.labels):
        raise InputError(
            f"the vocabulary has {num_found} words, and {config.num_words} for each label were asked for.",
            "Lower num_words.",
            key="verbalizer_search.num_words",
        )


def whole_words(tokenizer: Any) -> dict[str, int]:
    """Word -> token id of all words of two letters or more that are one token in a text, in the order of ids.

    Decoding a token and tokenising the word again sorts out parts of words in every kind of vocabulary: where a mark
    says that a space goes before, the same letters without it are another token.
    """

    found = {}
    for number in sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)):
        word = tokenizer.decode([number]).strip()
        if len(word) >= 2 and word.isalpha() and word_tokens(word, tokenizer) == [number]:
            found[word] = number
    return found


def rank(
    log_likelihoods: NDArray[np.float64], is_label: Sequence[bool], method: SearchMethod, num_candidates: int
) -> list[tuple[int, float]]:
    """Ranks words for one label.

    Args:
        log_likelihoods: [n, W] log-probability of each word in each labelled text.
        is_label: [n] whether the text has the label; some have it. Together they weigh as much as all the others.
        method: likelihood_ratio: log p - log(1 - p), added where the text has the label and subtracted elsewhere;
            cross_entropy: log p where the text has the label, log(1 - p) elsewhere.
        num_candidates: Words that are ranked: those with the largest summed log p in the label's texts.

    Returns:
        (number of the word, score), best first.
    """

    mine = np.array(is_label)
    log_p = np.minimum(log_likelihoods, -1e-9)  # a probability of 1 has no log(1 - p)
    log_not = np.log1p(-np.exp(log_p))
    balance = (~mine).sum() / mine.sum()
    if method == "likelihood_ratio":
        odds = log_p - log_not
        scores = balance * odds[mine].sum(axis=0) - odds[~mine].sum(axis=0)
    else:
        scores = balance * log_p[mine].sum(axis=0) + log_not[~mine].sum(axis=0)
    candidates = np.argsort(-log_p[mine].sum(axis=0), kind="stable")[:num_candidates]
    ranked = sorted(candidates.tolist(), key=lambda place: (-scores[place], place))
    return [(place, float(scores[place])) for place in ranked]


def _read(
    config: VerbalizerSearchConfig, backbone: Backbone, examples: Sequence[Example], ids: list[int], recorder: Recorder
) -> NDArray[np.float64]:
    """[n, W] log-probability of each word at the mask, over the whole vocabulary."""

    task = config.task
    encoder = Encoder(
        task.pattern(config.pattern), backbone.tokenizer, backbone.family, config.backbone.max_length, task.truncation
    )
    if backbone.family == "causal" and not encoder.pattern.ends_in_mask:
        raise InputError(
            f"words cannot be searched for pattern {config.pattern!r}: a causal model reads them at the end only.",
            "Put {mask} at the end of the pattern, or write a verbalizer.",
        )
    encoded = encoder.all(examples)
    found = np.zeros((len(examples), len(ids)))
    done = 0
    with torch.inference_mode():
        for rows in batches_by_length([len(item.ids) for item in encoded], backbone.eval_batch_tokens):
            logits = backbone.vocabulary_logits(backbone.batch([encoded[row] for row in rows]))
            found[rows] = logits.double().log_softmax(dim=1)[:, ids].cpu().numpy()
            done += len(rows)
            recorder.log_progress(done, len(encoded), phase="labelled texts")
    return found
