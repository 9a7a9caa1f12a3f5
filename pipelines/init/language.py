"""Is a task in English? A new recipe takes English or multilingual models by the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Language = Literal["english", "other"]

FIRST_HAN, LAST_HAN = "\u4e00", "\u9fff"
"""Bounds of the block of Chinese characters. Japanese texts have more letters of other blocks."""
MAX_SHARE_NOT_ASCII = 0.03
"""Maximum fraction of letters with accents or of other alphabets in English texts."""
_ENGLISH = (
    "the and of to is that it for with you this are have not but was they what how my we your his her been which "
    "would there their from has had were do does did"
)
_OTHER = (
    "el la los las un una es que por para con del se lo como pero le les une des est et pas pour dans sur avec qui "
    "der das den dem und ist nicht ein eine mit auf von sich auch il di che per non sono gli della uma com mas ao dos "
    "het een van ik niet dat zijn op och att det som inte av er og ikke ja ei yang dan di ini untuk dengan tidak si "
    "nu pe na se ve bir bu da nie je"
)
"""Frequent words of other languages that are written in Latin letters, without those that are English words too."""
ENGLISH_WORDS, OTHER_WORDS = frozenset(_ENGLISH.split()), frozenset(_OTHER.split())


def detect_language(texts: Iterable[str]) -> Language:
    """Returns "english" or "other" for a sample of texts.

    Texts with other letters than a to z are not English. Otherwise the frequent words decide, which make up a third
    of a text; without any of them, as in lists of names, the texts count as English.
    """
    num_letters = num_other_letters = num_english = num_other = 0
    for text in texts:
        letters = [letter for letter in text if letter.isalpha()]
        num_letters += len(letters)
        num_other_letters += sum(not letter.isascii() for letter in letters)
        words = re.findall(r"[a-z]+", text.casefold())
        num_english += sum(word in ENGLISH_WORDS for word in words)
        num_other += sum(word in OTHER_WORDS for word in words)
    if num_other_letters > MAX_SHARE_NOT_ASCII * num_letters:
        return "other"
    return "english" if num_english >= num_other else "other"


def name_language(texts: Sequence[str]) -> str:
    """Returns the language of a sample of texts, for a message."""
    if is_chinese(texts):
        return "Chinese"
    return "English" if detect_language(texts) == "english" else "another language"


def describe_choice(language: Language, texts: Sequence[str]) -> str:
    """Returns the choice of a language with the flag that changes it, for a message."""
    name = " (Chinese)" if language == "other" and is_chinese(texts) else ""
    return f"{language}{name}; --language changes it"


def is_chinese(texts: Iterable[str]) -> bool:
    """Returns True if most letters of a sample of texts are Chinese characters."""
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return sum(FIRST_HAN <= letter <= LAST_HAN for letter in letters) > len(letters) / 2
