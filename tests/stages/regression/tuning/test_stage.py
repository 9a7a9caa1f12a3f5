"""Tests of the tuning stage of regression: each prompt method on each family learns, and is loaded as it was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import EarlyStopping, TrainingConfig
from stages.regression.examples import load_examples, write_examples
from stages.regression.model import load_regressor
from stages.regression.tuning import stage as tuning
from stages.regression.tuning.config import RegressionTuningConfig
from tests.support.prompt_methods import METHODS
from tests.support.regression_data import reviews, stars_task
from tests.support.small_models import FAMILIES, backbone_config
from tests.support.stage_runs import SILENT, Kept, assert_a_seed_decides, run, written

TRAINING = TrainingConfig(learning_rate=0.03, batch_size=8, steps=60, lr_scheduler="constant", weight_decay=0.0)
SLOWER = TRAINING.model_copy(update={"learning_rate": 0.005})
"""Adapters, an LSTM and the network of IDPG diverge at the learning rate of a prompt."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, (name, count) in enumerate((("train", 32), ("dev", 10), ("test", 25))):
        write_examples(folder / f"{name}.jsonl", reviews(count, seed))
    return folder


def tuned(folder: Path, name: str, prompt: PromptConfig, **settings: Any) -> RegressionTuningConfig:
    slow = prompt.lora is not None or prompt.encoder == "lstm" or prompt.reads_text
    values = {"training": SLOWER if slow else TRAINING, "seed": 1} | settings
    return RegressionTuningConfig(task=stars_task(name), backbone=backbone_config(folder), prompt=prompt, **values)


@pytest.mark.parametrize(
    ("name", "method"),
    [*(("bert", method) for method in METHODS)]
    + [(name, method) for name in FAMILIES if name != "bert" for method in ("prompt_tuning", "p_tuning_v2")],
)
def test_each_method_learns_on_each_family_and_is_loaded(
    name: str, method: str, backbone_folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    recorder = Kept()
    config = tuned(backbone_folders[name], name, METHODS[method])
    result = run(tuning, config, tuning.Inputs(data=data), tmp_path / "out", recorder)
    losses = [loss for _, loss in recorder.points["train/loss"]]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert result.test.pearson == recorder.metrics["test/pearson"]
    assert result.test.num_examples == 25
    rows = [json.loads(line) for line in (tmp_path / "out" / "test_predictions.jsonl").read_text().splitlines()]
    test_set = load_examples(data / "test.jsonl")
    assert [row["uid"] for row in rows] == [item.uid for item in test_set]
    assert all(1 <= row["predicted"] <= 5 for row in rows)
    loaded = load_regressor(tmp_path / "out").predict(test_set, SILENT, "")
    assert loaded == pytest.approx([row["predicted"] for row in rows], abs=1e-4)


@pytest.mark.parametrize(
    "prompt",
    [PromptConfig(method="lora", lora=LoraConfig(rank=4)), PromptConfig(num_virtual_tokens=5, head="linear")],
    ids=["lora", "head"],
)
def test_adapters_and_heads_learn_the_values(
    prompt: PromptConfig, backbone_folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update={"learning_rate": 0.01, "steps": 200})
    config = tuned(backbone_folders["bert"], "bert", prompt, training=training)
    if prompt.head == "linear":
        config = config.model_copy(update={"task": config.task.model_copy(update={"words": None})})
    result = run(tuning, config, tuning.Inputs(data=data), tmp_path / "out")
    assert result.test.pearson > 0.8
    assert result.test.rmse < 1.1
    test_set = load_examples(data / "test.jsonl")
    loaded = load_regressor(tmp_path / "out").evaluate(test_set, SILENT, "").score
    assert loaded.pearson == pytest.approx(result.test.pearson, abs=1e-3)


def test_early_stopping_keeps_the_best_correlation(
    backbone_folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update={"early_stopping": EarlyStopping(eval_steps=5, patience=2)})
    recorder = Kept()
    config = tuned(backbone_folders["bert"], "bert", METHODS["prompt_tuning"], training=training)
    run(tuning, config, tuning.Inputs(data=data), tmp_path / "out", recorder)
    assert recorder.metrics["dev/best_step"] in {step for step, _ in recorder.points["dev/accuracy"]}


def test_result_depends_on_the_seed_only(backbone_folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        training = TRAINING.model_copy(update={"steps": 3})
        config = tuned(backbone_folders["gpt2"], "gpt2", METHODS["p_tuning_v2"], training=training, seed=seed)
        run(tuning, config, tuning.Inputs(data=data), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)
