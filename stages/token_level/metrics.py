"""Scores of token-level tasks: entity F1 (conlleval), exact match and F1 of the words of an answer (SQuAD).

Entities follow the rules of conlleval (Tjong Kim Sang & Buchholz, 2000); answers those of SQuAD (Rajpurkar et al.,
EMNLP 2016).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sklearn.metrics import f1_score

from stages.common.metrics.classification import Score
from stages.token_level.config import OUTSIDE

Entity = tuple[int, int, str]
"""First word, word behind the last, type."""


def entities(labels: Sequence[str]) -> set[Entity]:
    """The entities of a text by the rules of CoNLL's own evaluation (conlleval, Tjong Kim Sang & Buchholz, 2000): an
    entity begins with B-, S-, or where the type changes, so that BIO, IOB1 and BIOES are all understood.
    """
    found: set[Entity] = set()
    start, kind, last = 0, "", OUTSIDE
    for place, label in enumerate([*labels, OUTSIDE]):
        prefix, _, name = label.partition("-")
        if prefix not in tuple("BIES"):
            name = ""
        if kind and (prefix in ("B", "S") or last in ("E", "S") or name != kind):
            found.add((start, place, kind))
            kind = ""
        if name and not kind:
            start, kind = place, name
        last = prefix
    return found


def token_classification_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Score:
    """Scores of labelled texts.

    Args:
        gold: [n] the right labels of each text's words.
        predicted: [n] the predicted ones.

    Returns:
        accuracy of words, `macro_f1` over the types of entity (without entities: over labels), `entity_f1` over all
        entities.
    """

    right = [label for row in gold for label in row]
    told = [label for row in predicted for label in row]
    table = entity_table(gold, predicted)
    words = f1_score(right, told, average="macro", zero_division=0)
    by_type = sum(row["f1"] for row in table) / len(table) if table else float(words)
    return Score(
        accuracy=round(sum(one == other for one, other in zip(right, told, strict=True)) / len(right), 6),
        macro_f1=round(by_type, 6),
        mcc=None,
        ece=None,
        exact_match=None,
        entity_f1=_entity_f1(gold, predicted) if table else None,
        num_examples=len(gold),
    )


def entity_table(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """One row a type of entity in the gold labels: precision, recall, F1, and how many there are (support)."""
    pairs = [(entities(right), entities(told)) for right, told in zip(gold, predicted, strict=True)]
    kinds = sorted({entity[2] for right, _ in pairs for entity in right})
    rows = []
    for kind in kinds:
        mine = [({e for e in right if e[2] == kind}, {e for e in told if e[2] == kind}) for right, told in pairs]
        rows.append({"type": kind, **_precision_recall(mine), "support": sum(len(right) for right, _ in mine)})
    return rows


def _entity_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    return _precision_recall([(entities(right), entities(told)) for right, told in zip(gold, predicted, strict=True)])[
        "f1"
    ]


def _precision_recall(pairs: Sequence[tuple[set[Entity], set[Entity]]]) -> dict[str, float]:
    hits = sum(len(right & told) for right, told in pairs)
    num_right, num_told = sum(len(right) for right, _ in pairs), sum(len(told) for _, told in pairs)
    precision, recall = hits / num_told if num_told else 0.0, hits / num_right if num_right else 0.0
    f1 = 2 * hits / (num_right + num_told) if hits else 0.0
    return {"precision": round(precision, 6), "recall": round(recall, 6), "f1": round(f1, 6)}


def squad_scores(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> Score:
    """Scores of answers, as SQuAD has them (Rajpurkar et al., EMNLP 2016): the best of a question's answers counts.

    Args:
        gold: [n] the answers to each question; none: it has none, and "" is right.
        predicted: [n] the answers that were found.

    Returns:
        accuracy and `exact_match`: share of answers that are exactly right; `macro_f1`: F1 of the words, mean over
        questions.
    """
    exact = [
        max(_normal(text) == _normal(told) for text in (texts or ("",))) for texts, told in _pairs(gold, predicted)
    ]
    overlap = [max(_word_f1(text, told) for text in (texts or ("",))) for texts, told in _pairs(gold, predicted)]
    return Score(
        accuracy=round(sum(exact) / len(exact), 6),
        macro_f1=round(sum(overlap) / len(overlap), 6),
        mcc=None,
        ece=None,
        exact_match=round(sum(exact) / len(exact), 6),
        num_examples=len(exact),
    )


def _pairs(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> Iterable[tuple[Sequence[str], str]]:
    return zip(gold, predicted, strict=True)


def _normal(text: str) -> str:
    """Lower case, without punctuation, English articles and needless spaces."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _word_f1(right: str, told: str) -> float:
    first, second = _normal(right).split(), _normal(told).split()
    if not first or not second:
        return float(first == second)
    shared = sum((Counter(first) & Counter(second)).values())
    return 2 * shared / (len(first) + len(second))
