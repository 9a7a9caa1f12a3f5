"""The formats of prompt pretraining as cloze tasks, and as stages that run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.common.data.config import CorpusConfig, Source
from stages.common.data.split_files import load_examples
from stages.common.errors import DataError, InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoder
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining import stage as prompt_pretraining
from stages.prompt_pretraining.config import PretrainingConfig, SingleConfig
from stages.prompt_pretraining.formats import (
    LETTERS,
    check_options_fit,
    choice_task,
    corpus_requirements,
    single_task,
    task_of,
)
from tests.support.small_models import FAMILIES, backbone_config
from tests.support.stage_runs import Kept, assert_a_seed_decides, run, written

# --- tasks ----------------------------------------------------------------------------------------------------------


def test_every_format_has_its_labels_words_and_fields() -> None:
    found = {
        kind: task_of(kind, 4, {"bad": ["dull", "bad"], "good": ["good"]}) for kind in ("pair", "choice", "single")
    }
    assert found["pair"].labels == ("yes", "maybe", "no")
    assert found["choice"].labels == ("A", "B", "C", "D")
    assert found["single"].labels == ("bad", "good")
    for family in ("masked", "causal", "seq2seq"):
        assert found["choice"].words(family) == {letter: (letter,) for letter in "ABCD"}
        assert found["single"].words(family)["bad"] == ("dull", "bad")
        assert found["pair"].pattern(family).fields == ("first", "second")
        assert found["choice"].pattern(family).fields == ("query", "option_a", "option_b", "option_c", "option_d")
        assert found["single"].pattern(family).fields == ("text",)
    assert all(task.pattern("causal").ends_in_mask for task in found.values())
    assert task_of("unified", 4, {}) == found["choice"].model_copy(update={"name": "unified"})


@pytest.mark.parametrize(("kind", "most", "documents", "sentences"), [
    ("pair", 6, 2, 3), ("choice", 6, 5, 3), ("unified", 16, 15, 3), ("choice", 2, 1, 3), ("single", 6, 1, 1),
])  # fmt: skip
def test_every_option_but_two_needs_a_document(kind: Any, most: int, documents: int, sentences: int) -> None:
    assert (corpus_requirements(kind, most).documents, corpus_requirements(kind, most).sentences) == (
        documents,
        sentences,
    )


def choice(texts: Sequence[str], most: int) -> Example:
    fields = {f"option_{letter.lower()}": "" for letter in LETTERS[:most]}
    fields |= {f"option_{k.lower()}": f"{k}. {text}" for k, text in zip(LETTERS, texts, strict=False)}
    return Example("x", {"query": "The film is warm.", **fields}, "A")


@pytest.mark.parametrize("name", FAMILIES)
def test_options_that_an_example_lacks_leave_nothing_behind(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    ids = []
    for most in (2, 16):
        pattern = choice_task("unified", most).pattern(backbone.family)
        encoder = Encoder(pattern, backbone.tokenizer, backbone.family, 150, "longest")
        ids.append(encoder(choice(["it was bad.", "it was good."], most)).ids)
    assert ids[0] == ids[1]
    text = backbone.tokenizer.decode(ids[0], skip_special_tokens=True).lower()
    assert re.sub(r"\s", "", text).startswith("thefilmiswarm?a.itwasbad.b.itwasgood.thecorrectoneis")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_that_is_too_long_loses_no_option(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    encoder = Encoder(
        choice_task("choice", 6).pattern(backbone.family), backbone.tokenizer, backbone.family, 90, "longest"
    )
    long = choice(["good " * count for count in (3, 40, 40, 40, 40, 40)], 6)
    encoded = encoder(long)
    assert len(encoded.ids) == 90
    text = backbone.tokenizer.decode(encoded.ids, skip_special_tokens=True).lower()
    left = [part.count("good") for part in re.split(r"[a-f] ?\. ", text)[1:]]
    assert len(left) == 6
    assert left[0] == 3, "a short one stays whole"
    assert min(left[1:]) >= max(left[1:]) - 1 > 4


@pytest.mark.parametrize(("most", "tokens"), [(2, 28), (6, 52), (16, 112)])
def test_options_need_room(most: int, tokens: int) -> None:
    assert check_options_fit(most, tokens) is None
    with pytest.raises(
        InputError, match=f"{tokens - 1} tokens are too few for a sentence and {most} options"
    ) as caught:
        check_options_fit(most, tokens - 1)
    assert f"to {tokens} or more" in caught.value.remedy
    fewer = re.search(r"take (\d+) options at the most", caught.value.remedy)
    assert (int(fewer[1]) if fewer else 1) == most - 1
    if fewer:
        assert check_options_fit(int(fewer[1]), tokens - 1) is None


def test_a_task_of_two_labels_is_the_least() -> None:
    with pytest.raises(ValidationError):
        single_task({"good": ["good"]})


# --- stages ---------------------------------------------------------------------------------------------------------

WORDS = ("warm", "clever", "dull", "bad")
ANY = SingleConfig(verbalizer={"rotten": ["bad", "terrible"], "fresh": ["good"]}, min_confidence=0.0)


def config_of(folder: Path, path: Path, kind: str, documents: int = 8, **settings: Any) -> PretrainingConfig:
    lines = [
        " ".join(f"The {word} film number {line} was {word} again." for word in WORDS) for line in range(documents)
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    corpus = CorpusConfig(source=Source(asset=str(path)), num_examples=12, max_sentence_words=8)
    values = {"num_options": (2, 8) if kind == "unified" else (6, 6), "single": ANY, "num_held_out": 6, "seed": 2}
    values |= {"training": TrainingConfig(learning_rate=0.05, batch_size=4, steps=3), "num_virtual_tokens": 4}
    values |= {"backbone": backbone_config(folder, 100), "corpus": corpus, "format": kind}
    return PretrainingConfig(**values | settings)


@pytest.mark.parametrize("kind", ["pair", "choice", "single", "unified"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_format_trains_a_prompt_on_every_family(
    name: str, kind: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(backbone_folders[name], tmp_path / "corpus.txt", kind)
    kept = Kept()
    result = run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out", kept)
    assert (result.num_documents, result.num_examples, result.trainable_parameters) == (8, 12, 4 * 32)
    assert result.held_out.num_examples == result.held_out_before.num_examples == 6
    built = load_examples(tmp_path / "out" / "examples.jsonl")
    assert len(built) == 18
    assert {item.label for item in built} <= set(config.task.labels)
    assert all(list(item.fields) == list(config.task.fields) for item in built)
    table = kept.tables["examples"]
    assert [row["label"] for row in table] == [item.label for item in built[6:]]
    assert (tmp_path / "out" / "prompt" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("kind", ["choice", "single", "unified"])
def test_a_seed_decides_every_format(kind: str, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        config = config_of(backbone_folders["gpt2"], tmp_path / "corpus.txt", kind, seed=seed)
        run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)
    assert once(5, "once-more")["examples.jsonl"] != once(6, "one-more")["examples.jsonl"]


def test_the_pseudo_labels_are_those_of_the_backbone(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "single")
    kept = Kept()
    run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out", kept)
    table = {row["label"]: row for row in kept.tables["pseudo_labels"]}
    built = load_examples(tmp_path / "out" / "examples.jsonl")
    counts = Counter(item.label for item in built)
    assert all(table[label]["sure"] >= count for label, count in counts.items())
    assert sum(row["labelled"] for row in table.values()) == 32, "four sentences of eight documents"
    assert len({item.fields["text"] for item in built}) == 18


@pytest.mark.parametrize(
    ("kind", "documents", "problem"),
    [
        ("choice", 4, "has 4 documents of 3 different sentences or more, among 4 in all; the format choice needs 5"),
        ("unified", 6, "the format unified needs 7"),
        ("pair", 1, "the format pair needs 2"),
        ("single", 0, "has 0 documents of 1 different sentences"),
    ],
)
def test_a_corpus_that_is_too_small_is_refused_and_nothing_is_written(
    kind: str, documents: int, problem: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", kind, documents)
    with pytest.raises(DataError, match=problem) as caught:
        run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out")
    assert caught.value.remedy
    assert list((tmp_path / "out").iterdir()) == []


def test_a_corpus_without_a_long_document_is_refused(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "choice")
    (tmp_path / "corpus.txt").write_text("".join(f"This is line number {n}. It is short.\n" for n in range(57)))
    with pytest.raises(DataError, match="has 0 documents of 3 different sentences or more, among 57 in all"):
        run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"num_options": (5, 4)}, "smaller number first"), ({"num_options": (1, 4)}, "greater than or equal to 2")],
)
def test_bounds_that_are_none_are_refused(
    settings: dict[str, Any], problem: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=problem):
        config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "unified", **settings)


def test_a_window_that_is_too_small_is_refused(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "choice")
    with pytest.raises(ValidationError, match="choice needs a window of 5 documents"):
        PretrainingConfig(**config.model_dump() | {"corpus": config.corpus.model_copy(update={"window": 4})})
