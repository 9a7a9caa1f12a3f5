"""Tests of the prompt-search stage: each fold is predicted by a prompt that the prompt-tuning stage would train."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stages.common.errors import InputError
from stages.common.examples import load_examples, write_examples
from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from stages.prompt_tuning.search import stage as prompt_search
from stages.prompt_tuning.search.config import PromptSearchConfig
from tests.support.small_models import backbone_config, film_task
from tests.support.stage_runs import Kept, held_out_by_hand, logits_of, run

PROMPTS = {
    "vectors": PromptConfig(num_virtual_tokens=3),
    "lora": PromptConfig(method="lora", lora=LoraConfig(rank=2)),
}


def trial(folder: Path, name: str) -> PromptSearchConfig:
    return PromptSearchConfig(
        task=film_task("bert").only("review"),
        pattern="review",
        backbone=backbone_config(folder),
        prompt=PROMPTS[name],
        training=TrainingConfig(learning_rate=0.03, batch_size=4, steps=6),
        seed=3,
        num_folds=2,
    )


@pytest.mark.parametrize("name", PROMPTS)
def test_folds_are_predicted_as_by_the_prompt_tuning_stage(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config, recorder = trial(backbone_folders["bert"], name), Kept()
    result = run(prompt_search, config, prompt_search.Inputs(data=film_data), tmp_path / "out", recorder)
    by_hand = held_out_by_hand(prompt_tuning, PromptTuningConfig.of(config), prompt_tuning.Inputs, film_data, 2)
    logits = logits_of(tmp_path / "out", "held_out_logits")
    assert logits == pytest.approx(by_hand, abs=5e-5)
    labels = [item.label for item in load_examples(film_data / "train.jsonl")]
    accuracy = np.mean(
        [config.task.labels[index] == label for index, label in zip(logits.argmax(1), labels, strict=True)]
    )
    assert result.held_out.accuracy == recorder.metrics["train/held_out_accuracy"] == pytest.approx(accuracy)
    assert result.standard_error == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 8))
    assert (result.num_labeled, result.trainable_parameters > 0) == (8, True)


def test_test_labels_are_not_read(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    (film_data / "test.jsonl").unlink()
    run(
        prompt_search,
        trial(backbone_folders["bert"], "vectors"),
        prompt_search.Inputs(data=film_data),
        tmp_path / "out",
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"held_out_logits.jsonl", "result.json"}


def test_nothing_can_be_held_out(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "train.jsonl", load_examples(film_data / "train.jsonl")[:2])
    with pytest.raises(InputError, match="two labeled examples"):
        run(
            prompt_search,
            trial(backbone_folders["bert"], "vectors"),
            prompt_search.Inputs(data=film_data),
            tmp_path / "o",
        )
