"""Tests of instruction tuning on small models of each family, and of their tasks that they were not tuned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stages.common.engine import InProcessEngine
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.config import Task
from stages.instruction_tuning import stage
from stages.instruction_tuning.config import InstructionTuningConfig
from stages.instruction_tuning.held_out import stage as held_out
from stages.instruction_tuning.held_out.config import HeldOutConfig
from tests.support.small_models import backbone_config, film_task
from tests.support.stage_runs import SILENT, Kept, logits_of, run

FAMILIES = ("bert", "llama", "t5")
TRAINING = {"learning_rate": 0.01, "batch_size": 4, "steps": 6}


def questions(family: str) -> Task:
    """Returns a second task, with words of several tokens."""
    task = film_task(family)
    words = {"no": ["no"], "yes": ["yes"]}
    return Task(name="questions", labels=("no", "yes"), patterns={"ask": task.patterns["review"]}, verbalizer=words)


def tuning(folder: Path, family: str, **settings: Any) -> InstructionTuningConfig:
    tasks = (film_task(family), questions(family))
    return InstructionTuningConfig(
        backbone=backbone_config(folder), tasks=tasks, **{"training": TRAINING, "seed": 1, **settings}
    )


@pytest.fixture
def data(film_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Labeled examples of both tasks."""
    other = tmp_path / "questions"
    other.mkdir()
    examples = [Example(str(row), {"text": f"Is it {'true' if row % 2 else 'bad'}?"}, ("no", "yes")[row % 2])
                for row in range(4)]  # fmt: skip
    write_examples(other / "train.jsonl", examples)
    return film_data, other


@pytest.mark.parametrize("family", FAMILIES)
def test_tuned_model_predicts_another_task_from_its_files(
    family: str, backbone_folders: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, recorder = backbone_folders[family], Kept()
    result = run(stage, tuning(folder, family), stage.Inputs(data=data), tmp_path / "tuned", recorder)
    assert (result.num_tasks, result.num_patterns, result.num_labeled) == (2, 3, 12)
    assert result.trainable_parameters > 0
    losses = [value for _, value in recorder.points["train/loss"]]
    assert len(losses) == 6 and losses[-1] < losses[0]
    task = film_task(family).with_words({"rotten": ["dull"], "fresh": ["warm"]})
    config = HeldOutConfig(task=task.only("summary"), pattern="summary", backbone=backbone_config(folder))
    inputs = held_out.Inputs(data=data[0], tuned=tmp_path / "tuned")
    after = run(held_out, config, inputs, tmp_path / "after")
    assert (after.num_labeled, after.trainable_parameters) == (0, 0) and after.held_out_accuracy is not None
    run(stage, tuning(folder, family, training={**TRAINING, "learning_rate": 1e-9}), stage.Inputs(data=data),
        tmp_path / "same")  # fmt: skip
    run(held_out, config, held_out.Inputs(data=data[0], tuned=tmp_path / "same"), tmp_path / "before")
    untrained = np.abs(logits_of(tmp_path / "before") - logits_of(tmp_path / "after")).max()
    assert untrained > 0.05, "the trained adapter is loaded"


def test_loss_is_the_mean_over_the_items_of_all_tasks(
    backbones: dict[str, Backbone], backbone_folders: dict[str, Path], data: tuple[Path, Path]
) -> None:
    config = tuning(backbone_folders["bert"], "bert")
    model = stage.InstructionModel(config, backbones["bert"], InProcessEngine())
    sets = [load_examples(folder / "train.jsonl") for folder in data]
    items = model.items(sets)
    assert len(items) == 2 * 8 + 4
    batch = [items[0], items[9], items[17], items[18]]
    expected = []
    for number, item in batch:
        task = config.tasks[0 if number < 2 else 1]
        pattern = list(task.patterns)[number if number < 2 else 0]
        classifier = ClozeClassifier.of(task, pattern, backbones["bert"], config.backbone, loss_kind="vocabulary")
        expected.append(float(classifier.loss([item])))
    assert float(model.loss(batch, batch)) == pytest.approx(np.mean(expected), abs=1e-4)
    halves = [model.loss(batch[:2], batch), model.loss(batch[2:], batch)]
    assert float(torch.stack(halves).sum()) == pytest.approx(np.mean(expected), abs=1e-4)


def test_a_task_without_labeled_examples_raises(
    backbone_folders: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    write_examples(data[1] / "train.jsonl", [])
    with pytest.raises(InputError, match="task questions has no labeled examples"):
        run(stage, tuning(backbone_folders["bert"], "bert"), stage.Inputs(data=data), tmp_path / "out", SILENT)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"tune": "none"}, "tune: tune: none trains no weights"),
        ({"tune": "prompt"}, "trains no weights"),
        ({"training": {**TRAINING, "early_stopping": {}}}, "training.early_stopping: .* no dev set"),
    ],
)
def test_settings_that_cannot_be_trained_raise(settings: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=problem):
        tuning(tmp_path, "bert", **settings)
