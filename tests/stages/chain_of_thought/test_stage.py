"""Tests of the stage of chain of thought, with a small model that has learned to reason about films."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from stages.chain_of_thought import stage
from stages.chain_of_thought.answers import majority
from stages.chain_of_thought.config import ChainOfThoughtConfig
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, write_examples
from tests.support.small_models import backbone_config, film_examples, llama_tokenizer
from tests.support.stage_runs import Kept, run

QUESTION = "Q: {text}\nA:"
ANSWERS = {"rotten": ("rotten", "bad"), "fresh": ("fresh", "good")}
REASONS = {"fresh": "It was great.", "rotten": "It was terrible."}
SAMPLED = {"num_rationales": 5, "temperature": 1.5, "top_k": 20}


def rationale(item: Example) -> str:
    return f"{REASONS[str(item.label)]} The answer is {item.label}."


DEMONSTRATIONS = [{"fields": dict(item.fields), "rationale": rationale(item)} for item in film_examples(2)]


@pytest.fixture(scope="module")
def film_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that has read questions with rationales, in pairs and with the trigger of zero-shot."""
    folder, tokenizer = tmp_path_factory.mktemp("film-model"), llama_tokenizer()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    reviews, texts = film_examples(48), []
    for first, second in zip(reviews[::2], reviews[1::2], strict=True):
        texts.append(f"Q: {first.fields['text']}\nA: Let's think step by step. {rationale(first)}")
        pair = (second, first)
        texts.append("\n\n".join(f"Q: {item.fields['text']}\nA: {rationale(item)}" for item in pair))
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(80):
        rows = torch.arange(12) + 12 * (step % 4)
        model(
            input_ids=encoded["input_ids"][rows], attention_mask=encoded["attention_mask"][rows], labels=labels[rows]
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(folder: Path, **settings: Any) -> ChainOfThoughtConfig:
    values = {"question": QUESTION, "answers": ANSWERS, "max_rationale_tokens": 24, "max_answer_tokens": 12, **settings}
    return ChainOfThoughtConfig(labels=("rotten", "fresh"), backbone=backbone_config(folder), **values)


def few_shot(folder: Path, **settings: Any) -> ChainOfThoughtConfig:
    return config(folder, demonstrations=DEMONSTRATIONS, num_demonstrations=2, **settings)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rationales.jsonl").read_text(encoding="utf-8").splitlines()]


def test_zero_shot_answers_in_a_pass_of_its_own(film_model: Path, film_data: Path, tmp_path: Path) -> None:
    kept = Kept()
    result = run(stage, config(film_model), stage.Inputs(data=film_data), tmp_path / "out", kept)
    rows, test_set = rows_of(tmp_path / "out"), load_examples(film_data / "test.jsonl")
    assert [(row["uid"], row["fields"]) for row in rows] == [(item.uid, dict(item.fields)) for item in test_set]
    assert all(len(row["rationales"]) == 1 and row["rationales"][0]["completion"] is not None for row in rows)
    right = [row["label"] == item.label for row, item in zip(rows, test_set, strict=True)]
    assert result.test.accuracy == pytest.approx(sum(right) / 12, abs=1e-6)
    assert result.num_unanswered == sum(row["label"] is None for row in rows)
    assert (result.num_labeled, result.trainable_parameters, result.num_rationales) == (0, 0, 12)
    assert result.num_unanswered < 12, "the model has learned to answer"
    assert kept.metrics["test/unanswered"] == pytest.approx(result.num_unanswered / 12)
    assert len(kept.tables["answers"]) == 12


def test_few_shot_answers_are_extracted_from_rationales(film_model: Path, film_data: Path, tmp_path: Path) -> None:
    result = run(stage, few_shot(film_model), stage.Inputs(data=film_data), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert all(row["rationales"][0]["completion"] is None for row in rows)
    assert all("\n\n" not in row["rationales"][0]["text"] for row in rows), "the next question is no rationale"
    assert all("The answer is" in item["text"] for row in rows for item in row["rationales"] if item["answer"]["label"])
    assert (result.num_labeled, result.demonstrations_per_text) == (2, 2.0)
    assert result.num_unanswered < 12


def test_self_consistency_takes_the_majority(film_model: Path, film_data: Path, tmp_path: Path) -> None:
    result = run(stage, few_shot(film_model, **SAMPLED), stage.Inputs(data=film_data), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    for row in rows:
        decision = majority([item["answer"]["label"] for item in row["rationales"]])
        assert (row["label"], row["votes"], row["is_tie"]) == (decision.label, dict(decision.votes), decision.is_tie)
    assert result.num_rationales == 60
    assert result.num_ties == sum(row["is_tie"] for row in rows)
    assert any(len({item["text"] for item in row["rationales"]}) > 1 for row in rows), "rationales differ"


def test_equal_seeds_write_equal_bytes_whatever_the_batch(film_model: Path, film_data: Path, tmp_path: Path) -> None:
    written = {}
    for name, seed, eval_batch_tokens in (("first", 5, None), ("again", 5, 64), ("other", 6, None)):
        settings = config(film_model, seed=seed, **SAMPLED)
        backbone = settings.backbone.model_copy(update={"eval_batch_tokens": eval_batch_tokens})
        run(stage, settings.model_copy(update={"backbone": backbone}), stage.Inputs(data=film_data), tmp_path / name)
        written[name] = (tmp_path / name / "rationales.jsonl").read_bytes()
    assert written["first"] == written["again"] != written["other"]


def test_labels_of_the_test_set_change_only_the_scores(film_model: Path, film_data: Path, tmp_path: Path) -> None:
    test_set = load_examples(film_data / "test.jsonl")
    own = [item.label for item in test_set]
    results, written = {}, {}
    for name, labels in (("own", own), ("shuffled", own[1:] + own[:1]), ("equal", ["fresh"] * len(own))):
        changed = [Example(item.uid, item.fields, label) for item, label in zip(test_set, labels, strict=True)]
        write_examples(film_data / "test.jsonl", changed)
        results[name] = run(stage, few_shot(film_model, **SAMPLED), stage.Inputs(data=film_data), tmp_path / name)
        written[name] = (tmp_path / name / "rationales.jsonl").read_bytes()
    assert written["own"] == written["shuffled"] == written["equal"]
    assert results["own"].test != results["equal"].test


def test_answers_that_cannot_be_extracted_are_counted_and_wrong(
    film_model: Path, film_data: Path, tmp_path: Path
) -> None:
    kept = Kept()
    settings = few_shot(film_model, answer_pattern="nowhere (?P<answer>x)")
    result = run(stage, settings, stage.Inputs(data=film_data), tmp_path / "out", kept)
    assert (result.num_unanswered, result.test.accuracy, kept.metrics["test/unanswered"]) == (12, 0.0, 1.0)
    assert {row["label"] for row in rows_of(tmp_path / "out")} == {None}


def test_a_text_is_not_its_own_demonstration(film_model: Path, film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "test.jsonl", film_examples(4))
    result = run(stage, few_shot(film_model), stage.Inputs(data=film_data), tmp_path / "out")
    assert result.demonstrations_per_text == 1.5, "two of four texts are demonstrations"


def test_demonstrations_that_do_not_fit_are_left_out(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    folder, tokenizer = backbone_folders["llama"], llama_tokenizer()
    texts = [f"Q: {item['fields']['text']}\nA: {item['rationale']}\n\n" for item in DEMONSTRATIONS]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    room = max(lengths) + 4
    assert room < sum(lengths), "one demonstration fits"
    settings = few_shot(folder, max_rationale_tokens=160 - 64 - room)
    result = run(stage, settings, stage.Inputs(data=film_data), tmp_path / "out")
    assert result.demonstrations_per_text == 1.0
    with pytest.raises(InputError, match="more than the 160 positions") as caught:
        run(stage, few_shot(folder, max_rationale_tokens=95), stage.Inputs(data=film_data), tmp_path / "long")
    assert caught.value.key == "max_rationale_tokens"


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_other_families_are_rejected(
    family: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="needs a causal model") as caught:
        run(stage, config(backbone_folders[family]), stage.Inputs(data=film_data), tmp_path / "out")
    assert caught.value.key == "backbone.asset"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_rationales": 3}, "without sampling all are equal"),
        ({"top_k": 3}, "top_k is for sampling"),
        ({"top_p": 0.5}, "top_p is for sampling"),
        ({"stop": [""]}, "an empty text ends every rationale"),
        ({"answer_pattern": "(fresh)"}, "has no group 'answer'"),
        ({"answer_pattern": "(?P<answer>"}, "is not a regular expression"),
        ({"question": "Q: {text} {mask}"}, "a question has no {mask}"),
        ({"question": "Q:"}, "has no field"),
        ({"question": "{text} {soft:3}"}, "a question has no {sep}"),
        ({"question": "{text} {option}"}, "a question has no {sep}"),
        ({"demonstrations": [{"fields": {"body": "x"}, "rationale": "y"}]}, "but the question reads"),
    ],
)
def test_bad_settings_are_rejected(settings: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        config(tmp_path, **settings)
    assert problem in str(caught.value)
