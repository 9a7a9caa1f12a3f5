"""Patterns and label words that are selected."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer

from pipelines.cli.views.progress_display import preflight_progress
from pipelines.cli.views.terminal import open_output
from pipelines.init import label_words
from pipelines.init.cloze_choices import Backbone
from pipelines.init.cloze_selection import MAX_PATTERNS, Proposals, select, verbalizer_of
from pipelines.init.evidence import Candidate
from pipelines.init.interaction import Interaction
from stages.common.examples import Example
from stages.common.patterns.config import Task
from tests.support.small_models import TOKENIZERS, backbone_config, film_examples, small_model

PATTERNS = {name: f"{{text}} {name} {{mask}}." for name in ("one", "two", "three", "four")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A small masked model."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = TOKENIZERS["bert"]()
    torch.manual_seed(3)
    small_model("bert", len(tokenizer), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Backbone(backbone_config(folder), "masked", Tokenizer.from_file(str(folder / "tokenizer.json")))


def proposals(model: Backbone, *labels: str, is_pair: bool = False, **settings: object) -> Proposals:
    task = Task(name="films", labels=labels, patterns=PATTERNS)
    values = {"words": {}, "described": {}, "has_own_patterns": False} | settings
    names = label_words.words_of_names(labels, model.tokenizer, model.family)
    return Proposals(task=task, backbone=model, names=names, is_pair=is_pair, **values)  # type: ignore[arg-type]


def labeled(rotten: str, fresh: str) -> list[Example]:
    """Returns examples with other names of the labels."""
    names = {"rotten": rotten, "fresh": fresh}
    return [replace(item, label=names[item.label or ""]) for item in film_examples(32)]


def silent() -> Interaction:
    return Interaction(
        console=Console(file=io.StringIO()), ask=None, open_output=open_output, progress=preflight_progress
    )


def test_pairs_have_answers_in_every_order(model: Backbone) -> None:
    two = proposals(model, "good", "bad", is_pair=True).word_sets()
    assert two == [
        {"good": ["good"], "bad": ["bad"]}, {"good": ["Yes"], "bad": ["No"]}, {"good": ["No"], "bad": ["Yes"]}
    ]  # fmt: skip
    assert len(proposals(model, "good", "bad", "maybe", is_pair=True).word_sets()) == 7
    assert len(proposals(model, "good", "bad", "maybe", "no", is_pair=True).word_sets()) == 1
    assert len(proposals(model, "good", "bad").word_sets()) == 1, "single texts have the names only"
    assert len(proposals(model, "0", "1", is_pair=True).word_sets()) == 2, "names without words"


def test_words_of_the_user_are_the_only_ones(model: Backbone) -> None:
    words = {"good": ["great"], "bad": ["terrible"]}
    assert proposals(model, "good", "bad", is_pair=True, words=words).word_sets() == [words]


def test_words_of_descriptions_are_tried_first(model: Backbone) -> None:
    described = {"0": ["bad"], "1": ["good"]}
    both = proposals(model, "0", "1", described=described)
    assert both.word_sets() == [described]
    assert [item.words for item in both.first()] == [described] * MAX_PATTERNS
    own = {"0": ["no"], "1": ["yes"]}
    assert proposals(model, "0", "1", described=described, words=own).word_sets() == [own]


def test_first_patterns_need_words(model: Backbone) -> None:
    assert [item.pattern for item in proposals(model, "good", "bad").first()] == list(PATTERNS)[:MAX_PATTERNS]
    assert len(proposals(model, "good", "bad", has_own_patterns=True).first()) == 4
    assert proposals(model, "0", "1").first() == []


def test_words_are_searched_for_labels_without_a_word(model: Backbone) -> None:
    kept, missing = select(proposals(model, "0", "1", has_own_patterns=True), labeled("0", "1"), silent())
    assert {item.pattern for item in kept} == set(PATTERNS) and not missing
    assert all(len(words) == 10 for item in kept for words in item.words.values())


def test_at_most_three_patterns_are_kept_unless_the_user_sets_them(model: Backbone) -> None:
    named = labeled("bad", "good")
    kept, missing = select(proposals(model, "bad", "good"), named, silent())
    assert len(kept) <= MAX_PATTERNS and bool(missing) == (not kept)
    own, _ = select(proposals(model, "bad", "good", has_own_patterns=True), named, silent())
    assert len(own) == 4
    words = {"bad": ["no"], "good": ["yes"]}
    set_, missing = select(proposals(model, "bad", "good", words=words), named, silent())
    assert set_ and not missing and all(item.words == words for item in set_)


def test_verbalizer_names_patterns_only_if_their_words_differ() -> None:
    one, other = {"a": ["x"], "b": ["y"]}, {"a": ["y"], "b": ["x"]}
    same = [Candidate("first", one, 0.9, 0.1), Candidate("second", one, 0.8, 0.1)]
    assert verbalizer_of(same, ("a", "b")) == one
    different = [Candidate("first", one, 0.9, 0.1), Candidate("second", other, 0.8, 0.1)]
    assert verbalizer_of(different, ("a", "b")) == {
        "a": {"first": ["x"], "second": ["y"]}, "b": {"first": ["y"], "second": ["x"]}
    }  # fmt: skip


def test_a_text_is_read_once_per_long_word(model: Backbone) -> None:
    short = Task(name="films", labels=("a", "b"), patterns=PATTERNS, verbalizer={"a": ["good"], "b": ["bad"]})
    assert model.num_readings(short) == 1
    assert model.num_readings(short.with_words({"a": ["good"], "b": ["bad film", "no"]})) == 3
