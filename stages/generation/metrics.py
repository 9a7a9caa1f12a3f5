"""Scores of generated texts: BLEU and chrF of sacrebleu, ROUGE of rouge-score, and exact matches.

BLEU: Papineni et al., ACL 2002; comparable between papers as in Post, WMT 2018. chrF: Popović, WMT 2015. ROUGE: Lin,
2004.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, NamedTuple

from stages.common.metrics.classification import Score
from stages.generation.packages import check_packages

Units = Literal["words", "characters"]
_BLEU_TOKENIZERS: dict[Units, str] = {"words": "13a", "characters": "zh"}
_ROUGE_UNITS: dict[Units, re.Pattern[str]] = {"words": re.compile(r"[^\W_]+"), "characters": re.compile(r"[^\W_]")}


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationScore(Score):
    """Metrics of generated texts, 0 to 1; the best match among the references counts.

    `accuracy` and `exact_match` are the fraction of texts that equal a reference, `macro_f1` is the F1 of single words
    (ROUGE-1), mean over texts.
    """

    bleu: float
    """BLEU of the whole set."""
    chrf: float
    """chrF of the whole set."""
    rouge_2: float
    """F1 of pairs of words, mean over texts."""
    rouge_l: float
    """F1 of the longest common subsequence of words, mean over texts."""


class ScoredTexts(NamedTuple):
    """The score, and the settings of BLEU as sacrebleu writes them."""

    score: GenerationScore
    bleu_signature: str


def score_texts(references: Sequence[Sequence[str]], texts: Sequence[str], units: Units = "words") -> ScoredTexts:
    """Compares generated texts with their references.

    Args:
        references: [n] one or more right texts for each.
        texts: [n] generated texts.
        units: What BLEU and ROUGE count.

    Raises:
        InputError: a package with the metrics is not installed.
        ValueError: the numbers of texts and references differ.
    """
    check_packages()
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415  (an extra, which loads nltk)
    from sacrebleu.metrics import BLEU, CHRF  # noqa: PLC0415  (an extra)

    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts, but {len(references)} references.")
    streams = [list(stream) for stream in zip_longest(*references)]  # None where a text has fewer references
    bleu = BLEU(tokenize=_BLEU_TOKENIZERS[units])
    bleu_score = bleu.corpus_score(list(texts), streams)
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_RougeTokenizer(_ROUGE_UNITS[units]))
    rows = [rouge.score_multi(list(right), text) for right, text in zip(references, texts, strict=True)]
    means = {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in ("rouge1", "rouge2", "rougeL")}
    exact = sum(_bare(text) in map(_bare, right) for right, text in zip(references, texts, strict=True)) / len(texts)
    score = GenerationScore(
        accuracy=round(exact, 6),
        macro_f1=round(means["rouge1"], 6),
        mcc=None,
        ece=None,
        exact_match=round(exact, 6),
        num_examples=len(texts),
        bleu=round(bleu_score.score / 100, 6),
        chrf=round(CHRF().corpus_score(list(texts), streams).score / 100, 6),
        rouge_2=round(means["rouge2"], 6),
        rouge_l=round(means["rougeL"], 6),
    )
    return ScoredTexts(score, str(bleu.get_signature()))


class _RougeTokenizer:
    """Splits texts of all scripts into lower-case units. rouge-score's own one drops all letters but a to z."""

    def __init__(self, unit: re.Pattern[str]) -> None:
        self._unit = unit

    def tokenize(self, text: str) -> list[str]:
        """Returns the units of a text, in order."""
        return self._unit.findall(text.lower())


def _bare(text: str) -> str:
    return " ".join(text.split())
