"""Tests of the similarity of texts: BM25 by its formula, and the cosine of an encoder."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.retrieval import bm25, cosine
from stages.common.protocols import NullRecorder

TEXTS = ("the car is fast", "a red car and a red bus", "a soup of fish", "fish fish and chips")
EXAMPLES = [Example(str(row), {"text": text}) for row, text in enumerate(TEXTS)]


def bm25_by_hand(query: str, k1: float = 1.5, b: float = 0.75) -> list[float]:
    documents = [text.split() for text in TEXTS]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        total = 0.0
        for term in set(query.split()):
            num_with = sum(term in other for other in documents)
            if num_with:
                count = Counter(words)[term]
                idf = math.log(1 + (len(documents) - num_with + 0.5) / (num_with + 0.5))
                total += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * len(words) / mean))
        scores.append(total)
    return scores


QUERIES = ("a fast car", "fish", "red fish and chips", "nothing known")


def test_bm25_is_its_formula() -> None:
    scores = bm25(EXAMPLES, ["text"])([Example(query, {"text": query}) for query in QUERIES])
    assert scores.shape == (4, 4)
    for row, query in enumerate(QUERIES):
        assert scores[row] == pytest.approx(bm25_by_hand(query))


def test_texts_without_spaces_are_compared_by_characters() -> None:
    texts = ("这部电影很好看", "今天下雨了", "电影院关门了")
    similarity = bm25([Example(str(row), {"text": text}) for row, text in enumerate(texts)], ["text"])
    [scores] = similarity([Example("x", {"text": "好看的电影"})])
    assert scores.argmax() == 0 and scores[1] < scores[2]


def test_cosine_is_that_of_the_encoder(backbone_folders: dict[str, Path]) -> None:
    config = EncoderConfig(asset=str(backbone_folders["bert"]), max_length=32)
    vectors = TextEncoder.of(config, ["text"]).embed(EXAMPLES, NullRecorder(), "").double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = cosine(EXAMPLES, ["text"], config)
    assert similarity(EXAMPLES[1:3]) == pytest.approx(vectors[1:3] @ vectors.T, abs=1e-4)
