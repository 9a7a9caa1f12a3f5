"""Tests of the inspection of prompts: norms and nearest words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.common.prompts import inspection
from stages.common.prompts.soft_prompt import Prompt, PromptEmbedding
from tests.support.stage_runs import Kept


def backbone(weight: torch.Tensor) -> Any:
    """A model whose vocabulary is w0, w1, ... with these embeddings [V, D]."""
    table = torch.nn.Embedding.from_pretrained(weight)
    tokenizer = SimpleNamespace(
        decode=lambda ids: f"w{ids[0]}" if ids[0] else " ", convert_ids_to_tokens=lambda token: f"<{token}>"
    )
    return SimpleNamespace(model=SimpleNamespace(get_input_embeddings=lambda: table), tokenizer=tokenizer)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_nearest_words_have_the_largest_cosine(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(inspection, "CHUNK", chunk)
    torch.manual_seed(0)
    weight, vectors = torch.randn(11, 4), torch.randn(3, 4) * 7
    rows, mean_norm = inspection.nearest_words(vectors, backbone(weight))
    assert mean_norm == pytest.approx(float(weight.norm(dim=1).mean()), abs=1e-5)
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], weight[None], dim=2)
    for row, ours, vector in zip(rows, cosines, vectors, strict=True):
        best = ours.argsort(descending=True)[: inspection.NUM_WORDS].tolist()
        names = [f"w{token}" if token else "<0>" for token in best]
        assert [row[f"word {rank + 1}"] for rank in range(inspection.NUM_WORDS)] == names
        assert row["cosine 1"] == pytest.approx(float(ours.max()), abs=1e-4)
        assert row["norm"] == pytest.approx(float(vector.norm()), abs=1e-3)
    assert [row["vector"] for row in rows] == [1, 2, 3]


def test_log_inspection_lists_words_only_for_input_vectors() -> None:
    weight = torch.eye(6)
    for position, tables in (("before", {"nearest_words"}), ("layers", set())):
        recorder = Kept()
        prompt = Prompt(PromptEmbedding(torch.tensor([[3.0, 4, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0]])), position)  # type: ignore[arg-type]
        inspection.log_inspection(prompt, backbone(weight), recorder)
        assert set(recorder.tables) == tables
        bars = [bar.get_height() for bar in recorder.figures["prompt_norms"].axes[0].patches]
        assert bars == [5, 2]


def test_log_inspection_does_nothing_without_a_prompt() -> None:
    recorder = Kept()
    inspection.log_inspection(None, backbone(torch.eye(2)), recorder)
    assert not recorder.figures and not recorder.tables
