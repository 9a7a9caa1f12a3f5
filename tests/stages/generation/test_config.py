"""Tests of the config models of text generation."""

from __future__ import annotations

from typing import Any

import pytest

from stages.common.errors import InputError
from stages.common.prompts.config import PromptConfig
from stages.generation.config import DecodingConfig, GenerationSettings, check_fits_generation

PATTERN = "{text} Summary: "


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"num_beams": 4}, "num_beams is for strategy: beam, not for greedy"),
        ({"strategy": "beam", "temperature": 0.5}, "temperature is for strategy: sample, not for beam"),
        ({"strategy": "sample", "length_penalty": 2.0}, "length_penalty is for strategy: beam"),
        ({"strategy": "beam", "seed": 0}, "seed is for strategy: sample"),
        ({"strategy": "sample", "top_p": 0.0}, "greater than 0"),
        ({"strategy": "sample", "temperature": 0}, "greater than 0"),
        ({"strategy": "beam", "num_beams": 1}, "greater than or equal to 2"),
        ({"strategy": "contrastive"}, "'greedy', 'beam' or 'sample'"),
        ({"top_k": 5}, "Extra inputs are not permitted"),
    ],
)
def test_decoding_keys_that_do_not_fit_raise(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DecodingConfig(**values)


def test_config_is_the_same_after_it_was_saved() -> None:
    for decoding in (DecodingConfig(), DecodingConfig(strategy="beam"), DecodingConfig(strategy="sample", top_p=0.9)):
        assert DecodingConfig.model_validate_json(decoding.model_dump_json()) == decoding
    assert [DecodingConfig(strategy="beam").width, DecodingConfig(strategy="beam", num_beams=2).width] == [4, 2]
    assert DecodingConfig().width == 1


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("{text} Summary:{mask}", "the target follows the pattern"),
        ("Summary: ", "has no field"),
        ("{text|unknown}", "unknown filter"),
        ("{text", "unmatched"),
    ],
)
def test_a_pattern_that_does_not_parse_raises(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        GenerationSettings(pattern=pattern)


def test_fields_and_the_space_at_the_end_of_a_pattern() -> None:
    settings = GenerationSettings(pattern="{answer} in {context}\nQuestion:  ")
    assert settings.fields == ("answer", "context")
    assert settings.space == "  "
    assert GenerationSettings(pattern="{text}\n").space == ""


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ({"head": "linear"}, "head"),
        ({"head": "verbalizer"}, "head"),
        ({"init": {"kind": "label_words"}}, "init"),
        ({"hard_prompt_steps": 3}, ""),
    ],
)
def test_methods_that_need_labels_raise(method: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fits_generation(PromptConfig(**method), GenerationSettings(pattern=PATTERN))
    assert caught.value.key == key


def test_deep_prompts_do_not_fill_soft_blocks() -> None:
    with pytest.raises(InputError, match="has soft blocks, but prefix_tuning"):
        check_fits_generation(PromptConfig(method="prefix_tuning"), GenerationSettings(pattern="{soft:3}" + PATTERN))
    check_fits_generation(PromptConfig(), GenerationSettings(pattern="{soft:3}" + PATTERN))
