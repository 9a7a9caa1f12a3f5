"""Tests of knowledge probing on small models that have learned a few facts, compared with plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from stages.common.errors import DataError, InputError, PatternError
from stages.common.models.backbones.loader import load_backbone
from stages.generation.examples import GenerationExample, write_examples
from stages.knowledge_probing import stage
from stages.knowledge_probing.config import FactPromptConfig, ProbingConfig, ProbingSettings
from stages.knowledge_probing.facts import Fact
from stages.knowledge_probing.model import RelationModel
from stages.knowledge_probing.relations import read_templates
from stages.knowledge_probing.templates import relation_pattern
from tests.support.small_models import TOKENIZERS, backbone_config, small_model
from tests.support.stage_runs import Kept, run

WORDS = {"film": "warm", "plot": "dull", "script": "dull", "hero": "clever", "music": "great", "food": "warm",
         "lobby": "clever", "weather": "great", "audience": "warm", "face": "dull"}  # fmt: skip
KNOWN, UNKNOWN = "The [X] is [Y].", "News: the second [X] [Y] it."
"""A template that the model has learned, and one that it has not."""
TRAINING = {"learning_rate": 0.02, "batch_size": 8, "steps": 30}


def facts(relation: str = "is", start: int = 0, stop: int = 10) -> list[Fact]:
    return [Fact(f"{relation}-{name}", name, relation, (word,)) for name, word in list(WORDS.items())[start:stop]]


def write_facts(path: Path, facts: list[Fact]) -> None:
    """Writes facts as the split stage of text generation does."""
    write_examples(path, [GenerationExample(item.uid, item.example.fields, item.answers) for item in facts])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> folder of a model that has learned the facts from `KNOWN`."""
    root = tmp_path_factory.mktemp("facts")
    for family, learning_rate, steps in (("bert", 0.005, 75), ("llama", 0.01, 40)):
        tokenizer = TOKENIZERS[family]()
        torch.manual_seed(7)
        small_model(family, len(tokenizer), tokenizer).save_pretrained(root / f"{family}-new")
        tokenizer.save_pretrained(root / f"{family}-new")
        backbone = load_backbone(backbone_config(root / f"{family}-new"), frozen=False)
        pattern = relation_pattern("is", KNOWN, FactPromptConfig(), tokenizer, backbone.family)
        relation = RelationModel(
            pattern, backbone, max_length=64, candidates="vocabulary", answers=list(WORDS.values())
        )
        items = relation.items(facts())
        optimizer = torch.optim.AdamW(backbone.model.parameters(), lr=learning_rate)
        for _ in range(steps):
            relation.loss(items).backward()
            optimizer.step()
            optimizer.zero_grad()
        backbone.model.save_pretrained(root / family)
        tokenizer.save_pretrained(root / family)
    return {family: root / family for family in ("bert", "llama")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_facts(folder / "train.jsonl", facts(stop=7))
    write_facts(folder / "test.jsonl", facts(start=7))
    return folder


def config(folder: Path, **settings: Any) -> ProbingConfig:
    return ProbingConfig(
        backbone=backbone_config(folder),
        **{"templates": {"is": KNOWN}, "prompt": FactPromptConfig(), "seed": 3, **settings},
    )


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_vectors_find_facts_that_a_strange_template_does_not(
    family: str, models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    recorder = Kept()
    known = run(stage, config(models[family]), stage.Inputs(data=data), tmp_path / "known", recorder)
    assert (known.test.accuracy, known.test.precision_at_10, known.test.num_examples) == (1.0, 1.0, 3)
    assert (known.num_labeled, known.trainable_parameters, known.num_skipped) == (0, 0, 0)
    assert recorder.tables["relations"] == [{"relation": "is", "facts": 3, "skipped": 0, "P@1": 1.0, "P@10": 1.0}]
    line = json.loads((tmp_path / "known" / stage.PREDICTIONS_FILE).read_text().splitlines()[0])
    assert (line["subject"], line["right"], line["rank"], line["answers"][0]) == ("weather", ["great"], 1, "great")
    strange = {"templates": {"is": UNKNOWN}}
    before = run(stage, config(models[family], **strange), stage.Inputs(data=data), tmp_path / "before")
    assert before.test.accuracy < 1.0
    settings = config(models[family], prompt=FactPromptConfig(method="optiprompt"), training=TRAINING, **strange)
    recorder = Kept()
    result = run(stage, settings, stage.Inputs(data=data), tmp_path / "opti", recorder)
    losses = [value for _, value in recorder.points["train/loss/is"]]
    assert losses[-1] < losses[0] - 1
    assert result.test.accuracy > before.test.accuracy, "the vectors ask for facts that they were not trained on"
    assert result.num_labeled == 7
    assert load_file(tmp_path / "opti" / stage.VECTORS_FILE)["is"].numel() == result.trainable_parameters


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        (FactPromptConfig(method="optiprompt", init="random", num_virtual_tokens=2), 2),
        (FactPromptConfig(method="p_tuning", num_virtual_tokens=1, encoder_hidden_size=16), 3),
    ],
)
def test_random_vectors_and_those_of_an_lstm_are_trained(
    prompt: FactPromptConfig, count: int, models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    recorder = Kept()
    settings = config(models["bert"], prompt=prompt, training={**TRAINING, "steps": 8})
    run(stage, settings, stage.Inputs(data=data), tmp_path / "out", recorder)
    losses = [value for _, value in recorder.points["train/loss/is"]]
    assert losses[-1] < losses[0]
    assert load_file(tmp_path / "out" / stage.VECTORS_FILE)["is"].shape == (count, 32)


def test_ranks_in_the_vocabulary_are_those_of_transformers(models: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_config(models["bert"]), frozen=True)
    pattern = relation_pattern("is", UNKNOWN, FactPromptConfig(), backbone.tokenizer, backbone.family)
    relation = RelationModel(pattern, backbone, max_length=64, candidates="vocabulary", answers=list(WORDS.values()))
    model, tokenizer = (
        AutoModelForMaskedLM.from_pretrained(models["bert"]),
        AutoTokenizer.from_pretrained(models["bert"]),
    )
    for fact, result in zip(facts(), relation.rank(facts()), strict=True):
        text = UNKNOWN.replace("[X]", fact.subject).replace("[Y]", "[MASK]")
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits[0, batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
        logits[tokenizer.all_special_ids] = -torch.inf
        gold = logits[tokenizer.convert_tokens_to_ids(fact.answers[0])]
        assert result.rank == 1 + int((logits > gold).sum())
        assert result.answers[0] == tokenizer.convert_ids_to_tokens(int(logits.argmax()))


def test_answers_of_several_tokens_are_compared_by_their_mean_likelihood(models: dict[str, Path]) -> None:
    answers = ("great music", "bad", "dull food and face")
    items = [Fact("1", "film", "is", answers[:2])]
    backbone = load_backbone(backbone_config(models["llama"]), frozen=True)
    template = "[Y] is what the [X] is."
    pattern = relation_pattern("is", "The [X] is [Y] now.", FactPromptConfig(), backbone.tokenizer, backbone.family)
    relation = RelationModel(pattern, backbone, max_length=64, candidates="relation", answers=answers)
    ranked = relation.rank(items)[0]
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(models["llama"]),
        AutoTokenizer.from_pretrained(models["llama"]),
    )
    means = {}
    for answer in answers:
        start = len(tokenizer("The film is")["input_ids"])
        count = len(tokenizer(f" {answer}", add_special_tokens=False)["input_ids"])
        ids = tokenizer(f"The film is {answer} now.", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            log_VL = model(ids).logits[0].log_softmax(dim=1)
        total = sum(float(log_VL[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))
        means[answer] = total / count
    ordered = sorted(answers, key=lambda answer: -means[answer])
    assert list(ranked.answers) == ordered
    assert ranked.rank == 1 + min(ordered.index(answer) for answer in answers[:2])
    with pytest.raises(PatternError, match="the answer before the subject"):
        backward = relation_pattern("is", template, FactPromptConfig(), backbone.tokenizer, backbone.family)
        RelationModel(backward, backbone, max_length=64, candidates="vocabulary", answers=answers)


def test_facts_without_a_single_token_are_skipped_and_counted(
    models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    more = [*facts(start=8), Fact("long", "film", "is", ("warm and dull",))]
    write_facts(data / "test.jsonl", more)
    result = run(stage, config(models["bert"]), stage.Inputs(data=data), tmp_path / "out")
    assert (result.num_skipped, result.test.num_examples) == (1, 2)
    write_facts(data / "test.jsonl", more[-1:])
    with pytest.raises(InputError, match="no test fact has an answer that is a token"):
        run(stage, config(models["bert"]), stage.Inputs(data=data), tmp_path / "none")
    prompt = {"prompt": FactPromptConfig(method="optiprompt"), "training": TRAINING}
    write_facts(data / "train.jsonl", [])
    with pytest.raises(InputError, match="'is' has no facts to train its vectors on"):
        run(stage, config(models["bert"], **prompt), stage.Inputs(data=data), tmp_path / "untrained")
    write_facts(data / "test.jsonl", facts("other"))
    with pytest.raises(DataError, match="relation 'other', which has no template"):
        run(stage, config(models["bert"]), stage.Inputs(data=data), tmp_path / "unknown")


def test_patterns_have_the_form_of_their_papers() -> None:
    tokenizer = TOKENIZERS["bert"]()

    def text(template: str, **settings: Any) -> str:
        family = settings.pop("family", "masked")
        return relation_pattern("r", template, FactPromptConfig(**settings), tokenizer, family).text

    template = "[X] was {good} in [Y] ."
    assert text(template) == "{subject} was {{good}} in {mask} ."
    assert text("[X] is in [Y] .", method="optiprompt") == "{subject} {soft:2:is in} {mask} {soft:1:.} "
    assert text("[X] is in [Y] .", method="optiprompt", family="causal") == "{subject} {soft:2:is in} {mask} ."
    assert text(template, method="optiprompt", init="random") == "{subject} {soft:5} {mask}."
    assert text(template, method="p_tuning") == "{soft:3} {subject} {soft:3} {mask} {soft:3}"
    assert text(template, method="p_tuning", family="causal") == "{soft:3} {subject} {soft:3} {mask}"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"relation": "is"}', "relations.jsonl:2: the line has no relation and template"),
        ("is: [X] [Y]", "relations.jsonl:2: the line has no relation and template"),
        ('{"relation": "is", "template": "[X] is"}', "relations.jsonl:2: the template of 'is' has 0 times [Y]"),
        ('{"relation": 1, "template": "[X] [Y]"}', "relations.jsonl:2: relation and template are not texts"),
    ],
)
def test_a_bad_line_of_relations_raises(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "relations.jsonl"
    path.write_text(json.dumps({"relation": "was", "template": "[X] was [Y]", "label": "was"}) + "\n")
    assert read_templates(ProbingSettings(relations=str(path))) == {"was": "[X] was [Y]"}
    with path.open("a") as file:
        file.write(line)
    with pytest.raises(InputError) as caught:
        read_templates(ProbingSettings(relations=str(path)))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("model", "settings", "problem"),
    [
        (ProbingSettings, {}, "either from a file or from the recipe"),
        (ProbingSettings, {"relations": "x", "templates": {"is": KNOWN}}, "either from a file or from the recipe"),
        (ProbingSettings, {"templates": {"is": "[X] [X] [Y]"}}, "has 2 times"),
        (FactPromptConfig, {"num_virtual_tokens": 3}, "no effect for template"),
        (FactPromptConfig, {"method": "optiprompt", "num_virtual_tokens": 3}, "no effect for optiprompt with init"),
        (FactPromptConfig, {"method": "p_tuning", "init": "random"}, "no effect for p_tuning"),
        (FactPromptConfig, {"method": "optiprompt", "encoder_hidden_size": 3}, "encoder_hidden_size has no effect"),
    ],
)
def test_settings_without_effect_raise(model: Any, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        model(**settings)
