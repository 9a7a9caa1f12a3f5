"""Tests of the traits of models in folders: limits of positions, the cache, and models that are not examined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from stages.common.errors import AssetError, InputError
from stages.common.models import traits_cache
from stages.common.models.traits_cache import folder_max_positions, folder_traits


def write_config(folder: Path, model_type: str, architecture: str, **settings: Any) -> Path:
    config = AutoConfig.for_model(model_type, **settings).to_dict()
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    return folder


@pytest.mark.parametrize(
    ("model_type", "architecture", "expected"),
    [
        ("bert", "BertForMaskedLM", 514),
        ("roberta", "RobertaForMaskedLM", 512),
        ("longformer", "LongformerForMaskedLM", 512),
        ("roberta", "RobertaModel", 512),
        ("mpnet", "MPNetModel", 512),
        ("llama", "LlamaForCausalLM", 514),
    ],
)
def test_limit_has_no_positions_that_a_text_cannot_use(
    model_type: str, architecture: str, expected: int, tmp_path: Path
) -> None:
    folder = write_config(tmp_path, model_type, architecture, max_position_embeddings=514)
    assert folder_max_positions(folder) == expected


def test_limit_of_the_tokenizer_counts(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "bert", "BertForMaskedLM")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128}))
    assert folder_max_positions(folder) == 128
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert folder_max_positions(folder) == 512


def test_relative_positions_have_no_limit(backbone_folders: dict[str, Path]) -> None:
    assert folder_max_positions(backbone_folders["t5"]) is None


def test_traits_are_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    folder = write_config(tmp_path, "gpt2", "GPT2LMHeadModel", n_positions=333)
    first = folder_traits(folder)
    assert first.padding == "left" and first.continues_cache and not first.refused
    monkeypatch.setattr(traits_cache, "_known", {})
    (path,) = (tmp_path / "cache" / "traits").iterdir()
    path.write_text(path.read_text().replace('"left"', '"right"'))
    assert folder_traits(folder).padding == "right"


def test_causal_model_that_reads_later_tokens_is_refused(tmp_path: Path) -> None:
    traits = folder_traits(write_config(tmp_path, "bert", "BertLMHeadModel"))
    with pytest.raises(InputError, match="read the text after them"):
        traits.check("score", "BertLMHeadModel")


def test_model_with_its_own_code_is_an_error(tmp_path: Path) -> None:
    settings = {
        "model_type": "new",
        "architectures": ["NewForCausalLM"],
        "auto_map": {"AutoConfig": "config.NewConfig"},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "config.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(AssetError, match="cannot read the config"):
        folder_traits(tmp_path)
