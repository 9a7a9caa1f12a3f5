"""Tests of sub-models: size and targets of adapters, and the frozen backbone that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages.common.models.backbones import loader
from stages.common.models.backbones.config import LoraConfig, Tune, TuneConfig
from stages.common.models.backbones.loader import borrow_backbone, load_backbone
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.loader import SubModel, new_submodel
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import optimizer_for
from tests.support.prompt_methods import METHODS
from tests.support.small_models import backbone_config, film_task


def test_adapter_is_a_fraction_of_the_backbone(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    sizes = {}
    for tune in ("full", "lora", "none"):
        (tmp_path / tune).mkdir()
        config = backbone_config(backbone_folders["llama"])
        with new_submodel(config, TuneConfig(tune=tune, lora=LoraConfig(rank=1)), seed=1) as submodel:
            submodel.save(film_task("llama"), "review", tmp_path / tune)
        sizes[tune] = sum(path.stat().st_size for path in (tmp_path / tune).rglob("*.safetensors"))
    assert sizes["none"] == 0 < sizes["lora"] < sizes["full"] / 5


def test_lora_targets_select_the_adapted_layers(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    tuning = TuneConfig(tune="lora", lora=LoraConfig(rank=2, targets=("q_proj", "v_proj")))
    with new_submodel(backbone_config(backbone_folders["llama"]), tuning, seed=1) as submodel:
        submodel.save(film_task("llama"), "review", tmp_path)
        num_parameters = sum(item.numel() for item in trained(submodel))
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert len(names) == 2 * 2 * 2  # two layers, two targets, A and B
    assert all("q_proj" in name or "v_proj" in name for name in names)
    assert num_parameters == 2 * ((32 * 2 + 2 * 32) + (32 * 2 + 2 * 16))


def trained(submodel: SubModel) -> list[torch.nn.Parameter]:
    """Returns the trained weights of a sub-model without a prompt."""
    return [weight for weight in submodel.backbone.model.parameters() if weight.requires_grad]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the backbones that were loaded from disk, in order. The cache is empty at first."""
    names: list[str] = []

    def load(config: Any, **settings: Any) -> Any:
        names.append(Path(config.asset).name)
        return load_backbone(config, **settings)

    monkeypatch.setattr(loader, "load_backbone", load)
    monkeypatch.setattr(loader, "_cached", {})
    return names


def test_adapters_leave_the_shared_backbone_unchanged(loads: list[str], backbone_folders: dict[str, Path]) -> None:
    config = backbone_config(backbone_folders["llama"])
    for seed in (1, 2, 1):
        with new_submodel(config, TuneConfig(tune="lora", lora=LoraConfig()), seed) as submodel, torch.no_grad():
            for weight in trained(submodel):
                weight.add_(1)
    assert loads == ["llama"]
    loaded = load_backbone(config, frozen=True)
    with borrow_backbone(config) as backbone:
        assert backbone.model.state_dict().keys() == loaded.model.state_dict().keys()
        for name, weight in loaded.model.state_dict().items():
            assert torch.equal(weight, backbone.model.state_dict()[name]), name
        assert not any(item.requires_grad for item in backbone.model.parameters())


def test_borrow_backbone_caches_the_last_one(loads: list[str], backbone_folders: dict[str, Path]) -> None:
    for name in ("llama", "gpt2", "gpt2", "llama"):
        with borrow_backbone(backbone_config(backbone_folders[name])):
            pass
    assert loads == ["llama", "gpt2", "llama"]


def test_borrow_backbone_reloads_after_an_error(loads: list[str], backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(ZeroDivisionError), borrow_backbone(backbone_config(backbone_folders["gpt2"])):
        raise ZeroDivisionError
    with borrow_backbone(backbone_config(backbone_folders["gpt2"])):
        pass
    assert loads == ["gpt2", "gpt2"]


@pytest.mark.parametrize("tune", ["full", "lora", "none"])
def test_trained_weights_of_a_bfloat16_backbone_are_float32(tune: Tune, backbone_folders: dict[str, Path]) -> None:
    """Frozen weights are bfloat16, and whatever is trained is float32, so no small update is rounded away."""
    config = backbone_config(backbone_folders["llama"]).model_copy(update={"precision": "bf16"})
    with new_submodel(config, TuneConfig(tune=tune, lora=LoraConfig(rank=2)), seed=0) as submodel:
        model = submodel.backbone.model
        trained = [item for item in model.parameters() if item.requires_grad]
        frozen = [item for item in model.parameters() if not item.requires_grad]
        assert bool(trained) == (tune != "none")
        assert bool(frozen) == (tune != "full")
        assert {item.dtype for item in trained} <= {torch.float32}
        assert {item.dtype for item in frozen} <= {torch.bfloat16}
        if tune != "none":
            return
        for name, method in METHODS.items():
            prompt = new_prompt(method, submodel.backbone, film_task("llama").pattern("review"), seed=0)
            assert {item.dtype for item in prompt.parameters()} == {torch.float32}, name


def test_bfloat16_weights_are_not_trained() -> None:
    weights = {"weight": torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))}
    with pytest.raises(AssertionError):
        optimizer_for(weights, TrainingConfig(learning_rate=0.1, steps=1))
