"""The examples of prompt pretraining equal the stored ones, which follow the rules of PPT's authors.

The rules are those of tools/preprocess_pretrain_data_{nsp,nss,nss_uni}.py in github.com/thu-coai/PPT. They are checked
on the stored examples without any code that builds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.common.data.corpora import Window
from stages.common.examples import Example
from stages.common.patterns.syntax import FieldRef, Mask
from stages.common.seeds import python_rng
from stages.prompt_pretraining.formats import LETTERS, PretrainingFormat, task_of
from stages.prompt_pretraining.next_sentence import choice_examples, pair_examples

FILE = Path(__file__).parent / "ppt_examples.json"
STORED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
DOCUMENTS = [tuple(document) for document in STORED["documents"]]
POSITIONS = {sentence: (row, column) for row, texts in enumerate(DOCUMENTS) for column, sentence in enumerate(texts)}
NUM_OPTIONS = {"choice": (6, 6), "unified": (2, 16)}


def build(kind: PretrainingFormat) -> list[dict[str, Any]]:
    """Returns the examples of a format with their text in T5's pattern, in which ___ is the sentinel."""
    window = Window(DOCUMENTS, 100)
    if kind == "pair":
        examples = pair_examples(window, 12, python_rng(7, kind))
    else:
        examples = choice_examples(window, 12, NUM_OPTIONS[kind], python_rng(7, kind), name=kind)
    pattern = task_of(kind, NUM_OPTIONS.get(kind, (2, 2))[1], {}).pattern("seq2seq")
    return [{"text": text_of(item, pattern.parts), "target": item.label, **shown(item)} for item in examples]


def text_of(example: Example, parts: tuple[Any, ...]) -> str:
    texts = (
        part.value(example.fields) if isinstance(part, FieldRef) else "___" if isinstance(part, Mask) else part.text
        for part in parts
    )
    return " ".join("".join(texts).split())


def shown(example: Example) -> dict[str, Any]:
    return {"fields": {name: text for name, text in example.fields.items() if text}}


@pytest.mark.parametrize("kind", ["pair", "choice", "unified"])
def test_examples_equal_the_stored_ones(kind: PretrainingFormat) -> None:
    assert build(kind) == STORED[kind]


def test_pairs_follow_the_rule_of_next_sentence_prediction() -> None:
    """sentence <X> sentence; yes: neighbors, maybe: the same document, no: two documents."""
    for item in STORED["pair"]:
        first, second = item["fields"]["first"], item["fields"]["second"]
        assert item["text"] == f"{first} ___. {second}"
        (document, row), (other, column) = POSITIONS[first], POSITIONS[second]
        neighbors = abs(row - column) == 1
        expected = "no" if document != other else "yes" if neighbors else "maybe"
        assert item["target"] == expected
    assert sorted(item["target"] for item in STORED["pair"]) == ["maybe"] * 4 + ["no"] * 4 + ["yes"] * 4


@pytest.mark.parametrize("kind", ["choice", "unified"])
def test_options_follow_the_rule_of_next_sentence_selection(kind: str) -> None:
    """sentence? A. option B. option ... The correct one is <X>; the target is the letter of a neighbor."""
    counts = set()
    for item in STORED[kind]:
        query, *options = item["fields"].values()
        counts.add(len(options))
        assert item["text"] == f"{query.rstrip('.')}? {' '.join(options)} The correct one is ___."
        document, row = POSITIONS[query]
        texts = {}
        for letter, option in zip(LETTERS, options, strict=False):
            assert option.startswith(f"{letter}. ")
            texts[letter] = POSITIONS[option.removeprefix(f"{letter}. ")]
        assert len(set(texts.values())) == len(options)
        neighbors = [letter for letter, (other, column) in texts.items() if (other, abs(column - row)) == (document, 1)]
        assert neighbors == [item["target"]]
        others_of_document = [letter for letter, (other, _) in texts.items() if other == document]
        assert len(others_of_document) == 2, "the neighbor, and one that is not"
    assert counts == {6} if kind == "choice" else len(counts) > 4 and counts <= set(range(2, 17))


if __name__ == "__main__":  # writes the file again (run it in the root)
    built = {kind: build(kind) for kind in ("pair", "choice", "unified")}
    FILE.write_text(json.dumps({"documents": STORED["documents"], **built}, ensure_ascii=False, indent=1) + "\n")
