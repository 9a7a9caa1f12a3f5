"""Tests of texts that occur before label words, and of paraphrases by small seq2seq models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import T5ForConditionalGeneration

from stages.common.errors import InputError
from stages.common.examples import Example, write_examples
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder
from stages.pet.pattern_search import stage as pattern_search
from stages.pet.pattern_search.config import MineConfig, ParaphraseConfig, PatternSearchConfig
from stages.pet.pattern_search.mining import find_contexts, mined_patterns
from stages.pet.pattern_search.paraphrases import Rewritten, Writer, paraphrased_patterns
from stages.pet.pattern_search.templates import Template
from tests.support.small_models import backbone_config, film_examples, film_task, small_model, t5_tokenizer
from tests.support.stage_runs import run

WORDS = {"rotten": ["bad"], "fresh": ["good", "worth seeing"]}
TEXTS = (
    "All in all it was good. Good music.",
    "I think it was bad; it was Worth seeing once, not goodness",
    "The badger said: all in all it was bad!",
)
TASK = Task(name="films", labels=("rotten", "fresh"), patterns={"a": "{text} Verdict: {mask}."}, verbalizer=WORDS)
PAIRS = {"In summary, the film is": "All in all, it was", "All in all, it was": "It is true the film is"}


def test_contexts_are_the_words_before_label_words() -> None:
    found = {item.text: dict(item.counts) for item in find_contexts(MineConfig(max_words=3, min_count=2), WORDS, TEXTS)}
    both = {"rotten": 2, "fresh": 2}
    assert found == {"was": both, "it was": both, "all it was": {"rotten": 1, "fresh": 1}}


def test_words_of_scripts_without_spaces_need_no_boundary() -> None:
    texts = ["这部电影很好。", "我觉得很差"]
    found = find_contexts(MineConfig(max_words=1, min_count=1), {"neg": ["差"], "pos": ["好"]}, texts)
    assert [(item.text, dict(item.counts)) for item in found] == [("很", {"pos": 1, "neg": 1})]


def test_mined_patterns_replace_the_text_before_the_mask() -> None:
    examples = [Example(str(row), {"text": text}) for row, text in enumerate(TEXTS)]
    start = Template.of(TASK.pattern("a"))
    settings = MineConfig(max_words=3, num_candidates=2)
    assert mined_patterns(settings, TASK, start, examples) == ["{text} it was {mask}.", "{text} was {mask}."]
    first = Template.of(TASK.with_patterns({"a": "So {mask}: {text}"}).pattern("a"))
    assert mined_patterns(settings, TASK, first, examples)[0] == "it was {mask}: {text}"
    assert mined_patterns(MineConfig(min_count=9), TASK, start, examples) == []


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that has learned to write one text for another."""
    folder, tokenizer = tmp_path_factory.mktemp("writer"), t5_tokenizer()
    torch.manual_seed(5)
    model = small_model("t5", len(tokenizer), tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    batch = tokenizer(list(PAIRS), padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = tokenizer(list(PAIRS.values()), padding=True, return_tensors="pt")["input_ids"]
    labels[labels == 0] = -100
    for _ in range(60):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_paraphrase_replaces_one_text_of_the_pattern(writer: Path) -> None:
    start = Template.of(TASK.with_patterns({"a": "{text} In summary, the film is {mask}."}).pattern("a"))
    settings = ParaphraseConfig(model=str(writer), beam_size=3, num_candidates=4)
    found = paraphrased_patterns(settings, start, NullRecorder())
    assert found[0] == "{text} All in all, it was {mask}."
    assert 1 < len(found) <= 4 and start.text not in found
    back = settings.model_copy(update={"back_translation": str(writer)})
    assert paraphrased_patterns(back, start, NullRecorder())[0] == "{text} It is true the film is {mask}."


def test_scores_are_log_likelihoods_of_the_round_trip(writer: Path) -> None:
    found = Writer(str(writer), ParaphraseConfig(model=str(writer), beam_size=2)).rewrite(
        [Rewritten("In summary, the film is", -1.5)], ""
    )
    model, tokenizer = T5ForConditionalGeneration.from_pretrained(writer), t5_tokenizer()
    inputs = tokenizer("In summary, the film is", return_tensors="pt", return_token_type_ids=False)
    labels = tokenizer(found[0].text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = model(**inputs, labels=labels).loss
    assert found[0].score == pytest.approx(-1.5 - float(loss) * labels.shape[1], abs=1e-3)


def test_a_pattern_without_words_and_another_model_raise(writer: Path, backbone_folders: dict[str, Path]) -> None:
    settings = ParaphraseConfig(model=str(writer))
    bare = Template.of(TASK.with_patterns({"a": "{text} {mask}"}).pattern("a"))
    with pytest.raises(InputError, match="no words to paraphrase"):
        paraphrased_patterns(settings, bare, NullRecorder())
    with pytest.raises(InputError, match="no seq2seq model"):
        Writer(str(backbone_folders["bert"]), settings)
    with pytest.raises(ValidationError, match="back_prefix is for back_translation"):
        ParaphraseConfig(model="x", back_prefix="back: ")


def test_stage_compares_mined_and_paraphrased_patterns(
    writer: Path, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    texts = ["It was good.", "It was bad.", "Say it was great."]
    write_examples(film_data / "unlabeled.jsonl", [Example(str(row), {"text": text}) for row, text in enumerate(texts)])
    settings: dict[str, Any] = {
        "mine": MineConfig(max_words=2), "paraphrase": ParaphraseConfig(model=str(writer), beam_size=2),
    }  # fmt: skip
    config = PatternSearchConfig(
        task=film_task("bert").only("review"), pattern="review", backbone=backbone_config(backbone_folders["bert"]),
        names=("review",), num_folds=2, **settings,
    )  # fmt: skip
    result = run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "candidates.jsonl").read_text().splitlines()]
    sources = {row["source"] for row in rows}
    assert sources == {"task", "mine", "paraphrase"} and len(rows) == result.num_candidates
    assert "Review: {text} was {mask}." in {row["pattern"] for row in rows if row["source"] == "mine"}
    assert len(film_examples(8)) == result.num_labeled
