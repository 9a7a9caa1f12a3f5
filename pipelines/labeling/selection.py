"""Chooses the texts whose labels help most: those that models are unsure or disagree about, and that differ.

Before the first run there are only texts: then the most typical text of each cluster is chosen. Letters in names of
arrays: M members, n texts, C labels, k chosen texts, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from stages.common.metrics.classification import entropies, softmax

CANDIDATES_PER_CHOICE, CANDIDATE_FRACTION = 10, 0.5
"""The most informative texts, among which clusters are found: so many per chosen one, and at least half of all. With
few labels the most uncertain texts are odd ones, of which a model learns little about the others.
"""
MAX_CLUSTERED = 5000
"""Maximum number of texts among which clusters are found, to stay within seconds."""
NUM_FEATURES, NUM_COMPONENTS = 20_000, 64


def choose_informative(
    texts: Sequence[str],
    probabilities_nC: NDArray[np.float64],
    member_logits_MnC: NDArray[np.float64] | None,
    number: int,
    seed: int = 0,
) -> list[int]:
    """Returns the indices of the texts to label, the most informative first.

    The texts with the highest uncertainty and disagreement are clustered, weighted by both, and the text that is
    informative and near the center of its cluster is chosen. So no two chosen texts say the same, and each represents
    others.

    Args:
        texts: [n] unlabeled texts.
        probabilities_nC: Probabilities of the labels.
        member_logits_MnC: Logits of several models, whose disagreement counts as much as the uncertainty. None if there
            is one model.
        number: Texts to choose.
        seed: Seed of the clusters.
    """
    score_n = _ranks(entropies(probabilities_nC))
    if member_logits_MnC is not None and len(member_logits_MnC) > 1:
        score_n = score_n + _ranks(disagreement(member_logits_MnC))
    size = min(max(CANDIDATES_PER_CHOICE * number, int(CANDIDATE_FRACTION * len(texts))), MAX_CLUSTERED)
    candidates: list[int] = np.argsort(-score_n, kind="stable")[: max(size, number)].tolist()
    if len(candidates) <= number:
        return candidates
    features_nD = _features([texts[index] for index in candidates], seed)
    clusters = _clusters(features_nD, number, seed, weights=score_n[candidates])
    chosen: list[int] = []
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        center_D = features_nD[members].mean(axis=0)
        value = score_n[[candidates[member] for member in members]] * (features_nD[members] @ center_D)
        chosen.append(candidates[int(members[np.argmax(value)])])
    chosen += [index for index in candidates if index not in set(chosen)][: number - len(chosen)]
    return sorted(chosen, key=lambda index: -score_n[index])


def choose_typical(texts: Sequence[str], number: int, seed: int = 0) -> list[int]:
    """Returns the indices of texts that stand for all: the one nearest to the center of each cluster.

    The text of the largest cluster comes first.

    Args:
        texts: [n] unlabeled texts.
        number: Texts to choose.
        seed: Seed of the sample and of the clusters.
    """
    rows = list(range(len(texts)))
    if len(texts) > MAX_CLUSTERED:
        rows = np.sort(np.random.default_rng(seed).choice(len(texts), MAX_CLUSTERED, replace=False)).tolist()
    if len(rows) <= number:
        return rows
    features_nD = _features([texts[row] for row in rows], seed)
    clusters = _clusters(features_nD, number, seed)
    chosen: list[tuple[int, int]] = []
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        center_D = features_nD[members].mean(axis=0)
        nearest = int(members[np.argmax(features_nD[members] @ center_D)])
        chosen.append((-len(members), rows[nearest]))
    picked = [row for _, row in sorted(chosen)]
    return picked + [row for row in rows if row not in set(picked)][: number - len(picked)]


def disagreement(member_logits_MnC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns how much models disagree about each text, [n]: the entropy of their mean minus their mean entropy.

    This mutual information is 0 if all models give the same probabilities, however unsure they are.
    """
    probabilities_MnC = np.stack([softmax(logits_nC) for logits_nC in member_logits_MnC])
    difference_n: NDArray[np.float64] = entropies(probabilities_MnC.mean(axis=0)) - np.mean(
        [entropies(probabilities_nC) for probabilities_nC in probabilities_MnC], axis=0
    )
    return difference_n


def _ranks(values_n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns ranks from 0 to 1, so that values of different kinds count the same. Equal values have equal ranks."""
    ranks_n: NDArray[np.float64] = rankdata(values_n.round(9)) / len(values_n)
    return ranks_n


def _features(texts: Sequence[str], seed: int) -> NDArray[np.float64]:
    """Returns vectors of unit length, [n, D], from n-grams of characters, which all languages have."""
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), max_features=NUM_FEATURES, sublinear_tf=True, dtype=np.float64
    )
    counts = vectorizer.fit_transform([f"{text} ." for text in texts])  # a text of one character has no n-gram
    size = min(NUM_COMPONENTS, counts.shape[1] - 1, len(texts) - 1)
    if size < 1:
        return np.ones((len(texts), 1))
    # of texts that are all the same, the explained variance is 0 of 0, up to rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        components_nD = TruncatedSVD(size, random_state=seed).fit_transform(counts)
    features_nD: NDArray[np.float64] = normalize(components_nD)
    return features_nD


def _clusters(
    features_nD: NDArray[np.float64], number: int, seed: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    distinct = len(np.unique(features_nD.round(6), axis=0))
    model = KMeans(min(number, distinct), n_init=1, random_state=seed)
    clusters: NDArray[np.int64] = model.fit_predict(features_nD, sample_weight=weights)
    return clusters
