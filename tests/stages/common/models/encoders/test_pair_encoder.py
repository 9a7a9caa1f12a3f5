"""Tests of the encoder that compares two texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.pair_encoder import PairEncoder, compare, encoder_class
from stages.common.models.encoders.text_encoder import TextEncoder
from tests.support.stage_runs import SILENT

PAIRS = (
    ("dull", "the film is a warm and clever story about two sisters , and it was great ."),
    ("it was bad", "bad"),
    ("the story was clever and warm", "it was great ."),
)


def test_features_are_difference_product_and_cosine() -> None:
    first, second = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, -5.0]])
    expected = [[0.4, 0.8, 0.6 * 2**0.5, 0, 4 * 0.6], [0, 2, 0, -(2**0.5), -4]]
    assert compare(first, second).numpy() == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_each_text_is_read_on_its_own(name: str, backbone_folders: dict[str, Path]) -> None:
    config = EncoderConfig(asset=str(backbone_folders[name]), max_length=32, precision="fp32", prefix="q ")
    encoder = PairEncoder.of(config, ("a", "b"))
    pairs = [Example(str(number), {"a": first, "b": second}) for number, (first, second) in enumerate(PAIRS)]
    single = TextEncoder.of(config, ("text",))
    first, second = (
        single.embed([Example(text, {"text": text}) for text in texts], SILENT, "")
        for texts in zip(*PAIRS, strict=True)
    )
    vectors = encoder.embed(pairs, SILENT, "")
    assert vectors.shape == (3, encoder.width)
    assert torch.allclose(vectors, compare(first, second), atol=1e-4)
    loaded = encoder_class(encoder.metadata)
    assert loaded is PairEncoder and encoder_class(single.metadata) is TextEncoder


def test_a_pair_is_cut_if_one_text_is(backbone_folders: dict[str, Path]) -> None:
    encoder = PairEncoder.of(EncoderConfig(asset=str(backbone_folders["bert"]), max_length=8), ("a", "b"))
    long, short = "the film was a warm and clever story", "it was bad"
    examples = [
        Example(str(row), {"a": a, "b": b}) for row, (a, b) in enumerate([(short, short), (short, long), (long, short)])
    ]
    assert encoder.fraction_cut(examples) == pytest.approx(2 / 3)
    assert encoder.fraction_cut([]) == 0
