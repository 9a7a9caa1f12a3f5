"""Tests of what is trained of a backbone: which parameters, with what effect, and that folders keep it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    ElectraConfig,
    ElectraForMaskedLM,
    FunnelConfig,
    FunnelForMaskedLM,
    PreTrainedModel,
)

from stages.common.engine import InProcessEngine
from stages.common.errors import InputError
from stages.common.models.backbones.config import LoraConfig, Tune, TuneConfig
from stages.common.models.backbones.loader import borrow_backbone, load_backbone
from stages.common.models.backbones.tuning import WEIGHTS_FILE, Bottleneck, block_stacks
from stages.common.models.backbones.tuning_check import CHECKED, check_tune
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.prompts.loader import ModelLoader, SubModel, new_submodel
from stages.common.prompts.tuning import num_trainable_parameters, tune
from stages.common.training.config import TrainingConfig
from tests.support.small_models import FAMILIES, backbone_config, film_examples, film_task
from tests.support.stage_runs import SILENT

EXAMPLES = film_examples(8)
KINDS: tuple[Tune, ...] = ("lora", *CHECKED)
VARIANTS = {"dora": LoraConfig(rank=2, dora=True), "rslora": LoraConfig(rank=4, rslora=True)}
WITHOUT_BIASES = ("llama", "t5")


def names_of(submodel: SubModel) -> list[str]:
    """Returns the names of the trained parameters."""
    return [name for name, item in submodel.backbone.model.named_parameters() if item.requires_grad]


def classifier_of(submodel: SubModel, family: str) -> ClozeClassifier:
    return ClozeClassifier.of(film_task(family), "review", submodel.backbone, submodel.config)


def trained_logits(config: TuneConfig, family: str, folder: Path, out: Path) -> tuple[list[float], torch.Tensor]:
    """Trains a sub-model and saves it to `out`. Returns its losses and its logits."""
    out.mkdir()
    training = TrainingConfig(learning_rate=0.005, batch_size=8, steps=24, lr_scheduler="constant")
    with new_submodel(backbone_config(folder), config, seed=1) as submodel:
        classifier = classifier_of(submodel, family)
        before = classifier.validate(EXAMPLES, SILENT).loss
        tune(classifier, classifier.loss, EXAMPLES, [], training, seed=1, recorder=SILENT, engine=InProcessEngine())
        losses = [before, classifier.validate(EXAMPLES, SILENT).loss]
        submodel.save(film_task(family), "review", out)
        return losses, torch.from_numpy(classifier.predict(EXAMPLES, SILENT, ""))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_tuned_submodel_learns_and_its_folder_keeps_it(
    kind: Tune, family: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = backbone_folders[family]
    if kind == "biases" and family in WITHOUT_BIASES:
        with pytest.raises(InputError, match=r"does not support tune: biases: it has no such parameters"):
            check_tune(kind, folder)
        return
    check_tune(kind, folder)
    config = TuneConfig(tune=kind, lora=LoraConfig(rank=2), num_top_layers=1, adapter_size=4)
    losses, expected = trained_logits(config, family, folder, tmp_path / "out")
    assert abs(losses[1] - losses[0]) > 1e-4, "training changes what the model computes"
    assert losses[1] < losses[0] - 0.005 or family != "llama", "of these models, llama alone has no dropout"
    loaded = ModelLoader().load(tmp_path / "out").predict(EXAMPLES, SILENT, "")
    assert loaded == pytest.approx(expected.numpy(), abs=1e-4)
    with borrow_backbone(backbone_config(folder)) as backbone:
        untouched = load_backbone(backbone_config(folder), frozen=True).model.state_dict()
        assert backbone.model.state_dict().keys() == untouched.keys()
        assert all(torch.equal(backbone.model.state_dict()[name], item) for name, item in untouched.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_kind_trains_what_it_names(family: str, backbone_folders: dict[str, Path]) -> None:
    def trained(**settings: object) -> list[str]:
        with new_submodel(backbone_config(backbone_folders[family]), TuneConfig(**settings), seed=1) as submodel:  # type: ignore[arg-type]
            assert num_trainable_parameters(classifier_of(submodel, family)) == sum(
                item.numel() for item in submodel.backbone.model.parameters() if item.requires_grad
            )
            return names_of(submodel)

    stacks = 2 if family == "t5" else 1
    assert len(trained(tune="adapter", adapter_size=4)) == 4 * 2 * stacks, (
        "two matrices and biases in each of two blocks"
    )
    assert all("ia3" in name for name in trained(tune="ia3"))
    last, both = trained(tune="top_layers", num_top_layers=1), trained(tune="top_layers", num_top_layers=9)
    assert len(both) == 2 * len(last) or family == "t5"  # the first block of T5 has the relative positions
    assert set(last) < set(both)
    if family not in WITHOUT_BIASES:
        assert {name.rpartition(".")[2] for name in trained(tune="biases")} == {"bias"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_lora_are_those_of_peft(variant: str, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = TuneConfig(tune="lora", lora=VARIANTS[variant])
    folder = backbone_folders["llama"]
    _, expected = trained_logits(config, "llama", folder, tmp_path / "out")
    with new_submodel(backbone_config(folder), TuneConfig(tune="none"), seed=1) as submodel:
        plain = classifier_of(submodel, "llama").predict(EXAMPLES, SILENT, "")
    assert expected.numpy() != pytest.approx(plain, abs=1e-2)
    assert ModelLoader().load(tmp_path / "out").predict(EXAMPLES, SILENT, "") == pytest.approx(
        expected.numpy(), abs=1e-4
    )
    settings = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder), tmp_path / "out" / "adapter"
    ).peft_config["default"]
    assert (settings.use_dora, settings.use_rslora) == (variant == "dora", variant == "rslora")


def test_new_bottleneck_is_the_identity() -> None:
    states = torch.randn(2, 3, 8, dtype=torch.bfloat16)
    assert torch.equal(Bottleneck(8, 2)(states), states)


def test_bottleneck_is_the_formula_of_its_paper() -> None:
    layer, states = Bottleneck(8, 2), torch.randn(2, 3, 8)
    torch.nn.init.normal_(layer.up.weight)
    inner = torch.nn.functional.gelu(states @ layer.down.weight.T + layer.down.bias)
    assert torch.allclose(layer(states), states + inner @ layer.up.weight.T + layer.up.bias, atol=1e-6)


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def test_model_whose_blocks_are_not_reached_is_refused(tmp_path: Path) -> None:
    """Funnel has lists of lists of blocks; PEFT does not know which layers of ELECTRA get IA3's factors."""
    funnel = save(FunnelForMaskedLM(FunnelConfig(vocab_size=50, d_model=16, n_head=2, d_head=8, d_inner=16)), tmp_path)
    with pytest.raises(InputError, match=r"FunnelForMaskedLM does not support tune: adapter"):
        check_tune("adapter", funnel)
    electra = save(ElectraForMaskedLM(ElectraConfig(vocab_size=50, num_hidden_layers=2)), tmp_path / "electra")
    check_tune("adapter", electra)
    with pytest.raises(InputError, match="ElectraForMaskedLM does not support tune: ia3") as caught:
        check_tune("ia3", electra)
    assert (caught.value.key, caught.value.remedy) == ("tune", "Set tune: lora.")


def test_weights_of_another_backbone_are_rejected(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = TuneConfig(tune="top_layers", num_top_layers=1)
    trained_logits(config, "gpt2", backbone_folders["gpt2"], tmp_path / "gpt2")
    trained_logits(config, "llama", backbone_folders["llama"], tmp_path / "llama")
    (tmp_path / "llama" / WEIGHTS_FILE).write_bytes((tmp_path / "gpt2" / WEIGHTS_FILE).read_bytes())
    with pytest.raises(InputError, match="which the backbone has not"):
        ModelLoader().load(tmp_path / "llama")


def test_stacks_are_the_lists_of_blocks(backbone_folders: dict[str, Path]) -> None:
    for family in FAMILIES:
        model = load_backbone(backbone_config(backbone_folders[family]), frozen=True).model
        assert [len(stack) for stack in block_stacks(model)] == ([2, 2] if family == "t5" else [2]), family
