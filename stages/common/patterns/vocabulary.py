"""Words of a vocabulary that can stand in a text: candidates for label words and for the words of a pattern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stages.common.examples import Example
from stages.common.patterns.verbalizers import word_tokens
from stages.common.plain_text import PlainText


def whole_words(tokenizer: Any, *, min_letters: int = 2) -> dict[str, int]:
    """Returns word -> token id of all words that are one token in a text, in the order of ids.

    With two letters or more, these are in byte-level vocabularies the words of PETAL, which start with a space: such
    tokens have nothing but letters. A token is decoded and the word is tokenized again. This removes parts of words in
    every kind of vocabulary: if a mark represents a space before the word, the same letters without it are another
    token.

    Args:
        tokenizer: A fast tokenizer of transformers.
        min_letters: Letters of the shortest words. Scripts such as Chinese have words of one.
    """
    words = {}
    for token in sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)):
        word = tokenizer.decode([token]).strip()
        if len(word) >= min_letters and word.isalpha() and word_tokens(word, tokenizer) == [token]:
            words[word] = token
    return words


def most_frequent(
    words: Mapping[str, int], tokenizer: Any, examples: Sequence[Example], fields: Sequence[str], count: int
) -> dict[str, int]:
    """Returns the `count` words that are most frequent in the texts; of equally frequent ones those with lower ids.

    The original implementation counts words between spaces. Tokens of the text are counted here, because not all
    languages have spaces.
    """
    plain, occurrences = PlainText(tokenizer), Counter[int]()
    for example in examples:
        for field in fields:
            ids = tokenizer(plain(f" {example.fields[field]}"), add_special_tokens=False, split_special_tokens=True)
            occurrences.update(ids["input_ids"])
    frequent = sorted(words, key=lambda word: (-occurrences[words[word]], words[word]))[:count]
    return {word: words[word] for word in sorted(frequent, key=words.__getitem__)}
