"""Tests of text encoders: pooling, states and texts of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, T5EncoderModel

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.models.encoders.modeling_clozeline import pool
from stages.common.models.encoders.text_encoder import TextEncoder
from tests.support.small_models import FAMILIES
from tests.support.stage_runs import SILENT


def encoder(folder: Path, **settings: Any) -> StudentConfig:
    return StudentConfig(asset=str(folder), **({"max_length": 32, "precision": "fp32"} | settings))


def test_pool_reads_first_last_or_all_tokens() -> None:
    states = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]], [[3.0, 30.0], [5.0, 50.0], [9.0, 90.0]]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert pool(states, mask, "cls").tolist() == [[1, 10], [3, 30]]
    assert pool(states, mask, "last").tolist() == [[6, 60], [5, 50]]
    assert pool(states, mask, "mean").tolist() == [[3, 30], [4, 40]]


TEXTS = ("dull", "the film is a warm and clever story about two sisters , and it was great .", "it was bad")


@pytest.mark.parametrize("name", FAMILIES)
def test_encoder_states_equal_those_of_the_language_model(name: str, backbone_folders: dict[str, Path]) -> None:
    """Compares with the last token's state of the full model without padding."""
    kinds = {"llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM, "t5": T5EncoderModel}
    kind = kinds.get(name, AutoModelForMaskedLM)
    plain = kind.from_pretrained(backbone_folders[name], dtype=torch.float32).eval()
    reader = TextEncoder.of(EncoderConfig(asset=str(backbone_folders[name]), pooling="last"), ("text",))
    actual = reader.embed([Example(text, {"text": text}) for text in TEXTS], SILENT, "")
    for row, text in zip(actual, TEXTS, strict=True):
        ids = torch.tensor([reader.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            states = plain(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(row, states[0, -1], atol=1e-3)


def test_pair_without_separator_is_two_lines(backbone_folders: dict[str, Path]) -> None:
    example = Example("1", {"a": "the film", "b": "it was dull"})
    for name, expected in (("gpt2", "it was dull\nthe film"), ("bert", "it was dullthe film")):
        reader = TextEncoder.of(encoder(backbone_folders[name]), ("b", "a"))
        assert "".join(reader.texts(example)) == expected


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_cls_pooling_of_a_causal_model_raises_an_error(name: str, backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"reads only itself.*Set pooling: mean"):
        TextEncoder.of(encoder(backbone_folders[name], pooling="cls"), ("text",))


def test_prefix_is_put_before_each_text(backbone_folders: dict[str, Path]) -> None:
    example = Example("1", {"a": "the film", "b": "it was dull", "c": "and bad"})
    bert, gpt2 = (TextEncoder.of(encoder(backbone_folders[name], prefix="so "), "abc") for name in ("bert", "gpt2"))
    assert bert.texts(example) == ("so the film", "so it was dull and bad")
    assert gpt2.texts(example) == ("so the film", "\nso it was dull and bad")
    plain = TextEncoder.of(encoder(backbone_folders["bert"]), ("text",))
    with_prefix = TextEncoder.of(encoder(backbone_folders["bert"], prefix="so "), ("text",))
    actual = with_prefix.embed([Example("1", {"text": "it was dull"})], SILENT, "")
    expected = plain.embed([Example("1", {"text": "so it was dull"})], SILENT, "")
    assert torch.equal(actual, expected)


def test_fraction_cut_counts_texts_with_more_tokens_than_are_read(backbone_folders: dict[str, Path]) -> None:
    reader = TextEncoder.of(encoder(backbone_folders["bert"], max_length=8), ("text",))
    examples = [Example(str(row), {"text": text}) for row, text in enumerate(["good film", "a good film " * 20])]
    assert reader.fraction_cut(examples) == 0.5
    assert reader.fraction_cut(examples[:1]) == reader.fraction_cut([]) == 0
