"""The PET stage on small real models: what a sub-model learns, writes and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages.common.data.split_files import load_examples, write_examples
from stages.common.examples import Example
from stages.common.models.backbones import loader as residents
from stages.common.models.backbones.loader import _resident, borrow_backbone, load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.config import Task
from stages.common.prompts.loader import load_submodel
from stages.common.training.config import TrainingConfig
from stages.pet import stage as pattern_training
from stages.pet.config import GenerationConfig, PetConfig
from tests.support.small_models import FAMILIES, backbone_config, film_example, film_examples, film_task
from tests.support.stage_runs import SILENT, Kept, assert_a_seed_decides, logits_of, run, written

LOOP = TrainingConfig(learning_rate=0.01, batch_size=4, steps=16, lr_scheduler="constant", weight_decay=0.0)


def submodel(folder: Path, name: str = "gpt2", tune: str = "lora", **settings: Any) -> PetConfig:
    loop = None if tune == "none" else LOOP
    values = {"pattern": "review", "training": loop, "seed": 1, "task": film_task(name)} | settings
    return PetConfig(backbone=backbone_config(folder), tune=tune, **values)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tune", ["full", "lora", "none"])
def test_a_submodel_learns_and_is_loaded_as_it_was(
    name: str, tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    long = TrainingConfig(learning_rate=0.005, batch_size=4, steps=80, weight_decay=0.0)
    config = submodel(backbone_folders[name], name, tune, training=None if tune == "none" else long)
    result = run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / "out")
    test = load_examples(film_data / "test.jsonl")
    train = load_examples(film_data / "train.jsonl")
    with load_submodel(tmp_path / "out", config.task, config.backbone) as classifier:
        assert classifier.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)
        after, _ = classifier.evaluate(train, SILENT, "")
    untrained = ClozeClassifier.of(config.task, "review", load_backbone(config.backbone, frozen=True), config.backbone)
    before, _ = untrained.evaluate(train, SILENT, "")
    assert result.train_accuracy_before_training == before.accuracy
    assert result.test.num_examples == 12
    if tune == "none":
        assert (result.final_loss, result.trainable_parameters, result.num_labeled) == (None, 0, 0)
        assert after == before
        return
    assert result.num_labeled == 8
    assert after.accuracy == 1.0
    assert result.final_loss < 0.65
    everything = sum(weight.numel() for weight in untrained.backbone.model.parameters())
    assert (result.trainable_parameters == everything) is (tune == "full")


PROMPT_LOOP = TrainingConfig(learning_rate=0.05, batch_size=4, steps=24, lr_scheduler="constant", weight_decay=0.0)


@pytest.mark.parametrize("text", ["Review: {text}\nSentiment:{mask}", "{text}{soft:2}{soft:2:the film}{mask}"])
def test_a_submodel_may_be_a_prompt(
    text: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """Before the text, and in blocks at its end, which train over the kept cache of the text."""
    task = film_task("gpt2").only("review").model_copy(update={"patterns": {"review": text}})
    config = submodel(
        backbone_folders["gpt2"], tune="prompt", task=task, training=PROMPT_LOOP, prompt={"num_virtual_tokens": 4}
    )
    result = run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / "out")
    assert result.trainable_parameters == 4 * 32
    assert result.final_loss < 0.65
    test = load_examples(film_data / "test.jsonl")
    with load_submodel(tmp_path / "out", task, config.backbone) as classifier:
        assert classifier.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_a_submodels_prompt_follows_its_curriculum(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    text = "{text}{soft:2}{soft:2:the film}{mask}"
    task = film_task("gpt2").only("review").model_copy(update={"patterns": {"review": text}})
    found = {}
    for steps in (0, 24):
        prompt = {"hard_prompt_steps": steps}
        config = submodel(backbone_folders["gpt2"], tune="prompt", task=task, training=PROMPT_LOOP, prompt=prompt)
        run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / str(steps))
        found[steps] = load_file(tmp_path / str(steps) / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]
    backbone = load_backbone(config.backbone, frozen=True)
    ids = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
    words = backbone.model.get_input_embeddings().weight[[ids[0], ids[1 % len(ids)]]]
    assert torch.equal(found[24][2:], words), "held to the end"
    assert not torch.equal(found[0][2:], words)


def test_an_adapter_is_a_fraction_of_the_backbone(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    sizes = {}
    for tune in ("full", "lora", "none"):
        config = submodel(backbone_folders["llama"], "llama", tune, lora={"rank": 1})
        run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / tune)
        sizes[tune] = sum(path.stat().st_size for path in (tmp_path / tune).rglob("*.safetensors"))
    assert sizes["none"] == 0 < sizes["lora"] < sizes["full"] / 5


def test_lora_targets_choose_the_adapted_layers(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = submodel(backbone_folders["llama"], "llama", lora={"rank": 2, "targets": ["q_proj", "v_proj"]})
    result = run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / "out")
    names = set(load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors"))
    assert len(names) == 2 * 2 * 2, "two layers, two targets, A and B"
    assert all("q_proj" in name or "v_proj" in name for name in names)
    assert result.trainable_parameters == 2 * ((32 * 2 + 2 * 32) + (32 * 2 + 2 * 16))


def test_training_a_submodel_leaves_the_backbone_on_disk_alone(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()}
    config = submodel(backbone_folders["bert"], "bert", "full")
    run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in backbone_folders["bert"].iterdir()} == before


@pytest.mark.parametrize(("tune", "training"), [("none", LOOP), ("lora", None)])
def test_a_loop_belongs_to_what_is_trained(tune: str, training: TrainingConfig | None) -> None:
    with pytest.raises(ValueError, match="tune: none takes no loop"):
        submodel(Path("x"), tune=tune, training=training)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_seed_decides_everything(
    tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        short = TrainingConfig(learning_rate=0.01, batch_size=3, steps=3)
        config = submodel(backbone_folders["bert"], "bert", tune, seed=seed, training=short)
        run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


# --- the resident backbone ----------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backbones that were loaded from disk, in order; nothing is resident at first."""
    found: list[str] = []

    def counted(config: Any, **settings: Any) -> Any:
        found.append(Path(config.asset).name)
        return load_backbone(config, **settings)

    monkeypatch.setattr(residents, "load_backbone", counted)
    _resident.clear()
    return found


def test_submodels_of_one_backbone_share_it(
    loads: list[str], backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """Adapters come and go; the weights below stay as they were, and results do not depend on what ran before."""
    order = [("review", 1), ("summary", 1), ("review", 2), ("review", 1)]
    for number, (pattern, seed) in enumerate(order):
        config = submodel(backbone_folders["llama"], "llama", pattern=pattern, seed=seed)
        run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / str(number))
    assert loads == ["llama"]
    first, _, other, again = (logits_of(tmp_path / str(number)) for number in range(4))
    assert (first == again).all()
    assert abs(first - other).max() > 0.01
    with borrow_backbone(config.backbone) as backbone:
        plain = load_backbone(config.backbone, frozen=True)
        assert backbone.model.state_dict().keys() == plain.model.state_dict().keys()
        for name, weight in plain.model.state_dict().items():
            assert torch.equal(weight, backbone.model.state_dict()[name]), name
        assert not any(item.requires_grad for item in backbone.model.parameters())


def test_another_backbone_takes_the_place_of_the_first(loads: list[str], backbone_folders: dict[str, Path]) -> None:
    for name in ("llama", "gpt2", "gpt2", "llama"):
        with borrow_backbone(backbone_config(backbone_folders[name])):
            assert len(_resident) == 0
        assert len(_resident) == 1
    assert loads == ["llama", "gpt2", "llama"]


def test_a_backbone_is_loaded_anew_after_an_error(loads: list[str], backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(ZeroDivisionError), borrow_backbone(backbone_config(backbone_folders["gpt2"])):
        raise ZeroDivisionError
    with borrow_backbone(backbone_config(backbone_folders["gpt2"])):
        pass
    assert loads == ["gpt2", "gpt2"]


# --- words of several tokens, multiple choice, demonstrations -----------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_words_of_several_tokens_are_learnt_with_the_hinge(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    task = film_task(name).only("review").with_words({"rotten": ["badly"], "fresh": ["greatly", "good"]})
    long = TrainingConfig(learning_rate=0.01, batch_size=4, steps=100, weight_decay=0.0)
    config = submodel(backbone_folders[name], name, "full", task=task, training=long)
    result = run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / "out")
    assert result.final_loss is not None
    assert result.final_loss < 0.5, "right labels are likelier by nearly a factor of sqrt(e)"
    with load_submodel(tmp_path / "out", task, config.backbone) as classifier:
        train, _ = classifier.evaluate(load_examples(film_data / "train.jsonl"), SILENT, "")
    assert train.accuracy == 1.0


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_multiple_choice_asks_of_each_option_whether_it_is_right(
    name: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    """The second option is right where it says that the film was great."""
    end = "{mask}" if name == "gpt2" else "{mask}."
    task = Task(
        name="choice",
        labels=("1", "2"),
        options={"1": "first", "2": "second"},
        patterns={"asked": "{text} {option} Is it true? " + end},
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
    config = submodel(backbone_folders[name], name, task=task, pattern="asked", training=long)
    result = run(pattern_training, config, pattern_training.Inputs(data=data), tmp_path / "out")
    assert result.test.accuracy == 1.0
    with load_submodel(tmp_path / "out", task, config.backbone) as classifier:
        example = load_examples(data / "test.jsonl")[0]
        swapped = Example("swapped", {**example.fields, "first": good, "second": poor})
        there, back = classifier.predict([example, swapped], SILENT, "")
    assert there == pytest.approx(back[::-1], abs=1e-5), "an option's score does not depend on its place"


def test_demonstrations_count_as_labelled_examples(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    plain = submodel(backbone_folders["llama"], "llama", "none", label_unlabeled=False)
    primed = submodel(backbone_folders["llama"], "llama", "none", label_unlabeled=False, shots=2)
    for name, config in (("plain", plain), ("primed", primed)):
        result = run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / name)
        assert result.num_labeled == (4 if name == "primed" else 0)
        assert not (tmp_path / name / "unlabeled_logits.jsonl").exists()
    assert abs(logits_of(tmp_path / "plain") - logits_of(tmp_path / "primed")).max() > 0.01


# --- generations --------------------------------------------------------------------------------------------------


def teacher(folder: Path, data: Path, sure_of: str) -> Path:
    """A sub-model of the generation before that gives every text of the pile its gold label, or always `sure_of`."""
    folder.mkdir()
    rows = []
    for item in load_examples(data / "unlabeled_gold.jsonl"):
        label = item.label if sure_of == "gold" else sure_of
        rows.append({"uid": item.uid, "label": None, "logits": {"rotten": 0.0, "fresh": 0.0, label: 4.0}})
    (folder / "unlabeled_logits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps({"train_accuracy_before_training": 0.5}))
    return folder


def test_a_later_generation_learns_from_what_others_labelled(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    teachers = tuple(teacher(tmp_path / f"t{number}", film_data, "gold") for number in range(2))
    growth = GenerationConfig(generation=1, from_zero=False, scale_factor=2)
    config = submodel(backbone_folders["gpt2"], growth=growth)
    inputs = pattern_training.Inputs(data=film_data, teachers=teachers)
    result = run(pattern_training, config, inputs, tmp_path / "out")
    drawn = load_examples(tmp_path / "out" / "pseudo_labeled.jsonl")
    gold = {item.uid: item.label for item in load_examples(film_data / "unlabeled_gold.jsonl")}
    assert all(item.label == gold[item.uid] for item in drawn)
    assert [sum(item.label == label for item in drawn) for label in ("rotten", "fresh")] == [4, 4], "8 times 2, less 8"
    assert (result.num_labeled, result.num_unlabeled, result.num_pseudo_labeled) == (8, 8, 8)
    assert all(item.label is None for item in load_examples(film_data / "unlabeled.jsonl"))


def test_without_labels_a_generation_learns_from_others_alone(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "train.jsonl", [])
    growth = GenerationConfig(generation=1, from_zero=True, examples_per_class=3)
    config = submodel(backbone_folders["gpt2"], growth=growth, training=LOOP.model_copy(update={"steps": 40}))
    inputs = pattern_training.Inputs(data=film_data, teachers=(teacher(tmp_path / "t", film_data, "gold"),))
    result = run(pattern_training, config, inputs, tmp_path / "out")
    assert (result.num_labeled, result.num_pseudo_labeled, result.train_accuracy_before_training) == (0, 6, 0.0)
    assert result.test.accuracy >= 0.75, "three texts a class teach what the others knew"


# --- early stopping and the auxiliary loss ------------------------------------------------------------------------


def test_a_dev_set_stops_the_training(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "dev.jsonl", film_examples(6, start=300))
    long = TrainingConfig(learning_rate=0.01, batch_size=4, steps=400, early_stopping={"eval_steps": 5, "patience": 2})
    config = submodel(backbone_folders["gpt2"], training=long)
    recorder = Kept()
    run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / "out", recorder)
    looks = recorder.points["dev/accuracy"]
    assert 2 < len(looks) < 80
    assert len(recorder.points["train/loss"]) < 400
    best = max(value for _, value in looks)
    with load_submodel(tmp_path / "out", config.task, config.backbone) as classifier:
        accuracy, _ = classifier.validate(load_examples(film_data / "dev.jsonl"), SILENT)
    assert accuracy == best, "the best parameters are the ones that are kept"


def test_the_auxiliary_loss_changes_what_is_learnt(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    found = []
    for name, mlm in (("without", None), ("with", {"weight": 0.5}), ("again", {"weight": 0.5})):
        config = submodel(backbone_folders["bert"], "bert", mlm=mlm)
        run(pattern_training, config, pattern_training.Inputs(data=film_data), tmp_path / name)
        found.append(logits_of(tmp_path / name))
    assert (found[1] == found[2]).all()
    assert abs(found[0] - found[1]).max() > 0.01
