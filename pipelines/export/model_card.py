"""The model card: README.md in the folder of a classifier, with its sources, accuracy, sizes and how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.export.sources import ModelSource

UNKNOWN = "unknown"
_TRANSFORMERS = """
```python
from transformers import pipeline

classify = pipeline("text-classification", "FOLDER", trust_remote_code=True)
print({answer})
```
"""
_ONNX = """
```python
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path("FOLDER")
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.encode_special_tokens = True
tokenizer.enable_truncation(config["max_tokens"], direction="{side}")
session = onnxruntime.InferenceSession(folder / "model.onnx")
tokens = tokenizer.encode({texts})
values = {{"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}}
(logits,) = session.run(None, {{item.name: np.array([values[item.name]]) for item in session.get_inputs()}})
print({answer})
```
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileMeasures:
    """How a file of weights answers.

    Args:
        file: Its name.
        num_bytes: Its size.
        texts_per_s: Texts per second on the machine that wrote the card.
        accuracy: Accuracy on the measured test texts.
        same_labels: Fraction of these texts with the label of the first file.
    """

    file: str
    num_bytes: int
    texts_per_s: float
    accuracy: float
    same_labels: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What a model card says.

    Args:
        recipe: Name of the recipe.
        row: Row of the leaderboard.
        labels: The labels.
        fields: The fields of a row.
        test: Scores on the test set.
        num_labeled: Labeled examples that it or its teachers learned from.
        num_unlabeled: Unlabeled examples that it learned from.
        sources: Models and data that it comes from.
        measures: Its files.
        num_measured: Test texts on which the files were measured.
        truncation_side: Which end of a long text the tokenizer cuts.
        is_encoder: Whether it is an encoder, and not word counts.
        has_label_sets: Whether a text has any number of labels.
        has_onnx: Whether the folder has ONNX files.
    """

    recipe: str
    row: str
    labels: Sequence[str]
    fields: Sequence[str]
    test: Mapping[str, Any]
    num_labeled: int
    num_unlabeled: int
    sources: Sequence[ModelSource]
    measures: Sequence[FileMeasures]
    num_measured: int
    truncation_side: str
    is_encoder: bool
    has_label_sets: bool = False
    has_onnx: bool


def model_card(facts: CardFacts) -> str:
    """Returns the card as Markdown, with the header that the Hugging Face hub reads."""
    licenses = sorted({item.license or UNKNOWN for item in facts.sources})
    name = licenses[0].lower() if len(licenses) == 1 and UNKNOWN not in licenses else "other"
    accuracy, kind = ("subset accuracy", "multi-label text") if facts.has_label_sets else ("accuracy", "text")
    scores = [f"{facts.test['accuracy']:.1%} {accuracy}", f"{facts.test['macro_f1']:.1%} macro-F1"]
    if facts.has_label_sets:
        scores.insert(0, f"{facts.test['micro_f1']:.1%} micro-F1")
    if facts.test.get("mae") is not None:
        scores.append(f"a mean absolute error of {facts.test['mae']:.2f} steps")
    parts = [
        f"---\nlicense: {name}\npipeline_tag: text-classification\ntags: [clozeline]\n---\n",
        f"# {facts.recipe}: {facts.row}\n",
        f"A {kind} classifier with {len(facts.labels)} labels: {', '.join(f'`{label}`' for label in facts.labels)}. "
        f"It learned from {facts.num_labeled:,} labeled and {facts.num_unlabeled:,} unlabeled examples with clozeline. "
        f"On {facts.test['num_examples']:,} test examples it has {', '.join(scores[:-1])} and {scores[-1]}.\n",
        "## Use it\n",
        *_usage(facts),
        "## Files\n",
        f"Measured on {facts.num_measured:,} test examples, on the machine that wrote this page.\n",
        _table(
            ("file", "MB", "texts per second", accuracy, f"same label{'s' * facts.has_label_sets} as the first file"),
            [
                (
                    f"`{item.file}`",
                    f"{item.num_bytes / 1e6:,.1f}",
                    f"{item.texts_per_s:,.0f}",
                    f"{item.accuracy:.1%}",
                    f"{item.same_labels:.1%}",
                )
                for item in facts.measures
            ],
        ),
        "## Models and data that it comes from\n",
        "They include those of its teachers. A data set may have other terms than the package that contains it: read "
        "them before you publish the classifier.\n",
        _table(
            ("source", "kind", "license", "key of the recipe"),
            [(f"`{item.name}`", item.kind, item.license or UNKNOWN, f"`{item.key}`") for item in facts.sources],
        ),
    ]
    return "\n".join(parts)


def _usage(facts: CardFacts) -> list[str]:
    command = "With clozeline: `clozeline predict FOLDER --input new.csv`.\n"
    if not facts.is_encoder:
        return [command]
    code = _TRANSFORMERS.format(answer=_transformers_answer(facts))
    parts = [f"With transformers, which runs the code in `modeling_clozeline.py`:\n{code}"]
    if facts.has_onnx:
        code = _ONNX.format(side=facts.truncation_side, texts=_texts(facts), answer=_onnx_answer(facts))
        parts.append(f"With onnxruntime and tokenizers, without torch and without code in this folder:\n{code}")
    return [*parts, command]


def _transformers_answer(facts: CardFacts) -> str:
    """Returns the expression of the labels of an example for the pipeline of transformers."""
    if facts.has_label_sets:
        return f"[item for item in classify({_inputs(facts)}, top_k=None) if item['score'] > 0.5]"
    return f"classify({_inputs(facts)})"


def _onnx_answer(facts: CardFacts) -> str:
    """Returns the expression of the labels of an example for onnxruntime."""
    if facts.has_label_sets:
        return '[config["id2label"][str(label)] for label in np.flatnonzero(logits[0] > 0)]'
    return 'config["id2label"][str(logits[0].argmax())]'


def _inputs(facts: CardFacts) -> str:
    """Returns the expression of an example for the pipeline of transformers."""
    if len(facts.fields) == 1:
        return '"Some text."'
    return f'{{"text": "Some {facts.fields[0]}.", "text_pair": "Some {" ".join(facts.fields[1:])}."}}'


def _texts(facts: CardFacts) -> str:
    """Returns the expressions of the texts of an example for the tokenizer."""
    first = f'config["prefix"] + "Some {"text" if len(facts.fields) == 1 else facts.fields[0]}."'
    if len(facts.fields) == 1:
        return first
    return f'{first}, config["separator"] + config["prefix"] + "Some {" ".join(facts.fields[1:])}."'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
