"""Cloze patterns that a new recipe tries. None is made for one topic: the labeled examples decide what it keeps."""

from __future__ import annotations

from collections.abc import Mapping

from stages.common.patterns.config import Family

# For causal models, which predict the word after the text.
TEXT_PATTERNS: Mapping[str, str] = {
    "topic": "{text}\nTopic:{mask}",
    "about": "{text}\nThis text is about{mask}",
    "category": "Text: {text}\nCategory:{mask}",
    "sentiment": "Text: {text}\nSentiment:{mask}",
    "summary": "{text}\nIn summary, it is{mask}",
    "all": "{text}\nAll in all, it was{mask}",
    "opinion": "Review: {text}\nOpinion:{mask}",
}
PAIR_PATTERNS: Mapping[str, str] = {
    "relation": "{text_a}\n{text_b}\nRelation:{mask}",
    "answer": "{text_a}\nQuestion: {text_b|rstrip_punct}?\nAnswer:{mask}",
    "follows": '{text_a}\nDoes it follow that "{text_b|rstrip_punct}"? Yes or no?{mask}',
    "same": "First: {text_a}\nSecond: {text_b}\nDo both say the same? Yes or no?{mask}",
    "about": "First: {text_a}\nSecond: {text_b}\nThese two texts are{mask}",
    "entails": '"{text_b|rstrip_punct}"?{mask}. "{text_a}"',
}
"""`entails` is the pattern of PET for entailment (Schick & Schütze, EACL 2021, section 4)."""
CHINESE_TEXT_PATTERNS: Mapping[str, str] = {
    "topic": "{text}\n主题：{mask}",
    "category": "文本：{text}\n类别：{mask}",
    "sentiment": "评论：{text}\n情感：{mask}",
    "summary": "{text}\n总之，{mask}",
    "about": TEXT_PATTERNS["about"],
    "all": TEXT_PATTERNS["all"],
    "opinion": TEXT_PATTERNS["opinion"],
}
"""The names of labels may be English, so some patterns are."""
CHINESE_PAIR_PATTERNS: Mapping[str, str] = {
    "relation": "{text_a}\n{text_b}\n关系：{mask}",
    "answer": "{text_a}\n问题：{text_b|rstrip_punct}？\n回答：{mask}",
    "follows": PAIR_PATTERNS["follows"],
    "same": PAIR_PATTERNS["same"],
    "entails": PAIR_PATTERNS["entails"],
}


def proposed_patterns(family: Family, *, is_pair: bool, is_chinese: bool) -> dict[str, str]:
    """Returns name -> pattern for a form of input and a family of models."""
    if is_pair:
        patterns = CHINESE_PAIR_PATTERNS if is_chinese else PAIR_PATTERNS
    else:
        patterns = CHINESE_TEXT_PATTERNS if is_chinese else TEXT_PATTERNS
    return dict(patterns) if family == "causal" else {name: _sentence(text) for name, text in patterns.items()}


def _sentence(pattern: str) -> str:
    """Returns a pattern for models that fill a mask within a text."""
    text = pattern.replace("\n", " ").replace("{mask}", " {mask}")
    return f"{text}." if text.endswith("{mask}") else text
