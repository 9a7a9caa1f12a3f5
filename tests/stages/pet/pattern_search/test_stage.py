"""Tests of the pattern search: gradients, scores, the choice by cross-validation, and the stage."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.common.engine import InProcessEngine
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.models.averaging import Scaling, cross_entropies
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.search_results import found_patterns, searched_task
from stages.common.protocols import NullRecorder
from stages.common.training.cross_validation import stratified_folds
from stages.common.training.untrained_scores import HeldOutScore
from stages.pet import stage as pet
from stages.pet.config import PetConfig
from stages.pet.pattern_search import stage as pattern_search
from stages.pet.pattern_search.config import EditConfig, GradientConfig, PatternSearchConfig
from stages.pet.pattern_search.edits import search_edits
from stages.pet.pattern_search.scorer import PatternScorer
from stages.pet.pattern_search.stage import FROM_TASK, find_candidates, sample_per_label
from stages.pet.pattern_search.templates import Template
from stages.pet.pattern_search.triggers import TriggerVectors, candidate_words, search_triggers, trigger_gradient
from tests.support.small_models import backbone_config, film_example, film_examples, film_task
from tests.support.stage_runs import LABELS, Kept, logits_of, run

EDIT = EditConfig(num_rounds=2, num_candidates=4, phrases=("In summary,", "it was"))
GRADIENT = GradientConfig(num_words=2, num_candidates=4, num_steps=2)


def search(folder: Path, name: str, **settings: Any) -> PatternSearchConfig:
    values = {"names": ("review",), "num_folds": 2, "edit": EDIT, "gradient": GRADIENT} | settings
    task = film_task(name).only("review")
    return PatternSearchConfig(task=task, pattern="review", backbone=backbone_config(folder), **values)


def scorer_of(backbone: Backbone, folder: Path, name: str, **settings: Any) -> PatternScorer:
    config = search(folder, name, **settings)
    return PatternScorer(config, backbone, film_examples(8), NullRecorder(), InProcessEngine())


def start_of(scorer: PatternScorer) -> Template:
    return Template.of(scorer.config.task.pattern("review"))


ROWS = np.arange(8)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_triggers_lower_the_loss_step_by_step(
    name: str, backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    scorer = scorer_of(backbones[name], backbone_folders[name], name)
    words = candidate_words(scorer)
    path = search_triggers(start_of(scorer), scorer, ROWS, GRADIENT, words)
    losses = [scorer.loss(text, ROWS) for text in path]
    assert len(path) > 1, "the search finds better words"
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert not {"bad", "terrible", "good", "great"} & set(words), "no label words"
    gap = start_of(scorer).mask_gap
    for text in path:
        task = scorer.config.task.with_patterns({"review": text})
        triggers = Template.of(task.pattern("review")).gaps[gap].split()[:2]
        assert set(triggers) <= set(words)
        classifier = ClozeClassifier.of(task, "review", backbones[name], scorer.config.backbone)
        logits = classifier.predict(scorer.examples, NullRecorder(), "")
        assert scorer.loss(text, ROWS) == pytest.approx(cross_entropies(logits, scorer.gold).mean())


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_gradient_is_that_of_the_text_with_the_triggers(
    name: str, backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    """Vectors in the place of the triggers have the loss of the text, and differences of it match the gradient."""
    scorer = scorer_of(backbones[name], backbone_folders[name], name)
    start, words = start_of(scorer), candidate_words(scorer)
    triggers = list(words)[5:7]
    ids = [words[word] for word in triggers]
    with torch.no_grad():
        vectors = backbones[name].model.get_input_embeddings()(torch.tensor(ids))
    task = scorer.config.task.with_patterns({"review": start.soft_text(2)})

    def compute_loss(vectors_MD: torch.Tensor) -> float:
        classifier = ClozeClassifier.of(
            task, "review", backbones[name], scorer.config.backbone, TriggerVectors(vectors_MD)
        )
        return float(cross_entropies(classifier.predict(scorer.examples, NullRecorder(), ""), scorer.gold)[:5].mean())

    assert compute_loss(vectors) == pytest.approx(scorer.loss(start.before_mask(triggers).text, ROWS[:5]), rel=1e-4)
    gradient = trigger_gradient(start, ids, scorer, ROWS[:5])
    direction = torch.nn.functional.normalize(torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0)))
    step = 1e-2 * direction
    estimate = (compute_loss(vectors + step) - compute_loss(vectors - step)) / 2
    assert float((gradient * step).sum()) == pytest.approx(estimate, rel=0.05, abs=2e-5)
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_edits_never_end_in_a_worse_pattern(
    name: str, backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    scorer = scorer_of(backbones[name], backbone_folders[name], name)
    tried = search_edits(start_of(scorer), scorer, ROWS, EDIT, random.Random(0))
    assert len(set(tried)) == len(tried) > 2
    assert tried[0] == start_of(scorer).text
    assert min(scorer.score(text, ROWS).rank for text in tried) <= scorer.score(tried[0], ROWS).rank


def test_edits_stop_without_a_better_pattern(
    backbones: dict[str, Backbone], backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_of(backbones["bert"], backbone_folders["bert"], "bert")
    monkeypatch.setattr(PatternScorer, "score", lambda *_: HeldOutScore(0.5, 0.7))
    settings = EDIT.model_copy(update={"num_rounds": 100, "patience": 2})
    assert len(search_edits(start_of(scorer), scorer, ROWS, settings, random.Random(0))) <= 1 + 2 * 4


def test_scores_use_only_the_given_rows(backbones: dict[str, Backbone], backbone_folders: dict[str, Path]) -> None:
    scorer = scorer_of(backbones["bert"], backbone_folders["bert"], "bert")
    text, rows = start_of(scorer).text, np.array([0, 1, 2, 3])
    before = scorer.score(text, rows), scorer.loss(text, rows)
    scorer.gold = np.where(np.arange(8) < 4, scorer.gold, 1 - scorer.gold)
    assert (scorer.score(text, rows), scorer.loss(text, rows)) == before
    assert scorer.loss(text, np.arange(4, 8)) != before[1]


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_stage_selects_by_cross_validation(
    name: str, backbones: dict[str, Backbone], backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config, recorder = search(backbone_folders[name], name), Kept()
    result = run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out", recorder)
    examples = load_examples(film_data / "train.jsonl")
    scorer = PatternScorer(config, backbones[name], examples, NullRecorder(), InProcessEngine())
    words, start = candidate_words(scorer), start_of(scorer)
    folds = stratified_folds(scorer.gold.tolist(), 2)
    assert folds is not None
    logits = np.zeros((8, 2))
    for fold in range(2):
        fitted = np.flatnonzero(folds != fold)
        of_best = scorer.logits(find_candidates(start, scorer, fitted, words)[0].text)
        scaling = Scaling.fit(of_best[fitted], scorer.gold[fitted], has_bias=True)
        logits[folds == fold] = scaling(of_best[folds == fold])
    expected = HeldOutScore.of(logits, scorer.gold)
    assert (result.held_out.accuracy, result.held_out.loss) == pytest.approx((expected.accuracy, expected.loss))
    before = scorer.score(start.text, ROWS)
    assert (result.before.accuracy, result.before.loss) == pytest.approx((before.accuracy, before.loss))
    assert result.is_better == (result.held_out.loss < result.before.loss)
    rows = [json.loads(line) for line in (tmp_path / "out" / "candidates.jsonl").read_text().splitlines()]
    assert recorder.tables["candidates"] == rows
    assert len(rows) == result.num_candidates > 5
    assert {row["source"] for row in rows} == {FROM_TASK, "edit", "gradient"}
    assert [(-row["accuracy"], row["loss"]) for row in rows] == sorted((-row["accuracy"], row["loss"]) for row in rows)
    assert found_patterns(tmp_path / "out") == result.patterns
    assert result.patterns["review"] == (rows[0]["pattern"] if result.is_better else start.text)


@pytest.mark.parametrize("held_out", [0.1, 9.0])
def test_pattern_of_the_task_stays_if_the_search_is_not_better(
    held_out: float,
    backbone_folders: dict[str, Path],
    film_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pattern_search, "_held_out_score", lambda *_: HeldOutScore(0.5, held_out))
    config = search(backbone_folders["roberta"], "roberta", names=("review", "second"), gradient=None)
    result = run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")
    rows = [json.loads(line)["pattern"] for line in (tmp_path / "out" / "candidates.jsonl").read_text().splitlines()]
    original = config.task.patterns["review"]
    if held_out < 1:
        assert list(result.patterns.values()) == rows[:2]
    else:
        assert result.patterns == {"review": original, "second": next(row for row in rows if row != original)}


def test_test_labels_do_not_change_the_result(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = search(backbone_folders["llama"], "llama")
    run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "one")
    for name in ("test", "unlabeled_gold"):
        examples = load_examples(film_data / f"{name}.jsonl")
        shuffled = [replace(item, label=LABELS[1 - LABELS.index(str(item.label))]) for item in examples]
        write_examples(film_data / f"{name}.jsonl", shuffled)
    run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["candidates.jsonl", "patterns.json", "result.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    write_examples(film_data / "train.jsonl", film_examples(8, start=40))
    run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "three")
    assert (tmp_path / "one" / "result.json").read_bytes() != (tmp_path / "three" / "result.json").read_bytes()


def test_submodels_read_the_found_pattern(
    backbones: dict[str, Backbone], backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    found, text = tmp_path / "found", "It was {mask}: {text}"
    found.mkdir()
    (found / "patterns.json").write_text(json.dumps({"review": text, "other": "{text} {mask}"}))
    task = film_task("bert").only("review")
    settings = {"task": task, "pattern": "review", "backbone": backbone_config(backbone_folders["bert"])}
    config = PetConfig(**settings, tune="none", label_unlabeled=False)
    run(pet, config, pet.Inputs(data=film_data, pattern_search=found), tmp_path / "out")
    changed = searched_task(task, verbalizer=None, pattern_search=found)
    assert changed.patterns == {"review": text}
    classifier = ClozeClassifier.of(changed, "review", backbones["bert"], config.backbone)
    expected = classifier.predict(load_examples(film_data / "test.jsonl"), NullRecorder(), "")
    np.testing.assert_allclose(logits_of(tmp_path / "out"), expected, atol=1e-4)


def test_sample_has_labels_as_evenly_as_possible() -> None:
    examples = [film_example(number, "fresh" if number % 5 else "rotten") for number in range(40)]
    sample = sample_per_label(examples, 10, random.Random(0))
    assert [item.label for item in sample].count("rotten") == 5
    assert sample == sorted(sample, key=examples.index)
    assert sample_per_label(examples, 40, random.Random(0)) == examples
    assert len(sample_per_label(examples, 39, random.Random(0))) == 39


def test_number_of_examples_is_limited(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "train.jsonl", film_examples(12))
    config = search(backbone_folders["bert"], "bert", max_examples=6, gradient=None)
    result = run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")
    assert result.num_labeled == 6


@contextmanager
def error(problem: str, key: str = "pattern_search") -> Iterator[None]:
    with pytest.raises(InputError, match=problem) as caught:
        yield
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("examples", "problem"),
    [
        (film_examples(1), "the label 'fresh' has none"),
        (film_examples(2), "needs two labeled examples of a label"),
        ([replace(item, group="one") for item in film_examples(8)], "that do not belong together"),
    ],
)
def test_examples_that_cannot_be_held_out_raise(
    examples: list[Example], problem: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "train.jsonl", examples)
    config = search(backbone_folders["bert"], "bert")
    with error(problem):
        run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")


def test_more_names_than_candidates_raise(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    names = tuple(f"p{number}" for number in range(50))
    config = search(backbone_folders["bert"], "bert", names=names)
    with error("50 patterns start from the same text"):
        run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")


def test_patterns_without_space_for_texts_are_no_candidates(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    long = EditConfig(num_rounds=2, num_candidates=4, phrases=("the film " * 70,))
    config = search(backbone_folders["bert"], "bert", edit=long, gradient=None)
    run(pattern_search, config, pattern_search.Inputs(data=film_data), tmp_path / "out")
    rows = [json.loads(line)["pattern"] for line in (tmp_path / "out" / "candidates.jsonl").read_text().splitlines()]
    assert rows
    assert not any("the film the film" in row for row in rows)


def test_search_without_a_method_raises(backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="nothing proposes patterns"):
        search(backbone_folders["bert"], "bert", edit=None, gradient=None)
