"""Tests of loading trained models from what their folders say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.models.backbones.config import LoraConfig, Tune, TuneConfig
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.loader import ModelLoader, new_submodel
from tests.support.small_models import backbone_config, film_examples, film_task
from tests.support.stage_runs import SILENT

EXAMPLES = film_examples(4)


def save_submodel(backbone: Path, tune: Tune, pattern: str, seed: int, out: Path) -> np.ndarray:
    """Writes a sub-model with random weights to `out`; returns its logits on EXAMPLES."""
    task, config = film_task("llama").only(pattern), backbone_config(backbone)
    out.mkdir()
    with new_submodel(config, TuneConfig(tune=tune, lora=LoraConfig(rank=2)), seed) as submodel:
        if tune == "prompt":
            submodel.prompt = new_prompt(PromptConfig(), submodel.backbone, task.pattern(pattern), seed=seed)
        trained = submodel.backbone.model if submodel.prompt is None else submodel.prompt
        with torch.no_grad():
            for parameter in trained.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        submodel.save(task, pattern, out)
        classifier = ClozeClassifier.of(task, pattern, submodel.backbone, config, submodel.prompt)
        return classifier.predict(EXAMPLES, SILENT, "")


def test_members_share_a_backbone_and_keep_their_logits(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    kinds: list[tuple[Tune, str]] = [("lora", "review"), ("lora", "summary"), ("prompt", "review"), ("none", "summary")]
    folders = [tmp_path / str(number) for number in range(len(kinds))]
    expected = [
        save_submodel(backbone_folders["llama"], tune, pattern, seed, folder)
        for seed, ((tune, pattern), folder) in enumerate(zip(kinds, folders, strict=True))
    ]
    loader = ModelLoader()
    members = [loader.load(folder) for folder in folders]
    for _ in range(2):  # each member activates its own adapter, whatever ran before
        for member, logits in zip(members, expected, strict=True):
            assert member.predict(EXAMPLES, SILENT, "") == pytest.approx(logits, abs=1e-5)
    assert len(loader._shared) == 2, "one backbone with adapters, one without"


def test_submodel_with_full_tuning_has_separate_weights(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    logits = save_submodel(backbone_folders["llama"], "full", "review", 0, tmp_path / "model")
    classifier = ModelLoader().load_submodel(tmp_path / "model")
    assert classifier.predict(EXAMPLES, SILENT, "") == pytest.approx(logits, abs=1e-5)
