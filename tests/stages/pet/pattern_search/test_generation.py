"""Tests of patterns that a seq2seq model writes: the beam search, its scores, and the stage."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.common.engine import InProcessEngine
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.syntax import Pattern
from stages.common.protocols import NullRecorder
from stages.pet.pattern_search import stage as pattern_search
from stages.pet.pattern_search.config import GenerateConfig, PatternSearchConfig
from stages.pet.pattern_search.generation import (
    Span,
    beam_search,
    end_of_gap,
    gap_text,
    gap_texts,
    generated_patterns,
    next_token_log_likelihoods,
    text_tokens,
)
from stages.pet.pattern_search.templates import Template
from tests.support.small_models import backbone_config, film_examples, film_task
from tests.support.stage_runs import run

ROWS = np.arange(4)


def search(folder: Path, name: str = "t5", **generate: Any) -> PatternSearchConfig:
    settings = GenerateConfig(**{"beam_size": 4, "max_tokens": 2, **generate})
    task, backbone = film_task(name).only("review"), backbone_config(folder)
    return PatternSearchConfig(
        task=task, pattern="review", names=("review",), backbone=backbone, num_folds=2, generate=settings
    )


def start_of(config: PatternSearchConfig) -> Template:
    return Template.of(config.task.pattern("review"))


def by_brute_force(log_WV: torch.Tensor, allowed: list[int], end: int, max_tokens: int) -> list[Span]:
    """Scores all texts of a model whose next token depends on the last one only."""
    spans = []
    for length in range(max_tokens + 1):
        for tokens in itertools.product(allowed, repeat=length):
            path = [0, *tokens, end]
            spans.append(Span(sum(float(log_WV[one, two]) for one, two in itertools.pairwise(path)), tokens))
    return sorted(spans, reverse=True)


@pytest.mark.parametrize("beam_size", [3, 100])
def test_beam_search_finds_the_most_likely_texts(beam_size: int) -> None:
    log_VV = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mul(3).log_softmax(1)
    allowed, end = [1, 2, 3, 4], 5

    def log_likelihoods(tokens_WT: torch.Tensor) -> torch.Tensor:
        last = tokens_WT[:, -1] if tokens_WT.shape[1] else torch.zeros(len(tokens_WT), dtype=torch.long)
        return log_VV[last]

    expected = by_brute_force(log_VV, allowed, end, 3)
    spans = beam_search(log_likelihoods, allowed, end, GenerateConfig(beam_size=beam_size, max_tokens=3))
    scores = {span.tokens: span.score for span in expected}
    assert all(span.score == pytest.approx(scores[span.tokens]) for span in spans)
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    if beam_size == 100:  # wide enough to lose nothing
        assert [span.tokens for span in spans] == [span.tokens for span in expected]
    else:
        assert len(spans) == beam_size


def test_scores_of_the_beam_are_those_of_the_model(
    backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    """transformers computes the loss of the same targets, one example at a time."""
    config, backbone = search(backbone_folders["t5"]), backbones["t5"]
    encoded = gap_texts(config, start_of(config), backbone, film_examples(4))  # type: ignore[arg-type]
    tokenizer, end = backbone.tokenizer, end_of_gap(backbone.tokenizer)

    def log_likelihoods(tokens_WT: torch.Tensor) -> torch.Tensor:
        return next_token_log_likelihoods(backbone, encoded, tokens_WT)  # type: ignore[arg-type]

    assert config.generate is not None
    spans = beam_search(log_likelihoods, text_tokens(tokenizer), end, config.generate)
    assert len(spans) == 4
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for span in spans:
        total = 0.0
        for item in encoded:
            labels = torch.tensor([[-100, *span.tokens, end]])
            decoder = torch.tensor([[0, first, *span.tokens]])
            with torch.inference_mode():
                loss = backbone.model(input_ids=torch.tensor([item.ids]), decoder_input_ids=decoder, labels=labels).loss
            total -= float(loss) * (len(span.tokens) + 1)
        assert span.score == pytest.approx(total, rel=1e-4)


def test_each_example_has_a_gap_before_the_word_of_its_label(
    backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    config = search(backbone_folders["t5"])
    encoded = gap_texts(config, start_of(config), backbones["t5"], film_examples(2))  # type: ignore[arg-type]
    tokenizer = backbones["t5"].tokenizer
    gap = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for item, label_word in zip(encoded, ("bad", "good"), strict=True):
        assert item.ids[item.mask_position] == gap
        before, after = item.ids[: item.mask_position], item.ids[item.mask_position + 1 :]
        assert tokenizer.decode(after, skip_special_tokens=True).replace(" ", "") == f"{label_word}."
        assert tokenizer.decode(before).startswith("Review:")
        assert "It was" not in tokenizer.decode(before)


def test_generated_patterns_replace_the_text_before_the_mask(
    backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    config = search(backbone_folders["t5"])
    start, examples = start_of(config), film_examples(8)
    arguments = (config, start, backbones["t5"], examples)
    found = generated_patterns(*arguments, ROWS, NullRecorder(), InProcessEngine())  # type: ignore[arg-type]
    assert 1 < len(found) <= 4
    for text in found:
        template = Template.of(Pattern.parse("review", text))
        assert template.parts == start.parts
        assert [gap for index, gap in enumerate(template.gaps) if index != start.mask_gap] == ["Review: ", "."]
    changed = [*examples[:4], *(Example(item.uid, {"text": "no"}, "fresh") for item in examples[4:])]
    arguments = (config, start, backbones["t5"], changed)
    assert generated_patterns(*arguments, ROWS, NullRecorder(), InProcessEngine()) == found  # type: ignore[arg-type]


def test_text_of_a_gap_has_the_space_before_it(backbones: dict[str, Backbone]) -> None:
    tokenizer = backbones["t5"].tokenizer
    assert gap_text(tokenizer("film was", add_special_tokens=False)["input_ids"], tokenizer) == " film was"
    dot = tokenizer.convert_tokens_to_ids(".")
    assert gap_text([dot, *tokenizer("It", add_special_tokens=False)["input_ids"]], tokenizer) == ". It"
    assert gap_text([], tokenizer) == ""
    assert not set(tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<extra_id_0>", "<extra_id_1>"])) & set(
        text_tokens(tokenizer)
    )


def test_another_model_generates_for_each_fold(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = search(backbone_folders["bert"], "bert", backbone=backbone_config(backbone_folders["t5"]))
    families, subsets = [], []

    def generated(_: Any, start: Template, backbone: Backbone, examples: Any, rows: Any, *__: Any) -> list[str]:
        families.append(backbone.family)
        subsets.append(rows.tolist())
        assert len(examples) == 8
        return [start.with_gap(start.mask_gap, f" film {len(rows)} ").text]

    monkeypatch.setattr(pattern_search, "generated_patterns", generated)
    result = run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")
    assert families == ["seq2seq"] * 3
    assert subsets[0] == list(range(8))
    assert sorted(subsets[1] + subsets[2]) == list(range(8))
    rows = [json.loads(line) for line in (tmp_path / "out" / "candidates.jsonl").read_text().splitlines()]
    assert {row["pattern"] for row in rows if row["source"] == "generate"} == {"Review: {text} film 8 {mask}."}
    assert result.num_candidates == 2


def test_stage_compares_generated_patterns(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    config = search(backbone_folders["t5"], max_tokens=1, beam_size=3)
    result = run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "candidates.jsonl").read_text().splitlines()]
    num_generated = [row["source"] for row in rows].count("generate")
    assert 1 <= num_generated <= 3
    assert result.num_candidates == 1 + num_generated


def test_only_seq2seq_models_generate(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only a seq2seq model such as T5 fills gaps") as caught:
        config = search(backbone_folders["gpt2"], "gpt2")
        run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")
    assert caught.value.key == "pattern_search.generate"


def test_tokenizer_without_a_second_sentinel_raises(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(InputError, match="no <extra_id_1>") as caught:
        end_of_gap(backbones["bert"].tokenizer)
    assert caught.value.key == "pattern_search.generate"
