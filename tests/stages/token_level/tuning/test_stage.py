"""Tests of the tuning stage of token-level tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from stages.common.errors import InputError
from stages.common.prompts.config import PromptConfig, check_fits_token_level
from stages.common.training.config import EarlyStopping, TrainingConfig
from stages.token_level.examples import Question, write_examples
from stages.token_level.heads import load_token_level_model
from stages.token_level.tuning import stage as tuning
from stages.token_level.tuning.config import TokenLevelTuningConfig
from tests.support.small_models import FAMILIES, backbone_config
from tests.support.stage_runs import SILENT, Kept, assert_a_seed_decides, run, written
from tests.support.token_level_data import ANSWERS, ENTITIES, METHODS, questions, tagged_texts

TRAINING = TrainingConfig(learning_rate=0.03, batch_size=8, steps=100, lr_scheduler="constant", weight_decay=0.0)


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    """Kind of task -> folder with the files of the split stage."""
    for kind, make in (("tokens", tagged_texts), ("spans", questions)):
        (tmp_path / kind).mkdir()
        for seed, (name, count) in enumerate((("train", 64), ("dev", 8), ("test", 30))):
            write_examples(tmp_path / kind / f"{name}.jsonl", make(count, seed))
    return {kind: tmp_path / kind for kind in ("tokens", "spans")}


def tuned(folder: Path, task: Any, **settings: Any) -> TokenLevelTuningConfig:
    values = {"prompt": METHODS["prompt_tuning"], "training": TRAINING, "seed": 1} | settings
    return TokenLevelTuningConfig(task=task, backbone=backbone_config(folder), **values)


def predictions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "test_predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in FAMILIES for method in METHODS if name != "t5" or not METHODS[method].is_deep],
)
@pytest.mark.parametrize("task", [ENTITIES, ANSWERS], ids=["tokens", "spans"])
def test_each_method_learns_on_each_family_and_is_loaded(
    task: Any, name: str, method: str, backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update={"learning_rate": 0.01}) if method == "with_lora" else TRAINING
    config = tuned(backbone_folders[name], task, prompt=METHODS[method], training=training)
    recorder = Kept()
    result = run(tuning, config, tuning.Inputs(data=sets[task.kind]), tmp_path / "out", recorder)
    losses = [loss for _, loss in recorder.points["train/loss"]]
    assert result.final_loss == losses[-1] < 0.7 * losses[0]
    # an untrained head predicts the same for every token
    assert (result.test.entity_f1 if task.kind == "tokens" else result.test.accuracy) > 0.5
    assert recorder.metrics["test/accuracy"] == result.test.accuracy
    model = load_token_level_model(tmp_path / "out")
    test_set = model.load(sets[task.kind] / "test.jsonl")
    rows = predictions(tmp_path / "out")
    assert [row["uid"] for row in rows] == [item.uid for item in test_set]
    predicted = [tuple(row["predicted"]) if task.kind == "tokens" else row["predicted"] for row in rows]
    assert model.predict(test_set, SILENT, "") == predicted


@pytest.mark.parametrize("task", [ENTITIES, ANSWERS], ids=["tokens", "spans"])
def test_result_depends_on_the_seed_only(
    task: Any, backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        training = TRAINING.model_copy(update={"steps": 3})
        config = tuned(backbone_folders["bert"], task, seed=seed, training=training)
        run(tuning, config, tuning.Inputs(data=sets[task.kind]), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


def test_early_stopping_uses_the_dev_set(
    backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update={"early_stopping": EarlyStopping(eval_steps=5, patience=2)})
    recorder = Kept()
    config = tuned(backbone_folders["bert"], ENTITIES, training=training)
    run(tuning, config, tuning.Inputs(data=sets["tokens"]), tmp_path / "out", recorder)
    evaluations = recorder.points["dev/accuracy"]
    assert evaluations[0][0] == 5
    assert max(value for _, value in evaluations) > evaluations[0][1]
    assert recorder.metrics["dev/best_step"] in {step for step, _ in evaluations}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_unanswerable_question_gets_an_empty_answer(
    family: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    def mixed(count: int, seed: int) -> list[Question]:
        """Returns questions of which every second one has no answer."""
        examples = questions(count, seed)
        for number in range(0, count, 2):
            item = examples[number]
            examples[number] = replace(item, answers=(), context=item.context.replace(item.answers[0].text, "plot"))
        return examples

    for seed, name in enumerate(("train", "dev", "test")):
        write_examples(tmp_path / f"{name}.jsonl", mixed(60, seed))
    task = ANSWERS.model_copy(update={"unanswerable": True})
    config = tuned(backbone_folders[family], task, training=TRAINING.model_copy(update={"steps": 200}))
    result = run(tuning, config, tuning.Inputs(data=tmp_path), tmp_path / "out")
    assert 15 < [row["predicted"] for row in predictions(tmp_path / "out")].count("") < 45
    assert result.test.exact_match > 0.7


def test_head_for_another_task_raises(backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path) -> None:
    config = tuned(backbone_folders["bert"], ENTITIES, training=TRAINING.model_copy(update={"steps": 1}))
    run(tuning, config, tuning.Inputs(data=sets["tokens"]), tmp_path / "out")
    file = tmp_path / "out" / "token_level_model.json"
    file.write_text(file.read_text().replace("B-WHO", "B-OTHER"))
    with pytest.raises(InputError, match="B-OTHER"):
        load_token_level_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"head": "verbalizer"}, "head"),
        ({"hard_prompt_steps": 2}, "hard_prompt_steps"),
        ({"init": {"kind": "label_words"}}, "init"),
    ],
)
def test_methods_that_need_label_words_raise(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fits_token_level(PromptConfig(**settings))
    assert caught.value.key == key
    check_fits_token_level(PromptConfig())


def test_a_mixture_has_the_prompts_of_its_inputs(
    backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    once = TRAINING.model_copy(update={"steps": 1})
    config = tuned(backbone_folders["bert"], ENTITIES, training=once)
    run(tuning, config, tuning.Inputs(data=sets["tokens"]), tmp_path / "source")
    mixture = PromptConfig(method="attempt", num_virtual_tokens=3, bottleneck_size=4, sources=("ppt",))
    inputs = tuning.Inputs(data=sets["tokens"], sources=(tmp_path / "source",))
    run(tuning, config.model_copy(update={"prompt": mixture}), inputs, tmp_path / "out")
    source = load_file(tmp_path / "source" / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]
    assert load_file(tmp_path / "out" / "prompt" / "text_prompt.safetensors")["sources"].equal(source[None])
