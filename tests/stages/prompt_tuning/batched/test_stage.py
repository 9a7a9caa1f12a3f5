"""Tests of batched prompt tuning: each prompt is the same as if it was trained alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.engine import InProcessEngine
from stages.common.errors import DivergedError
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.multi_task import multi_task_logits
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.peft_format import load_prompt
from stages.common.training.config import TrainingConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.batched import stage as batched
from stages.prompt_tuning.batched.config import BatchedTuningConfig, PromptJob
from stages.prompt_tuning.config import PromptTuningConfig
from tests.support.small_models import FAMILIES, backbone_config, film_examples, film_task
from tests.support.stage_runs import SILENT, Kept, logits_of, run

TRAINING = TrainingConfig(learning_rate=0.02, batch_size=3, steps=10, warmup_ratio=0.2)


def soft_task(name: str) -> Task:
    task = film_task(name).only("review")
    text = "{soft:2}Review: {text}\n{soft:1}{mask}" if name in ("llama", "gpt2") else "{soft:3}{text} It was {mask}."
    words = {"rotten": ["terrible"], "fresh": ["great", "fine"]}
    return task.model_copy(update={"name": "soft", "patterns": {"review": text}, "verbalizer": words})


def jobs(name: str) -> list[PromptJob]:
    """Returns prompts of two tasks, several methods, lengths, seeds and training settings."""
    task, soft = film_task(name).only("review"), soft_task(name)
    longer = TRAINING.model_copy(update={"steps": 14, "batch_size": 5, "learning_rate": 0.05, "warmup_ratio": 0.0})
    settings = [
        ("plain/0", task, PromptConfig(num_virtual_tokens=5), TRAINING, 0),
        ("plain/1", task, PromptConfig(num_virtual_tokens=5), TRAINING, 1),
        ("short/0", task, PromptConfig(num_virtual_tokens=2), longer, 3),
        ("soft/0", soft, PromptConfig(), TRAINING, 0),
        ("lstm/0", task, PromptConfig(method="p_tuning", num_virtual_tokens=4, encoder_hidden_size=8), longer, 0),
        ("instance/0", task, PromptConfig(method="idpg", num_virtual_tokens=4, bottleneck_size=8), TRAINING, 0),
        ("instance/1", soft, PromptConfig(method="idpg", bottleneck_size=8, text_encoder="embeddings"), TRAINING, 1),
        ("low/0", task, PromptConfig(num_virtual_tokens=4, rank=1), TRAINING, 0),
        ("deep/0", task, PromptConfig(method="p_tuning_v2", num_virtual_tokens=3), TRAINING, 0),
        ("deep/1", soft_plain(name), PromptConfig(method="p_tuning_v2", num_virtual_tokens=3), TRAINING, 1),
    ]
    return [
        PromptJob(name=title, task=task, pattern="review", prompt=prompt, training=training, seed=seed, data=0)
        for title, task, prompt, training, seed in settings
    ]


def soft_plain(name: str) -> Task:
    return film_task(name).only("review").model_copy(update={"name": "other", "verbalizer": soft_task(name).verbalizer})


@pytest.mark.parametrize("name", FAMILIES)
def test_batched_prompts_equal_prompts_trained_alone(
    name: str, backbone_folders: dict[str, Path], backbones: dict[str, Backbone], film_data: Path, tmp_path: Path
) -> None:
    config = BatchedTuningConfig(backbone=backbone_config(backbone_folders[name]), jobs=tuple(jobs(name)))
    inputs = batched.Inputs(data=(film_data,))
    result = run(batched, config, inputs, tmp_path / "batched")
    assert result.num_prompts == len(config.jobs)
    for number, job in enumerate(config.jobs):
        alone = PromptTuningConfig(
            task=job.task, pattern="review", backbone=config.backbone, prompt=job.prompt, training=job.training,
            seed=job.seed, name=job.name,
        )  # fmt: skip
        expected = run(prompt_tuning, alone, prompt_tuning.Inputs(data=film_data), tmp_path / f"{number}-alone")
        shared = prompt_tuning.Inputs(data=film_data, batched=tmp_path / "batched")
        loaded = run(prompt_tuning, alone, shared, tmp_path / f"{number}-batched")
        prompts = [
            load_prompt(tmp_path / f"{number}-{how}" / "prompt", backbones[name]) for how in ("alone", "batched")
        ]
        for expected_values, values in zip(prompts[0].parameters(), prompts[1].parameters(), strict=True):
            torch.testing.assert_close(values, expected_values, atol=2e-3, rtol=1e-3)
        assert loaded.final_loss == pytest.approx(expected.final_loss, abs=2e-3)
        assert loaded.trainable_parameters == expected.trainable_parameters
        logits = [logits_of(tmp_path / f"{number}-{how}") for how in ("alone", "batched")]
        assert logits[1] == pytest.approx(logits[0], abs=0.05)


@pytest.mark.parametrize("name", FAMILIES)
def test_multi_task_logits_equal_those_of_each_task(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    config = backbone_config(Path("unused"))
    several_tokens = (
        film_task(name).only("review").model_copy(update={"verbalizer": {"rotten": ["so bad"], "fresh": ["good"]}})
    )
    parts = []
    for number, job in enumerate(jobs(name)):
        prompt = new_prompt(job.prompt, backbone, job.task.pattern("review"), seed=number)
        classifier = ClozeClassifier.of(job.task, "review", backbone, config, prompt)
        parts.append((classifier, [classifier.encode(item) for item in film_examples(number + 1)]))
    no_prompt = ClozeClassifier.of(film_task(name), "summary", backbone, config)
    parts.append((no_prompt, [no_prompt.encode(item) for item in film_examples(2)]))
    long = ClozeClassifier.of(
        several_tokens,
        "review",
        backbone,
        config,
        new_prompt(PromptConfig(), backbone, several_tokens.pattern("review"), seed=1),
    )
    parts.append((long, [long.encode(item) for item in film_examples(2)]))
    with torch.inference_mode():
        logits = multi_task_logits(parts)
        for (classifier, clozes), scores in zip(parts, logits, strict=True):
            torch.testing.assert_close(scores, classifier.logits(clozes), atol=2e-4, rtol=1e-4)


def test_gradients_reach_only_the_prompts_of_the_batch(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["gpt2"]
    config, pattern = backbone_config(Path("unused")), film_task("gpt2").pattern("review")
    prompts = [new_prompt(PromptConfig(num_virtual_tokens=3), backbone, pattern, seed=seed) for seed in range(3)]
    tasks = [ClozeClassifier.of(film_task("gpt2"), "review", backbone, config, prompt) for prompt in prompts]
    parts = [(task, [task.encode(item) for item in film_examples(2)]) for task in tasks[:2]]
    torch.stack([scores.square().sum() for scores in multi_task_logits(parts)]).sum().backward()
    grads = [next(prompt.parameters()).grad for prompt in prompts]
    assert grads[0] is not None
    assert grads[1] is not None
    assert grads[2] is None
    assert all(weight.grad is None for weight in backbone.model.parameters())


class StoppedError(Exception):
    pass


class Stopping(InProcessEngine):
    """Stops after some steps, like a killed process."""

    def __init__(self, checkpoint_dir: Path, num_steps: int) -> None:
        super().__init__(checkpoint_dir)
        self.num_left = num_steps

    def backward(self, loss: torch.Tensor) -> None:
        if not self.num_left:
            raise StoppedError
        self.num_left -= 1
        super().backward(loss)


def test_killed_training_resumes_from_its_checkpoint(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOZELINE_CHECKPOINT_EVERY_S", "0.000001")
    config = BatchedTuningConfig(backbone=backbone_config(backbone_folders["gpt2"]), jobs=tuple(jobs("gpt2")))
    inputs = batched.Inputs(data=(film_data,))
    for folder in ("checkpoints", "uninterrupted", "again"):
        (tmp_path / folder).mkdir()
    with pytest.raises(StoppedError):
        batched.run(config, inputs, tmp_path / "again", SILENT, Stopping(tmp_path / "checkpoints", 12))
    assert not list((tmp_path / "again").iterdir())
    recorder = Kept()
    batched.run(config, inputs, tmp_path / "again", recorder, InProcessEngine(tmp_path / "checkpoints"))
    batched.run(config, inputs, tmp_path / "uninterrupted", SILENT, InProcessEngine())
    assert min(step for points in recorder.points.values() for step, _ in points) == 13
    for job in config.jobs:
        file = "text_prompt.safetensors" if job.prompt.method == "idpg" else "adapter_model.safetensors"
        name = f"{job.name}/prompt/{file}"
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()


def test_diverged_prompt_is_named(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    prompt_jobs = [
        job.model_copy(update={"training": TRAINING.model_copy(update={"learning_rate": 1e38})})
        if job.name == "plain/1"
        else job
        for job in jobs("gpt2")
    ]
    config = BatchedTuningConfig(backbone=backbone_config(backbone_folders["gpt2"]), jobs=tuple(prompt_jobs))
    with pytest.raises(DivergedError, match="of plain/1") as caught:
        run(batched, config, batched.Inputs(data=(film_data,)), tmp_path / "out")
    assert "Lower learning_rate" in caught.value.remedy
    assert not list((tmp_path / "out").iterdir())
