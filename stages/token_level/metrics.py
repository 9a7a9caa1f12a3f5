"""Scores of token-level tasks: entity F1 (conlleval), exact match and F1 of the words of an answer (SQuAD).

Entities follow the rules of conlleval (Tjong Kim Sang & Buchholz, 2000); answers those of SQuAD (Rajpurkar et al.,
EMNLP 2016).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sklearn.metrics import f1_score

from stages.common.metrics.classification import Score
from stages.token_level.config import OUTSIDE


class Entity(NamedTuple):
    """An entity: its first word, the word after its last word, and its type."""

    start: int
    end: int
    type: str


def entities(labels: Sequence[str]) -> set[Entity]:
    """Returns the entities of a text by the rules of conlleval.

    An entity starts with B-, S-, or where the type changes, so BIO, IOB1 and BIOES are accepted.
    """
    result: set[Entity] = set()
    start, current, last_prefix = 0, "", OUTSIDE
    for index, label in enumerate([*labels, OUTSIDE]):
        prefix, _, entity_type = label.partition("-")
        if prefix not in tuple("BIES"):
            entity_type = ""
        if current and (prefix in ("B", "S") or last_prefix in ("E", "S") or entity_type != current):
            result.add(Entity(start, index, current))
            current = ""
        if entity_type and not current:
            start, current = index, entity_type
        last_prefix = prefix
    return result


def token_classification_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Score:
    """Scores the labels of words.

    Args:
        gold: [n] gold labels of the words of each text.
        predicted: [n] predicted labels.

    Returns:
        accuracy of words; `macro_f1` over the types of entities (without entities: over labels); `entity_f1` over all
        entities.
    """
    gold_words = [label for row in gold for label in row]
    predicted_words = [label for row in predicted for label in row]
    table = entity_table(gold, predicted)
    if table:
        macro_f1 = sum(row["f1"] for row in table) / len(table)
    else:
        macro_f1 = float(f1_score(gold_words, predicted_words, average="macro", zero_division=0))
    num_right = sum(one == other for one, other in zip(gold_words, predicted_words, strict=True))
    return Score(
        accuracy=round(num_right / len(gold_words), 6),
        macro_f1=round(macro_f1, 6),
        mcc=None,
        ece=None,
        exact_match=None,
        entity_f1=_precision_recall_f1(_entity_pairs(gold, predicted))["f1"] if table else None,
        num_examples=len(gold),
    )


def entity_table(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Returns one row per type of the gold entities: precision, recall, F1, and their number (support)."""
    pairs = _entity_pairs(gold, predicted)
    rows = []
    for entity_type in sorted({entity.type for pair in pairs for entity in pair.gold}):
        of_type = [
            EntityPair(*({item for item in side if item.type == entity_type} for side in pair)) for pair in pairs
        ]
        support = sum(len(pair.gold) for pair in of_type)
        rows.append({"type": entity_type, **_precision_recall_f1(of_type), "support": support})
    return rows


class EntityPair(NamedTuple):
    """The gold and the predicted entities of a text."""

    gold: set[Entity]
    predicted: set[Entity]


def _entity_pairs(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[EntityPair]:
    return [EntityPair(entities(one), entities(other)) for one, other in zip(gold, predicted, strict=True)]


def _precision_recall_f1(pairs: Sequence[EntityPair]) -> dict[str, float]:
    num_right = sum(len(pair.gold & pair.predicted) for pair in pairs)
    num_gold, num_predicted = sum(len(pair.gold) for pair in pairs), sum(len(pair.predicted) for pair in pairs)
    return {
        "precision": round(num_right / num_predicted if num_predicted else 0.0, 6),
        "recall": round(num_right / num_gold if num_gold else 0.0, 6),
        "f1": round(2 * num_right / (num_gold + num_predicted) if num_right else 0.0, 6),
    }


def squad_scores(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> Score:
    """Scores answers as SQuAD does (Rajpurkar et al., EMNLP 2016): the best match among the gold answers counts.

    Args:
        gold: [n] gold answers of each question. If it has none, "" is right.
        predicted: [n] predicted answers.

    Returns:
        accuracy and `exact_match`: fraction of exact answers; `macro_f1`: F1 of the words, mean over questions.
    """
    pairs = [(answers or ("",), answer) for answers, answer in zip(gold, predicted, strict=True)]
    exact = [max(_normalized(item) == _normalized(answer) for item in answers) for answers, answer in pairs]
    word_f1 = [max(_word_f1(item, answer) for item in answers) for answers, answer in pairs]
    return Score(
        accuracy=round(sum(exact) / len(exact), 6),
        macro_f1=round(sum(word_f1) / len(word_f1), 6),
        mcc=None,
        ece=None,
        exact_match=round(sum(exact) / len(exact), 6),
        num_examples=len(exact),
    )


def _normalized(text: str) -> str:
    """Returns the text in lower case, without punctuation, English articles and repeated spaces."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _word_f1(gold: str, predicted: str) -> float:
    gold_words, predicted_words = _normalized(gold).split(), _normalized(predicted).split()
    if not gold_words or not predicted_words:
        return float(gold_words == predicted_words)
    num_shared = sum((Counter(gold_words) & Counter(predicted_words)).values())
    return 2 * num_shared / (len(gold_words) + len(predicted_words))
