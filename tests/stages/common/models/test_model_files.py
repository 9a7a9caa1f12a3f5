"""Tests of checks of model folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.common.errors import AssetError
from stages.common.models.model_files import family_of


@pytest.mark.parametrize(
    ("name", "family"),
    [("bert", "masked"), ("roberta", "masked"), ("llama", "causal"), ("gpt2", "causal"), ("t5", "seq2seq")],
)
def test_family_of_reads_the_saved_model(name: str, family: str, backbone_folders: dict[str, Path]) -> None:
    assert family_of(backbone_folders[name]) == family


def test_family_of_bert_for_pretraining_is_masked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForPreTraining"]}))
    assert family_of(tmp_path) == "masked"


@pytest.mark.parametrize(
    "config", [{"architectures": ["BertForSequenceClassification"]}, {"architectures": None}, {"model_type": "bert"}]
)
def test_family_of_rejects_a_model_without_lm_head(config: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AssetError, match="no language-model head") as caught:
        family_of(tmp_path)
    assert "masked, causal or seq2seq" in caught.value.remedy
