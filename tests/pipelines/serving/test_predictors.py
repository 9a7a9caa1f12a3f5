"""A long text costs no more than a short one: the tokenizer gets only what the model can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.serving.predictors import CHARACTERS_PER_TOKEN, ClassifierPredictor, shortened
from stages.common.examples import Example
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from tests.support.small_models import bert_tokenizer, small_model

MAX_LENGTH = 32
MEGABYTE = "good " * 200_000


class CountingTokenizer:
    """Counts the characters that a tokenizer gets."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.num_characters = 0

    def __call__(self, *columns: list[str], **settings: Any) -> Any:
        self.num_characters += sum(len(text) for column in columns for text in column)
        return self._tokenizer(*columns, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@pytest.fixture
def classifier(tmp_path: Path) -> TextClassifier:
    tokenizer = bert_tokenizer()
    small_model("bert", len(tokenizer), tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = StudentConfig(asset=str(tmp_path), max_length=MAX_LENGTH)
    return TextClassifier.from_encoder(config, ("bad", "good"), ("text",), 0)


def test_the_tokenizer_gets_only_what_the_model_can_read(classifier: TextClassifier) -> None:
    classifier.encoder.tokenizer = counting = CountingTokenizer(classifier.encoder.tokenizer)
    predictor = ClassifierPredictor(classifier)
    (long,) = predictor.predict([predictor.parse_row({"text": MEGABYTE}, "0")])
    assert len(MEGABYTE) == 1_000_000
    assert 0 < counting.num_characters <= CHARACTERS_PER_TOKEN * MAX_LENGTH
    (short,) = predictor.predict([predictor.parse_row({"text": MEGABYTE[:1000]}, "0")])
    assert long["probabilities"] == pytest.approx(short["probabilities"], abs=1e-6)


def test_a_text_is_cut_where_the_model_does_not_read() -> None:
    text = " " * 5000 + "start" + "x" * 5000 + "end" + " " * 5000
    first = shortened(Example("0", {"text": text, "title": "short"}), 10)
    assert first.fields["text"].startswith("startx") and len(first.fields["text"]) == 10 * CHARACTERS_PER_TOKEN
    assert first.fields["title"] == "short"
    assert shortened(Example("0", {"text": text}), 10, keeps_end=True).fields["text"].endswith("xend")
    example = Example("0", {"text": " short "})
    assert shortened(example, 10) is example
