"""Tests of models whose folder has Python code, which runs only if a backbone allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForMaskedLM

from stages.common.assets.cache import identity
from stages.common.errors import AssetError, InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig, Tune, TuneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.backbones.tuning_check import CHECKED, check_tune
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.remote_code import check_code, definition
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.loader import ModelLoader, new_submodel
from tests.support.remote_code import AUTO_MAP, write_scaled_bert
from tests.support.small_models import film_examples, film_task
from tests.support.stage_runs import SILENT

TEXTS = [Encoded(ids, (0,) * len(ids), 1) for ids in ((5, 6, 7), (11, 20, 9, 14, 30, 31, 8))]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(backbone_folders: dict[str, Path], tmp_path: Path) -> Path:
    """Returns the folder of a model with code."""
    return write_scaled_bert(backbone_folders["bert"], tmp_path / "scaled")


def config_of(folder: Path, **settings: Any) -> BackboneConfig:
    return BackboneConfig(asset=str(folder), max_length=64, precision="fp32", trust_remote_code=True, **settings)


def batch_logits(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.vocabulary_logits(backbone.batch(TEXTS))


def plain_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([item.ids])).logits[0, item.mask_position] for item in TEXTS]
    return torch.stack(rows)


def test_code_does_not_run_by_default(folder: Path) -> None:
    for path in folder.glob("*.py"):
        path.write_text("raise SystemExit('this code must not run')")
    with pytest.raises(AssetError, match=r"needs Python code in its folder \(configuration_scaled\.py\)") as caught:
        load_backbone(BackboneConfig(asset=str(folder)), frozen=True)
    assert caught.value.remedy == "Read the code, and set trust_remote_code: true next to asset to run it."


def test_trusted_code_scores_like_transformers(folder: Path, backbone_folders: dict[str, Path]) -> None:
    backbone = load_backbone(config_of(folder), frozen=True)
    expected = plain_logits(AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval())
    torch.testing.assert_close(batch_logits(backbone), expected, atol=1e-4, rtol=1e-5)
    words = backbone.word_logits(backbone.batch(TEXTS), [9, 50, 70])
    torch.testing.assert_close(words, expected[:, [9, 50, 70]], atol=1e-4, rtol=1e-5)
    plain = plain_logits(AutoModelForMaskedLM.from_pretrained(backbone_folders["bert"]).eval())
    torch.testing.assert_close(expected, 3 * plain, atol=1e-4, rtol=1e-5)
    assert type(backbone.model).__name__ == "ScaledForMaskedLM"


def test_changed_code_is_examined_and_keyed_again(folder: Path) -> None:
    def states() -> tuple[str, bytes, bytes]:
        asset = identity(str(folder))
        return asset, definition(folder, trust_remote_code=True), definition(folder, trust_remote_code=False)

    before, logits = states(), batch_logits(load_backbone(config_of(folder), frozen=True))
    path = folder / "modeling_scaled.py"
    path.write_text(path.read_text().replace("* self.config.logit_scale", "* -1.0"))
    assert [one == other for one, other in zip(before, states(), strict=True)] == [False, False, True]
    changed = batch_logits(load_backbone(config_of(folder), frozen=True))
    torch.testing.assert_close(changed, logits / -3, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_submodel_with_code_round_trips(tune: Tune, folder: Path, tmp_path: Path) -> None:
    task, examples = film_task("bert"), film_examples(6)
    with new_submodel(config_of(folder), TuneConfig(tune=tune), seed=0) as submodel:
        classifier = ClozeClassifier.of(task, "review", submodel.backbone, submodel.config)
        weights = [weight for weight in submodel.backbone.model.parameters() if weight.requires_grad]
        before = classifier.predict(examples, SILENT, "")
        classifier.loss(classifier.items(examples)).backward()
        torch.optim.AdamW(weights, lr=1e-2).step()
        expected = classifier.predict(examples, SILENT, "")
        (tmp_path / "out").mkdir()
        submodel.save(task, "review", tmp_path / "out")
    assert abs(expected - before).max() > 1e-3
    loaded = ModelLoader().load(tmp_path / "out").predict(examples, SILENT, "")
    assert loaded == pytest.approx(expected, abs=1e-4)


def test_ways_to_tune_are_checked_on_a_copy_with_code(folder: Path) -> None:
    for tune in CHECKED:
        if tune != "ia3":
            check_tune(tune, folder, trust_remote_code=True)
    with pytest.raises(InputError, match="ScaledForMaskedLM does not support tune: ia3"):
        check_tune("ia3", folder, trust_remote_code=True)  # PEFT lists its layers per architecture


def test_adapter_of_a_model_with_code_is_merged(folder: Path, tmp_path: Path) -> None:
    def base() -> Any:
        return AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)

    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    get_peft_model(base(), settings).save_pretrained(tmp_path / "adapter")
    backbone = load_backbone(config_of(folder, adapter=str(tmp_path / "adapter")), frozen=True)
    expected = plain_logits(PeftModel.from_pretrained(base(), tmp_path / "adapter").eval())
    torch.testing.assert_close(batch_logits(backbone), expected, atol=1e-4, rtol=1e-5)


def test_code_of_another_repository_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    elsewhere = {name: f"org/other--{reference}" for name, reference in AUTO_MAP.items()}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": elsewhere}))
    with pytest.raises(AssetError, match="is in another repository") as caught:
        load_backbone(config_of(folder), frozen=True)
    assert 'remove "org/other--" from its auto_map' in caught.value.remedy


def test_missing_code_is_an_error(folder: Path) -> None:
    (folder / "modeling_scaled.py").unlink()
    with pytest.raises(AssetError, match=r"has no modeling_scaled\.py"):
        load_backbone(config_of(folder), frozen=True)


def test_encoders_with_code_are_refused(folder: Path) -> None:
    with pytest.raises(AssetError, match="needs Python code in its folder, which is not run for encoders"):
        TextEncoder.of(EncoderConfig(asset=str(folder)), ["text"])


def test_model_of_transformers_needs_no_code_in_its_folder(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """Many models of the hub have code from the time before transformers included their architecture."""
    folder = write_scaled_bert(backbone_folders["bert"], tmp_path / "older")
    config = json.loads((folder / "config.json").read_text())
    known = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config | known))
    check_code(folder, trust_remote_code=False)
    backbone = load_backbone(BackboneConfig(asset=str(folder), precision="fp32"), frozen=True)
    assert type(backbone.model).__module__.startswith("transformers.models.bert")
