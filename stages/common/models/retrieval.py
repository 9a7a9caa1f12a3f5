"""Finds the labeled examples that are most similar to a text: by BM25, or by the cosine of an encoder's vectors.

Letters in names of arrays: m texts, n labeled examples, V terms of their vocabulary, D width of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.protocols import NullRecorder

Similarity = Callable[[Sequence[Example]], NDArray[np.float64]]
"""Texts -> their similarities to each labeled example, [m, n]."""
K1, B = 1.5, 0.75
"""The usual constants of BM25: how soon the count of a term saturates, and how much longer texts count less."""


def bm25(examples: Sequence[Example], fields: Sequence[str]) -> Similarity:
    """Returns the BM25 score of each labeled example for texts (Robertson and Zaragoza, 2009, equation 3.15).

    Words are as scikit-learn finds them; a text of a language without spaces is compared by pairs of characters.
    """

    def text_of(example: Example) -> str:
        return "\n".join(example.fields[name] for name in fields)

    texts = [text_of(item) for item in examples]
    has_words = any(" " in text.strip() for text in texts)
    pattern = r"(?u)\b\w+\b" if has_words else None
    vectorizer = CountVectorizer(
        token_pattern=pattern, analyzer="word" if has_words else "char", ngram_range=(1, 1) if has_words else (1, 2)
    )
    counts_nV = vectorizer.fit_transform(texts).toarray().astype(float)
    num_with_V = (counts_nV > 0).sum(axis=0)
    idf_V = np.log(1 + (len(texts) - num_with_V + 0.5) / (num_with_V + 0.5))
    lengths_n = counts_nV.sum(axis=1, keepdims=True)
    norm_n = K1 * (1 - B + B * lengths_n / max(float(lengths_n.mean()), 1.0))
    scores_nV = idf_V * counts_nV * (K1 + 1) / (counts_nV + norm_n)

    def similarity(queries: Sequence[Example]) -> NDArray[np.float64]:
        counts_mV = vectorizer.transform([text_of(example) for example in queries])
        found: NDArray[np.float64] = (counts_mV > 0).astype(float) @ scores_nV.T
        return found

    return similarity


def cosine(examples: Sequence[Example], fields: Sequence[str], config: EncoderConfig) -> Similarity:
    """Returns the cosine between the vectors of texts and those of each labeled example."""
    encoder = TextEncoder.of(config, fields)

    def vectors(items: Sequence[Example]) -> NDArray[np.float64]:
        embedded = encoder.embed(items, NullRecorder(), "").double().numpy()
        unit: NDArray[np.float64] = embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)
        return unit

    known_nD = vectors(examples)
    return lambda queries: vectors(queries) @ known_nD.T
