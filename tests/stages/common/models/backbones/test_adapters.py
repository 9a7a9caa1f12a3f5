"""Tests of backbones with an adapter of PEFT, compared with transformers and PEFT themselves."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from stages.common.errors import AssetError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig, TuneConfig
from stages.common.models.backbones.folders import backbone_folder, backbone_identity, is_ready
from stages.common.models.backbones.loader import borrow_backbone, load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.meta_models import auto_class_for
from stages.common.models.model_files import family_of
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.loader import ModelLoader, new_submodel
from tests.support.small_models import FAMILIES, TOKENIZERS, film_examples, film_task
from tests.support.stage_runs import SILENT

ALL_LINEAR = "all-linear"
KINDS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: LoraConfig(r=4, target_modules=ALL_LINEAR),
    "dora": lambda: LoraConfig(r=4, use_dora=True, target_modules=ALL_LINEAR),
    "ia3": lambda: IA3Config(),
}
TEXTS = ((5, 6, 7), (11, 20, 9, 14, 30, 31, 8), (40, 12, 13, 10))
"""Token ids of texts of several lengths, so that a batch has padding."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))


def save_adapter(base: Path, settings: PeftConfig, folder: Path) -> Path:
    """Writes an adapter that changes a model, as PEFT does after a training."""
    torch.manual_seed(1)
    adapted = get_peft_model(auto_class_for(family_of(base)).from_pretrained(base), settings)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight += torch.randn_like(weight) * 0.1
    adapted.save_pretrained(folder)
    return folder


def config_of(base: Path, adapter: Path) -> BackboneConfig:
    return BackboneConfig(asset=str(base), adapter=str(adapter), max_length=64, precision="fp32")


def encoded(backbone: Backbone) -> list[Encoded]:
    ends = backbone.family == "causal"
    return [Encoded(ids, (0,) * len(ids), len(ids) - 1 if ends else 1) for ids in TEXTS]


def plain_logits(model: Any, backbone: Backbone) -> torch.Tensor:
    """Returns logits [B, V] at the mask by the public forward pass, one text at a time."""
    rows = []
    for item in encoded(backbone):
        arguments: dict[str, Any] = {"input_ids": torch.tensor([item.ids])}
        position = item.mask_position
        if backbone.family == "seq2seq":
            sentinel = backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
            arguments["decoder_input_ids"] = torch.tensor([[0, sentinel]])
            position = 1
        with torch.no_grad():
            rows.append(model(**arguments).logits[0, position])
    return torch.stack(rows)


def batch_logits(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.vocabulary_logits(backbone.batch(encoded(backbone)))


def assert_same_logits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares to 1e-5 of the largest logit, which is around 10."""
    assert (actual - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def peft_model(base: Path, adapter: Path) -> Any:
    return PeftModel.from_pretrained(auto_class_for(family_of(base)).from_pretrained(base), adapter).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_backbone_with_adapter_scores_like_peft(
    kind: str, family: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = backbone_folders[family]
    adapter = save_adapter(base, KINDS[kind](), tmp_path / "adapter")
    backbone = load_backbone(config_of(base, adapter), frozen=True)
    plain = load_backbone(BackboneConfig(asset=str(base), precision="fp32"), frozen=True)
    expected = plain_logits(peft_model(base, adapter), backbone)
    assert_same_logits(batch_logits(backbone), expected)
    assert (batch_logits(plain) - expected).abs().max() > 1e-2, "the adapter has an effect"


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_weights_that_an_adapter_replaces_are_kept(
    family: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    """GPT-2 and T5 tie their LM head to the input embeddings; with this adapter they differ."""
    settings = LoraConfig(r=2, target_modules=ALL_LINEAR, modules_to_save=["lm_head"])
    base = backbone_folders[family]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # PEFT warns about tied weights
        adapter = save_adapter(base, settings, tmp_path / "adapter")
        expected_model = peft_model(base, adapter)
    backbone = load_backbone(config_of(base, adapter), frozen=True)
    assert_same_logits(batch_logits(backbone), plain_logits(expected_model, backbone))


@pytest.mark.parametrize("replaced", [["embed_tokens", "lm_head"], None])
def test_adapter_with_new_tokens_brings_its_tokenizer(
    replaced: list[str] | None, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = backbone_folders["llama"]
    model = auto_class_for("causal").from_pretrained(base)
    tokenizer = TOKENIZERS["llama"]()
    tokenizer.add_tokens(["unembedded"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=replaced)
    adapted = get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    backbone = load_backbone(config_of(base, tmp_path / "adapter"), frozen=True)
    assert backbone.tokenizer("unembedded", add_special_tokens=False)["input_ids"] == [len(tokenizer) - 1]
    assert_same_logits(batch_logits(backbone), plain_logits(adapted.eval(), backbone))


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_submodel_on_a_backbone_with_adapter_round_trips(
    tune: Any, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(
        backbone_folders["bert"], save_adapter(backbone_folders["bert"], KINDS["dora"](), tmp_path / "adapter")
    )
    task, examples = film_task("bert"), film_examples(6)
    with new_submodel(config, TuneConfig(tune=tune), seed=0) as submodel:
        classifier = ClozeClassifier.of(task, "review", submodel.backbone, config)
        weights = [weight for weight in submodel.backbone.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-2)
        classifier.loss(classifier.items(examples)).backward()
        optimizer.step()
        expected = classifier.predict(examples, SILENT, "")
        (tmp_path / "out").mkdir()
        submodel.save(task, "review", tmp_path / "out")
    loaded = ModelLoader().load(tmp_path / "out").predict(examples, SILENT, "")
    assert loaded == pytest.approx(expected, abs=1e-4)


def test_adapter_is_part_of_what_makes_backbones_equal(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    base = backbone_folders["gpt2"]
    first = config_of(base, save_adapter(base, KINDS["lora"](), tmp_path / "first"))
    second = config_of(base, save_adapter(base, KINDS["ia3"](), tmp_path / "second"))
    plain = first.model_copy(update={"adapter": None})
    assert len({backbone_identity(item) for item in (first, second, plain)}) == 3
    assert is_ready(plain) and not is_ready(first)
    logits = []
    for item in (first, second, plain):
        with borrow_backbone(item) as backbone:
            logits.append(batch_logits(backbone))
    assert is_ready(first)
    assert (logits[0] - logits[1]).abs().max() > 1e-2
    assert (logits[0] - logits[2]).abs().max() > 1e-2


def test_adapter_is_merged_once(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    base = backbone_folders["bert"]
    config = config_of(base, save_adapter(base, KINDS["lora"](), tmp_path / "adapter"))
    folder = backbone_folder(config)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert backbone_folder(config) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    changed = {name: weight * 2 for name, weight in weights.items()}
    save_file(changed, tmp_path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    assert backbone_folder(config) != folder


@pytest.mark.parametrize("settings", [PromptTuningConfig, PrefixTuningConfig])
def test_prompts_of_peft_cannot_be_merged(settings: Any, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    base = backbone_folders["llama"]
    save_adapter(base, settings(task_type="CAUSAL_LM", num_virtual_tokens=3), tmp_path / "adapter")
    with pytest.raises(AssetError, match=r"of the kind (PROMPT|PREFIX)_TUNING, which cannot be merged") as caught:
        load_backbone(config_of(base, tmp_path / "adapter"), frozen=True)
    assert "LoRA" in caught.value.remedy


def test_adapter_of_some_tokens_cannot_be_merged(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """An activated LoRA changes only what follows certain tokens."""
    base = backbone_folders["llama"]
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[20, 21])
    adapter = save_adapter(base, settings, tmp_path / "adapter")
    with pytest.raises(AssetError, match="cannot be merged into the weights of a model") as caught:
        load_backbone(config_of(base, adapter), frozen=True)
    assert "for every token" in caught.value.remedy


@pytest.mark.parametrize("other", ["bert", "small"])
def test_wrong_base_is_one_error(other: str, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """Another architecture, and the same one with other widths."""
    adapter = save_adapter(backbone_folders["llama"], KINDS["lora"](), tmp_path / "adapter")
    base = backbone_folders["bert"]
    if other == "small":
        base = tmp_path / "small"
        shutil.copytree(backbone_folders["llama"], base)
        model_class = auto_class_for("causal")
        config = model_class.from_pretrained(base).config
        config.intermediate_size = 48
        model_class.from_config(config).save_pretrained(base)
    with pytest.raises(AssetError, match=r"does not fit the model in") as caught:
        load_backbone(config_of(base, adapter), frozen=True)
    assert caught.value.remedy == f"Set asset to the model that it was trained on: {backbone_folders['llama']}."
    assert "\n" not in str(caught.value)
    if other == "small":
        assert "size mismatch" in caught.value.problem
    assert not [path for path in (tmp_path / "cache" / "merged").iterdir() if path.suffix != ".lock"]


def test_weights_of_other_layers_are_an_error(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """PEFT would ignore them, or leave out what is missing."""
    base = backbone_folders["llama"]
    path = save_adapter(base, KINDS["lora"](), tmp_path / "adapter") / "adapter_model.safetensors"
    weights = load_file(path)
    first, *others = sorted(weights)
    save_file({name: weights[name] for name in others}, path, {"format": "pt"})
    with pytest.raises(AssetError, match="it has no weights for"):
        load_backbone(config_of(base, tmp_path / "adapter"), frozen=True)
    save_file({**weights, first.replace("layers.0", "layers.7"): weights[first].clone()}, path, {"format": "pt"})
    with pytest.raises(AssetError, match=r"the model has no .*layers\.7"):
        load_backbone(config_of(base, tmp_path / "adapter"), frozen=True)


def test_settings_of_a_later_peft_are_not_ignored(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    base = backbone_folders["llama"]
    adapter = save_adapter(base, AdaLoraConfig(init_r=2, target_r=2, total_step=9, target_modules=["q_proj"]), tmp_path)
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"later_switch": False}))
    load_backbone(config_of(base, adapter), frozen=True)
    path.write_text(json.dumps(settings | {"later_switch": True}))
    with pytest.raises(AssetError, match=r"has the setting later_switch, which PEFT .* does not know"):
        load_backbone(config_of(base, adapter), frozen=True)


def test_pickled_adapter_is_not_read(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    base, ran = backbone_folders["llama"], tmp_path / "ran"
    adapter = save_adapter(base, KINDS["lora"](), tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(AssetError, match=r"has no adapter_model\.safetensors"):
        load_backbone(config_of(base, adapter), frozen=True)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(AssetError, match="pickled file"):
        load_backbone(config_of(base, adapter), frozen=True)
    assert not ran.exists()


def test_folder_without_adapter_is_an_error(backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(AssetError, match=r"has no adapter_config\.json"):
        load_backbone(config_of(backbone_folders["bert"], backbone_folders["gpt2"]), frozen=True)
