"""Tests of labels as hypotheses, compared with the zero-shot pipeline of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForSequenceClassification, ZeroShotClassificationPipeline

from stages.common.config import MULTI_LABEL
from stages.common.errors import AssetError, InputError
from stages.common.examples import Example, load_examples
from stages.common.metrics.classification import softmax
from stages.nli import stage as nli
from stages.nli.config import NliConfig
from tests.support.small_models import bert_tokenizer
from tests.support.stage_runs import LABELS, SILENT, logits_of, run

OUTPUTS = ("contradiction", "neutral", "entailment")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights and the outputs of MNLI."""
    folder = tmp_path_factory.mktemp("nli")
    tokenizer = bert_tokenizer()
    torch.manual_seed(3)
    settings = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=160, id2label=dict(enumerate(OUTPUTS)),
    )  # fmt: skip
    settings.label2id = {name: number for number, name in enumerate(OUTPUTS)}
    network = BertForSequenceClassification(settings)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, 0, 0.3)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(model: Path, **settings: Any) -> NliConfig:
    task = {"labels": LABELS, "fields": ("text",), "hypothesis": "The film is {label}."}
    return NliConfig(asset=str(model), **{**task, "label_phrases": {"rotten": "bad", "fresh": "good"}, **settings})


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_logits_are_those_of_the_pipeline_of_transformers(is_multi_label: bool, model: Path) -> None:
    settings = config(model, **({"problem_type": MULTI_LABEL} if is_multi_label else {}))
    examples = [Example(str(row), {"text": text}) for row, text in enumerate(["A warm film.", "A dull plot, and bad."])]
    logits = nli.NliClassifier(settings).predict(examples, SILENT, "")
    network = BertForSequenceClassification.from_pretrained(model)
    pipeline = ZeroShotClassificationPipeline(model=network, tokenizer=bert_tokenizer())
    for row, example in enumerate(examples):
        found = pipeline(
            example.fields["text"], ["bad", "good"], hypothesis_template="The film is {}.", multi_label=is_multi_label
        )
        expected = dict(zip(found["labels"], found["scores"], strict=True))
        probabilities = (
            1 / (1 + torch.tensor(-logits[row]).exp()) if is_multi_label else softmax(logits[row : row + 1])[0]
        )
        assert probabilities.tolist() == pytest.approx([expected["bad"], expected["good"]], abs=1e-5)


def test_nli_is_an_untrained_member(model: Path, film_data: Path, tmp_path: Path) -> None:
    result = run(nli, config(model), nli.Inputs(data=film_data), tmp_path / "out")
    assert (result.num_labeled, result.trainable_parameters) == (0, 0)
    train = load_examples(film_data / "train.jsonl")
    held_out = logits_of(tmp_path / "out", "held_out_logits")
    assert held_out == pytest.approx(nli.NliClassifier(config(model)).predict(train, SILENT, ""), abs=1e-4)
    right = [LABELS[row.argmax()] == item.label for row, item in zip(held_out, train, strict=True)]
    assert result.held_out_accuracy == pytest.approx(sum(right) / len(right))


def test_long_texts_are_cut_but_not_their_hypotheses(model: Path) -> None:
    examples = [Example("0", {"text": "dull " * 500})]
    logits = nli.NliClassifier(config(model, max_length=32)).predict(examples, SILENT, "")
    assert logits[0, 0] != pytest.approx(logits[0, 1]), "the hypotheses differ"
    with pytest.raises(InputError, match="leave no space for a text"):
        nli.NliClassifier(config(model, max_length=8))


@pytest.mark.parametrize(
    ("id2label", "problem"),
    [({"0": "negative", "1": "positive"}, "labels: negative, positive"), (None, "labels: none")],
)
def test_a_model_without_entailment_raises(id2label: dict[str, str] | None, problem: str, tmp_path: Path) -> None:
    settings = {"architectures": ["BertForSequenceClassification"], "id2label": id2label}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(AssetError, match=f"no label for entailment .{problem}"):
        nli.NliClassifier(config(tmp_path))


def test_equal_hypotheses_raise(model: Path) -> None:
    with pytest.raises(ValidationError, match="same hypothesis"):
        config(model, hypothesis="This is a film.")
