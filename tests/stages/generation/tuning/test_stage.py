"""Tests of the tuning stage of text generation, and of the stage that generates texts with the trained prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from stages.common.prompts.config import PromptConfig
from stages.common.training.config import EarlyStopping, TrainingConfig
from stages.generation.config import DecodingConfig, GenerationTask, TargetTask
from stages.generation.evaluation import stage as evaluation
from stages.generation.evaluation.config import GenerationEvaluationConfig
from stages.generation.examples import write_examples
from stages.generation.metrics import score_texts
from stages.generation.model import load_generator
from stages.generation.tuning import stage as tuning
from stages.generation.tuning.config import GenerationTuningConfig
from tests.support.generation_data import METHODS, TABLES, tables
from tests.support.skilled_models import with_sentences, write_skilled_model
from tests.support.small_models import backbone_config
from tests.support.stage_runs import SILENT, Kept, assert_a_seed_decides, run, written

RATES = {"idpg": 0.01, "with_lora": 0.01, "deep_with_lora": 0.01, "lora": 0.01}
TRAINING = TrainingConfig(learning_rate=0.03, batch_size=8, steps=200, lr_scheduler="constant", weight_decay=0.0)


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def skilled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that writes two kinds of sentences, of which a word in the input chooses one."""
    return write_skilled_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files of the split stage; the test set is the training set."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, examples in (("train", tables(8)), ("dev", tables(3, start=8)), ("test", tables(8))):
        write_examples(folder / f"{name}.jsonl", examples)
    return folder


def tuned(folder: Path, **settings: Any) -> GenerationTuningConfig:
    values = {"task": TABLES, "prompt": METHODS["prompt_tuning"], "training": TRAINING, "seed": 1} | settings
    return GenerationTuningConfig(backbone=backbone_config(folder), **{**values, "task": TargetTask.of(values["task"])})


def generate(folder: Path, data: Path, tuned: Path, out: Path, recorder: Any = SILENT, **settings: Any) -> Any:
    """Runs the evaluation stage; returns its result."""
    config = GenerationEvaluationConfig(task=TABLES, backbone=backbone_config(folder)).model_copy(update=settings)
    return run(evaluation, config, evaluation.Inputs(data=data, tuned=tuned), out, recorder)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_eight_examples_and_is_loaded(
    method: str, skilled: Path, data: Path, tmp_path: Path
) -> None:
    examples = with_sentences(tables(8), "bad")
    for name in ("train", "test"):
        write_examples(data / f"{name}.jsonl", examples)
    training = TRAINING.model_copy(update={"learning_rate": RATES.get(method, 0.03)})
    recorder = Kept()
    config = tuned(skilled, prompt=METHODS[method], training=training)
    training_result = run(tuning, config, tuning.Inputs(data=data), tmp_path / "tuned", recorder)
    losses = [loss for _, loss in recorder.points["train/loss"]]
    assert training_result.final_loss == losses[-1] < 0.5 * losses[0]
    result = generate(skilled, data, tmp_path / "tuned", tmp_path / "out", recorder)
    assert (result.final_loss, result.num_labeled) == (training_result.final_loss, 8)
    assert result.trainable_parameters == training_result.trainable_parameters > 0
    if skilled.parent.name.startswith("gpt2") and method in ("prompt_tuning", "p_tuning", "idpg"):
        assert result.test.bleu > 0.3, "vectors before the text change a causal model of two layers less"
    else:
        assert result.test.exact_match >= 0.75
    rows = [json.loads(line) for line in (tmp_path / "out" / "test_generated.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in rows] == [item.uid for item in examples]
    assert [tuple(row["references"]) for row in rows] == [item.references for item in examples]
    texts = [row["generated"] for row in rows]
    assert result.test == score_texts([item.references for item in examples], texts).score
    assert recorder.metrics["test/bleu"] == result.test.bleu
    assert load_generator(tmp_path / "out").generate(examples, SILENT, "") == texts


def test_files_depend_on_the_seed_only(backbone_folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        training = TRAINING.model_copy(update={"steps": 3})
        config = tuned(backbone_folders["gpt2"], seed=seed, training=training)
        run(tuning, config, tuning.Inputs(data=data), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


def test_early_stopping_uses_the_dev_set_without_generating(
    backbone_folders: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[str] = []
    generate = tuning.TextGenerator.generate

    def recorded(self: Any, examples: Any, recorder: Any, phase: str) -> list[str]:
        phases.append(phase)
        return generate(self, examples, recorder, phase)

    monkeypatch.setattr(tuning.TextGenerator, "generate", recorded)
    training = TRAINING.model_copy(update={"steps": 20, "early_stopping": EarlyStopping(eval_steps=5, patience=9)})
    recorder = Kept()
    run(tuning, tuned(backbone_folders["t5"], training=training), tuning.Inputs(data=data), tmp_path / "out", recorder)
    evaluations = recorder.points["dev/accuracy"]
    assert [step for step, _ in evaluations] == [5, 10, 15, 20]
    best = max(evaluations, key=lambda item: (item[1], -dict(recorder.points["dev/loss"])[item[0]]))
    assert recorder.metrics["dev/best_step"] == best[0]
    assert phases == []


def test_soft_blocks_are_trained_and_long_targets_are_counted(
    backbone_folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    task = GenerationTask(name="soft", pattern="{soft:2}name: {name}, {soft:3:the food}food: {food}", max_new_tokens=4)
    training = TRAINING.model_copy(update={"steps": 3})
    config = tuned(backbone_folders["llama"], task=task, training=training)
    run(tuning, config, tuning.Inputs(data=data), tmp_path / "tuned")
    result = generate(backbone_folders["llama"], data, tmp_path / "tuned", tmp_path / "out", task=task)
    assert result.trainable_parameters == 5 * 32
    assert result.num_cut_targets == 8
    lines = (tmp_path / "out" / "test_generated.jsonl").read_text().splitlines()
    texts = [json.loads(line)["generated"] for line in lines]
    assert load_generator(tmp_path / "out").generate(tables(8), SILENT, "") == texts


def test_a_trained_prompt_is_decoded_in_several_ways(
    backbone_folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    folder, training = backbone_folders["llama"], TRAINING.model_copy(update={"steps": 2})
    run(tuning, tuned(folder, training=training), tuning.Inputs(data=data), tmp_path / "tuned")
    texts = {}
    for strategy in ("greedy", "sample"):
        task = TABLES.model_copy(update={"decoding": DecodingConfig(strategy=strategy), "max_new_tokens": 6})
        generate(folder, data, tmp_path / "tuned", tmp_path / strategy, task=task)
        rows = (tmp_path / strategy / "test_generated.jsonl").read_text().splitlines()
        texts[strategy] = [json.loads(row)["generated"] for row in rows]
        loaded = load_generator(tmp_path / strategy)
        assert loaded.decoding.strategy == strategy, "predict decodes as the report did"
        assert loaded.generate(tables(8), SILENT, "") == texts[strategy]
    assert texts["greedy"] != texts["sample"]


def test_a_mixture_has_the_prompts_of_its_inputs(backbone_folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    once = TRAINING.model_copy(update={"steps": 1})
    config = tuned(backbone_folders["gpt2"], training=once)
    run(tuning, config, tuning.Inputs(data=data), tmp_path / "source")
    mixture = PromptConfig(method="attempt", num_virtual_tokens=5, bottleneck_size=4, sources=("ppt",))
    inputs = tuning.Inputs(data=data, sources=(tmp_path / "source",))
    run(tuning, config.model_copy(update={"prompt": mixture}), inputs, tmp_path / "out")
    source = load_file(tmp_path / "source" / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]
    assert load_file(tmp_path / "out" / "prompt" / "text_prompt.safetensors")["sources"].equal(source[None])
