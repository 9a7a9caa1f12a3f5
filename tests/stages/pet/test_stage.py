"""Tests of the PET stage on small real models: training, prompts, generations, early stopping and the MLM loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages.common.examples import Example, load_examples, write_examples
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.config import Task
from stages.common.prompts.loader import ModelLoader
from stages.common.training.config import TrainingConfig
from stages.common.training.cross_validation import stratified_folds
from stages.pet import stage as pet
from stages.pet.config import GenerationConfig, PetConfig
from tests.support.small_models import FAMILIES, backbone_config, film_example, film_examples, film_task
from tests.support.stage_runs import (
    LABELS,
    SILENT,
    Kept,
    assert_a_seed_decides,
    held_out_by_hand,
    logits_of,
    run,
    written,
)

TRAINING = TrainingConfig(learning_rate=0.01, batch_size=4, steps=16, lr_scheduler="constant", weight_decay=0.0)


def submodel(folder: Path, name: str = "gpt2", tune: str = "lora", **settings: Any) -> PetConfig:
    training = None if tune == "none" else TRAINING
    values = {"pattern": "review", "training": training, "seed": 1, "task": film_task(name)} | settings
    return PetConfig(backbone=backbone_config(folder), tune=tune, **values)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tune", ["full", "lora", "none"])
def test_submodel_learns_and_is_loaded(
    name: str, tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    long = TrainingConfig(learning_rate=0.005, batch_size=4, steps=80, weight_decay=0.0)
    config = submodel(backbone_folders[name], name, tune, training=None if tune == "none" else long)
    result = run(pet, config, pet.Inputs(data=film_data), tmp_path / "out")
    test = load_examples(film_data / "test.jsonl")
    train = load_examples(film_data / "train.jsonl")
    classifier = ModelLoader().load_submodel(tmp_path / "out")
    assert classifier.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)
    after = classifier.evaluate(train, SILENT, "").score
    untrained = ClozeClassifier.of(config.task, "review", load_backbone(config.backbone, frozen=True), config.backbone)
    before = untrained.evaluate(train, SILENT, "").score
    assert result.held_out_accuracy == before.accuracy
    assert result.test.num_examples == 12
    if tune == "none":
        assert (result.final_loss, result.trainable_parameters, result.num_labeled) == (None, 0, 0)
        assert after == before
        return
    assert result.num_labeled == 8
    assert after.accuracy == 1.0
    assert result.final_loss < 0.65
    num_weights = sum(weight.numel() for weight in untrained.backbone.model.parameters())
    assert (result.trainable_parameters == num_weights) is (tune == "full")


PROMPT_TRAINING = TrainingConfig(learning_rate=0.05, batch_size=4, steps=24, lr_scheduler="constant", weight_decay=0.0)


@pytest.mark.parametrize("text", ["Review: {text}\nSentiment:{mask}", "{text}{soft:2}{soft:2:the film}{mask}"])
def test_prompt_submodel_learns_and_is_loaded(
    text: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """Before the text, and in blocks at its end, which are trained over the cached text."""
    task = film_task("gpt2").only("review").model_copy(update={"patterns": {"review": text}})
    config = submodel(
        backbone_folders["gpt2"], tune="prompt", task=task, training=PROMPT_TRAINING, prompt={"num_virtual_tokens": 4}
    )
    result = run(pet, config, pet.Inputs(data=film_data), tmp_path / "out")
    assert result.trainable_parameters == 4 * 32
    assert result.final_loss < 0.65
    test = load_examples(film_data / "test.jsonl")
    classifier = ModelLoader().load_submodel(tmp_path / "out")
    assert classifier.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_hard_prompt_steps_freeze_words_of_a_prompt_submodel(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    text = "{text}{soft:2}{soft:2:the film}{mask}"
    task = film_task("gpt2").only("review").model_copy(update={"patterns": {"review": text}})
    vectors = {}
    for steps in (0, 24):
        prompt = {"hard_prompt_steps": steps}
        config = submodel(backbone_folders["gpt2"], tune="prompt", task=task, training=PROMPT_TRAINING, prompt=prompt)
        run(pet, config, pet.Inputs(data=film_data), tmp_path / str(steps))
        vectors[steps] = load_file(tmp_path / str(steps) / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]
    backbone = load_backbone(config.backbone, frozen=True)
    ids = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
    words = backbone.model.get_input_embeddings().weight[[ids[0], ids[1 % len(ids)]]]
    assert torch.equal(vectors[24][2:], words)
    assert not torch.equal(vectors[0][2:], words)


def test_training_does_not_change_the_backbone_on_disk(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()}
    config = submodel(backbone_folders["bert"], "bert", "full")
    run(pet, config, pet.Inputs(data=film_data), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()} == before


@pytest.mark.parametrize(
    ("tune", "training", "problem"),
    [("none", TRAINING, "training is set"), ("lora", None, "needs training settings")],
)
def test_training_settings_must_fit_tune(tune: str, training: TrainingConfig | None, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        submodel(Path("x"), tune=tune, training=training)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_result_depends_on_the_seed_only(
    tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        short = TrainingConfig(learning_rate=0.01, batch_size=3, steps=3)
        config = submodel(backbone_folders["bert"], "bert", tune, seed=seed, training=short)
        run(pet, config, pet.Inputs(data=film_data), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


@pytest.mark.parametrize("name", FAMILIES)
def test_label_words_of_several_tokens_are_trained_with_the_hinge_loss(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    task = film_task(name).only("review").with_words({"rotten": ["badly"], "fresh": ["greatly", "good"]})
    long = TrainingConfig(learning_rate=0.01, batch_size=4, steps=100, weight_decay=0.0)
    config = submodel(backbone_folders[name], name, "full", task=task, training=long)
    result = run(pet, config, pet.Inputs(data=film_data), tmp_path / "out")
    assert result.final_loss is not None
    assert result.final_loss < 0.5
    classifier = ModelLoader().load_submodel(tmp_path / "out")
    train_set = load_examples(film_data / "train.jsonl")
    assert classifier.evaluate(train_set, SILENT, "").score.accuracy == 1.0


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_multiple_choice_scores_each_option(name: str, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """The second option is right if it says that the film was great."""
    end = "{mask}" if name == "gpt2" else "{mask}."
    task = Task(
        name="choice",
        labels=("1", "2"),
        options={"1": "first", "2": "second"},
        patterns={"question": "{text} {option} Is it true? " + end},
        verbalizer={"right": ["yes"], "wrong": ["no"]},
    )
    good, poor = "It was great.", "It was terrible."
    data = tmp_path / "data"
    data.mkdir()
    for split, start, count in (("train", 0, 12), ("test", 50, 12), ("unlabeled", 90, 6), ("dev", 0, 0)):
        rows = []
        for number in range(start, start + count):
            options = {"first": good, "second": poor} if number % 2 else {"first": poor, "second": good}
            text = film_example(number, "fresh").fields["text"]
            label = None if split == "unlabeled" else "1" if number % 2 else "2"
            rows.append(Example(f"{split}-{number}", {"text": text, **options}, label))
        write_examples(data / f"{split}.jsonl", rows)
    long = TrainingConfig(learning_rate=0.01, batch_size=4, steps=60, weight_decay=0.0)
    config = submodel(backbone_folders[name], name, task=task, pattern="question", training=long)
    result = run(pet, config, pet.Inputs(data=data), tmp_path / "out")
    assert result.test.accuracy == 1.0
    classifier = ModelLoader().load_submodel(tmp_path / "out")
    example = load_examples(data / "test.jsonl")[0]
    swapped = Example("swapped", {**example.fields, "first": good, "second": poor})
    logits, swapped_logits = classifier.predict([example, swapped], SILENT, "")
    assert logits == pytest.approx(swapped_logits[::-1], abs=1e-5)


@pytest.mark.parametrize("tune", ["lora", "full", "prompt"])
def test_held_out_logits_are_of_submodels_trained_on_the_other_folds(
    tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = submodel(
        backbone_folders["bert"], "bert", tune, training=PROMPT_TRAINING if tune == "prompt" else TRAINING
    )
    folds = config.model_copy(update={"num_folds": 2})
    result = run(pet, folds, pet.Inputs(data=film_data), tmp_path / "out")
    held_out = logits_of(tmp_path / "out", "held_out_logits")
    assert held_out == pytest.approx(held_out_by_hand(pet, config, pet.Inputs, film_data, num_folds=2), abs=1e-4)
    gold = [LABELS.index(item.label or "") for item in load_examples(film_data / "train.jsonl")]
    assert result.held_out_accuracy == pytest.approx((held_out.argmax(axis=1) == gold).mean())
    assert result.num_labeled == 8 and result.final_loss is not None

    plain = run(pet, config, pet.Inputs(data=film_data), tmp_path / "plain")
    assert logits_of(tmp_path / "out") == pytest.approx(logits_of(tmp_path / "plain"), abs=1e-6)
    assert result.final_loss == pytest.approx(plain.final_loss, abs=1e-6)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_submodel_stays_untrained_if_training_makes_held_out_predictions_worse(
    tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """Half of the labels are swapped, so that each fold teaches the opposite of the other."""
    train_set = [film_example(number, ("rotten", "fresh")[number % 2]) for number in range(8)]
    is_swapped = stratified_folds([number % 2 for number in range(8)], 2)
    assert is_swapped is not None
    other = {"rotten": "fresh", "fresh": "rotten"}
    write_examples(
        film_data / "train.jsonl",
        [
            replace(item, label=other[item.label or ""]) if swap else item
            for item, swap in zip(train_set, is_swapped, strict=True)
        ],
    )
    config = submodel(backbone_folders["bert"], "bert", tune, num_folds=2, training=TRAINING)
    result = run(pet, config, pet.Inputs(data=film_data), tmp_path / "out")
    untrained = submodel(backbone_folders["bert"], "bert", "none")
    expected = run(pet, untrained, pet.Inputs(data=film_data), tmp_path / "untrained")
    assert (result.final_loss, result.num_labeled) == (None, 0)
    assert result.held_out_accuracy == expected.held_out_accuracy
    for name in ("test_logits", "unlabeled_logits", "held_out_logits"):
        assert logits_of(tmp_path / "out", name) == pytest.approx(logits_of(tmp_path / "untrained", name), abs=1e-5)
    loaded = ModelLoader().load_submodel(tmp_path / "out")
    test = load_examples(film_data / "test.jsonl")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_with_one_example_per_label_nothing_is_held_out(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """Logits of the untrained model would say nothing about the trained one."""
    write_examples(film_data / "train.jsonl", film_examples(2))
    config = submodel(backbone_folders["gpt2"], num_folds=2)
    result = run(pet, config, pet.Inputs(data=film_data), tmp_path / "out")
    assert (result.num_labeled, result.held_out_accuracy) == (2, None)
    assert not (tmp_path / "out" / "held_out_logits.jsonl").exists()


def teacher(folder: Path, data: Path) -> Path:
    """Files of a sub-model of the generation before, which predicts the gold label of every unlabeled example."""
    folder.mkdir()
    rows = []
    for item in load_examples(data / "unlabeled_gold.jsonl"):
        rows.append({"uid": item.uid, "label": None, "logits": {"rotten": 0.0, "fresh": 0.0, item.label: 4.0}})
    (folder / "unlabeled_logits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps({"held_out_accuracy": 0.5}))
    return folder


def test_later_generation_trains_on_pseudo_labels(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    teachers = tuple(teacher(tmp_path / f"t{number}", film_data) for number in range(2))
    growth = GenerationConfig(generation=1, from_zero=False, scale_factor=2)
    config = submodel(backbone_folders["gpt2"], growth=growth)
    inputs = pet.Inputs(data=film_data, teachers=teachers)
    result = run(pet, config, inputs, tmp_path / "out")
    selected = load_examples(tmp_path / "out" / "pseudo_labeled.jsonl")
    gold = {item.uid: item.label for item in load_examples(film_data / "unlabeled_gold.jsonl")}
    assert all(item.label == gold[item.uid] for item in selected)
    assert [sum(item.label == label for item in selected) for label in ("rotten", "fresh")] == [4, 4]  # 8 * 2 - 8
    assert (result.num_labeled, result.num_unlabeled, result.num_pseudo_labeled) == (8, 8, 8)
    assert all(item.label is None for item in load_examples(film_data / "unlabeled.jsonl"))


def test_generation_without_labels_trains_on_pseudo_labels_only(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "train.jsonl", [])
    growth = GenerationConfig(generation=1, from_zero=True, examples_per_class=3)
    config = submodel(backbone_folders["gpt2"], growth=growth, training=TRAINING.model_copy(update={"steps": 40}))
    inputs = pet.Inputs(data=film_data, teachers=(teacher(tmp_path / "t", film_data),))
    result = run(pet, config, inputs, tmp_path / "out")
    assert (result.num_labeled, result.num_pseudo_labeled, result.held_out_accuracy) == (0, 6, None)
    assert result.test.accuracy >= 0.75


def test_early_stopping_keeps_the_best_parameters(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "dev.jsonl", film_examples(6, start=300))
    long = TrainingConfig(learning_rate=0.01, batch_size=4, steps=400, early_stopping={"eval_steps": 5, "patience": 2})
    config = submodel(backbone_folders["gpt2"], training=long)
    recorder = Kept()
    run(pet, config, pet.Inputs(data=film_data), tmp_path / "out", recorder)
    evaluations = recorder.points["dev/accuracy"]
    assert 2 < len(evaluations) < 80
    assert len(recorder.points["train/loss"]) < 400
    best = max(value for _, value in evaluations)
    classifier = ModelLoader().load_submodel(tmp_path / "out")
    assert classifier.validate(load_examples(film_data / "dev.jsonl"), SILENT).accuracy == best


def test_mlm_loss_changes_the_submodel(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    logits = []
    for name, mlm in (("without", None), ("with", {"weight": 0.5}), ("again", {"weight": 0.5})):
        config = submodel(backbone_folders["bert"], "bert", mlm=mlm)
        run(pet, config, pet.Inputs(data=film_data), tmp_path / name)
        logits.append(logits_of(tmp_path / name))
    assert (logits[1] == logits[2]).all()
    assert abs(logits[0] - logits[1]).max() > 0.01
