"""Token labels and answer spans: windows, scores, files, and what reads them on every family of backbones."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import PromptConfig, check_fits_token_level
from stages.common.prompts.initialization import new_prompt
from stages.common.seeds import python_rng
from stages.common.training.config import EarlyStopping, TrainingConfig
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask
from stages.token_level.examples import Answer, Question, TaggedText, write_examples
from stages.token_level.loader import load_token_level_model
from stages.token_level.metrics import entities, entity_table, squad_scores, token_classification_scores
from stages.token_level.question_answering import NOWHERE, SpanExtractor
from stages.token_level.token_classification import TokenClassifier
from stages.token_level.tuning import stage as annotation_tuning
from stages.token_level.tuning.config import TokenLevelTuningConfig
from stages.token_level.windows import Windows
from tests.support.small_models import FAMILIES, backbone_config
from tests.support.stage_runs import SILENT, Kept, assert_a_seed_decides, run, written

ENTITIES = TokenClassificationTask(name="things", labels=("O", "B-WORK", "I-WORK", "B-WHO"))
ANSWERS = QuestionAnsweringTask(name="answers", max_answer_tokens=6, overlap=8)
THINGS = {"film": "B-WORK", "script": "B-WORK", "Critics": "B-WHO", "audience": "B-WHO", "hero": "B-WHO"}
PRAISE = ("great", "good", "fine", "warm")
PLAIN = ("plot", "true", "two", "music", "second", "half", "weather", "dull")
LOOP = TrainingConfig(learning_rate=0.03, batch_size=8, steps=100, lr_scheduler="constant", weight_decay=0.0)
METHODS = {
    "prompt_tuning": PromptConfig(num_virtual_tokens=3),
    "p_tuning": PromptConfig(method="p_tuning", num_virtual_tokens=3, encoder_hidden_size=16),
    "p_tuning_v2": PromptConfig(method="p_tuning_v2", num_virtual_tokens=3),
    "prefix_tuning": PromptConfig(method="prefix_tuning", num_virtual_tokens=3, encoder_hidden_size=16),
    "low_rank": PromptConfig(num_virtual_tokens=3, rank=2),
    "with_lora": PromptConfig(num_virtual_tokens=3, lora=LoraConfig(rank=2)),
}


def tagged(count: int, seed: int) -> list[TaggedText]:
    """Texts of known words, some of which are things, and sometimes followed by `story`, which then belongs to them."""
    random = python_rng(seed, "tagged")
    found = []
    for number in range(count):
        words = [random.choice([*THINGS, *PLAIN[:5]]) for _ in range(random.randint(3, 9))]
        found.append(TaggedText(f"t{number}", tuple(words), tuple(THINGS.get(word, "O") for word in words)))
    return found


def asked(count: int, seed: int) -> list[Question]:
    """The answer is the one word of praise."""
    random = python_rng(seed, "asked")
    found = []
    for number in range(count):
        words = [random.choice(PLAIN) for _ in range(random.randint(4, 10))]
        place = random.randrange(len(words))
        words[place] = random.choice(PRAISE)
        start = len(" ".join([*words[:place], ""]))
        found.append(Question(f"q{number}", "Is it true?", " ".join(words), (Answer(words[place], start),)))
    return found


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    """Kind of task -> a folder as the split stage leaves it."""
    for kind, make in (("tokens", tagged), ("spans", asked)):
        (tmp_path / kind).mkdir()
        for seed, (name, count) in enumerate((("train", 64), ("dev", 8), ("test", 30))):
            write_examples(tmp_path / kind / f"{name}.jsonl", make(count, seed))
    return {kind: tmp_path / kind for kind in ("tokens", "spans")}


def tuned(folder: Path, task: Any, **settings: Any) -> TokenLevelTuningConfig:
    values = {"prompt": METHODS["prompt_tuning"], "training": LOOP, "seed": 1} | settings
    return TokenLevelTuningConfig(task=task, backbone=backbone_config(folder), **values)


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_every_word_stands_once_in_windows_that_fit(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    windows = Windows(backbone.tokenizer, backbone.family, 16)
    words = tuple(python_rng(1, name).choices(PLAIN, k=40))
    found = windows.of_words(words)
    assert len(found) > 2
    assert [number for window in found for number in window.words] == list(range(40))
    for window in found:
        assert len(window.encoded.ids) <= 16
        for number, place in zip(window.words, window.places, strict=True):
            piece = backbone.tokenizer.decode([window.encoded.ids[place]]).strip().removeprefix("##").lower()
            word = words[number].lower()
            assert piece
            assert word.endswith(piece) if backbone.family == "causal" else word.startswith(piece)


def test_a_word_longer_than_a_window_is_cut_and_one_without_tokens_is_passed_over(
    backbones: dict[str, Backbone],
) -> None:
    windows = Windows(backbones["bert"].tokenizer, "masked", 12)
    found = windows.of_words(("film", "x" * 50, "\u200b", "plot"))
    assert [window.words for window in found] == [(0,), (1,), (3,)]
    assert all(len(window.encoded.ids) <= 12 for window in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_windows_of_a_context_overlap_and_lead_back_to_it(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    windows = Windows(backbone.tokenizer, backbone.family, 28)
    context = " ".join(python_rng(2, name).choices(PLAIN, k=60))
    found = windows.of_question(Question("1", "Is it true?", context), overlap=6)
    assert len(found) > 2
    covered: set[int] = set()
    for window in found:
        assert len(window.encoded.ids) <= 28
        begin, end = window.characters[0][0], window.characters[-1][1]
        covered |= set(range(begin, end))
        stretch = window.encoded.ids[window.start : window.start + len(window.characters)]
        told = backbone.tokenizer.decode(stretch).replace(" ", "").replace("##", "").lower()
        assert told == context[begin:end].replace(" ", "").lower()
    assert {place for place, letter in enumerate(context) if letter != " "} <= covered
    assert len({tuple(w.characters) for w in found}) == len(found)
    shared = [set(one.characters) & set(other.characters) for one, other in pairwise(found)]
    assert [len(item) for item in shared] == [6] * (len(found) - 1)


def test_an_answer_is_placed_in_the_windows_that_hold_all_of_it(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    item = asked(1, 3)[0]
    long = " ".join(["plot"] * 30)
    item = Question("1", item.question, f"{long} great food {long}", (Answer("great food", len(long) + 1),))
    config = backbone_config(Path(), max_length=24)
    finder = SpanExtractor(ANSWERS, backbone, config, new_prompt(METHODS["prompt_tuning"], backbone, None, 1))
    windows = finder.items([item])
    with_answer = [window for window in windows if window.begin != NOWHERE]
    assert 1 <= len(with_answer) < len(windows)
    for window in windows:
        first, last = (window.window.characters[place - window.window.start] for place in (window.begin, window.end))
        if window.begin != NOWHERE:
            assert item.context[first[0] : last[1]] == "great food"
        else:
            assert window.end == NOWHERE
            ends = (window.window.characters[0][0], window.window.characters[-1][1])
            assert ends[0] > len(long) + 1 or ends[1] < len(long) + 11


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-PER I-PER O B-LOC", {(1, 3, "PER"), (4, 5, "LOC")}),
        ("B-PER B-PER I-PER", {(0, 1, "PER"), (1, 3, "PER")}),
        ("I-PER I-PER O I-LOC", {(0, 2, "PER"), (3, 4, "LOC")}),  # IOB1
        ("I-PER B-PER I-LOC", {(0, 1, "PER"), (1, 2, "PER"), (2, 3, "LOC")}),
        ("B-PER I-PER E-PER S-LOC S-LOC", {(0, 3, "PER"), (3, 4, "LOC"), (4, 5, "LOC")}),  # BIOES
        ("E-PER I-PER", {(0, 1, "PER"), (1, 2, "PER")}),
        ("NN VB-X O", set()),
        ("", set()),
    ],
)
def test_entities_follow_the_rules_of_conlleval(labels: str, expected: set[tuple[int, int, str]]) -> None:
    assert entities(labels.split()) == expected


def test_scores_of_labels_are_those_worked_out_by_hand() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    guess = [["B-PER", "I-PER", "O", "O"], ["B-LOC", "B-PER"]]
    found = token_classification_scores(gold, guess)  # PER: 1 of 2 right, 1 of 1 found; LOC: 1 of 1 right, 1 of 2 found
    assert found.accuracy == pytest.approx(4 / 6, abs=1e-6)
    assert found.entity_f1 == pytest.approx(2 * 2 / (3 + 3), abs=1e-6)
    assert found.macro_f1 == pytest.approx(2 / 3, abs=1e-6)
    assert entity_table(gold, guess) == [
        {"type": "LOC", "precision": 1.0, "recall": 0.5, "f1": 0.666667, "support": 2},
        {"type": "PER", "precision": 0.5, "recall": 1.0, "f1": 0.666667, "support": 1},
    ]
    words = token_classification_scores([["NN", "VB"]], [["NN", "NN"]])
    assert (words.accuracy, words.entity_f1) == (0.5, None)
    assert words.macro_f1 == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)


def test_scores_of_answers_are_those_of_squad() -> None:
    found = squad_scores(
        [["The Eiffel Tower"], ["in 1889", "1889"], ["Paris, France"], []], ["eiffel tower!", "1889", "Paris", "x"]
    )
    assert found.accuracy == found.exact_match == 0.5
    assert found.macro_f1 == pytest.approx((1 + 1 + 2 / 3 + 0) / 4, abs=1e-6)
    assert squad_scores([[], ["x"]], ["", ""]).accuracy == 0.5


# --- stages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in FAMILIES for method in METHODS if name != "t5" or not METHODS[method].is_deep],
)
@pytest.mark.parametrize("task", [ENTITIES, ANSWERS], ids=["tokens", "spans"])
def test_annotations_are_learnt_on_every_family_and_served_as_they_were(
    task: Any, name: str, method: str, backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    loop = LOOP.model_copy(update={"learning_rate": 0.01}) if method == "with_lora" else LOOP
    config = tuned(backbone_folders[name], task, prompt=METHODS[method], training=loop)
    recorder = Kept()
    inputs = annotation_tuning.Inputs(data=sets[task.kind])
    result = run(annotation_tuning, config, inputs, tmp_path / "out", recorder)
    losses = [loss for _, loss in recorder.points["train/loss"]]
    assert result.final_loss == losses[-1] < 0.7 * losses[0]
    # an untrained head says the same of every token
    assert (result.test.entity_f1 if task.kind == "tokens" else result.test.accuracy) > 0.5
    assert recorder.metrics["test/accuracy"] == result.test.accuracy
    reading = load_token_level_model(tmp_path / "out")
    test_set = reading.load(sets[task.kind] / "test.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out" / "test_predictions.jsonl").read_text().splitlines()]
    told = [tuple(line["found"]) if task.kind == "tokens" else line["found"] for line in lines]
    assert [line["uid"] for line in lines] == [item.uid for item in test_set]
    assert reading.predict(test_set, SILENT, "") == told


@pytest.mark.parametrize("task", [ENTITIES, ANSWERS], ids=["tokens", "spans"])
def test_a_seed_decides(task: Any, backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path) -> None:
    def once(seed: int, where: str) -> dict[str, bytes]:
        loop = LOOP.model_copy(update={"steps": 3})
        config = tuned(backbone_folders["bert"], task, seed=seed, training=loop)
        run(annotation_tuning, config, annotation_tuning.Inputs(data=sets[task.kind]), tmp_path / where)
        return written(tmp_path / where)

    assert_a_seed_decides(once)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", [TokenClassifier, SpanExtractor])
def test_padding_and_company_change_nothing(name: str, kind: Any, backbones: dict[str, Backbone]) -> None:
    backbone, task = backbones[name], ENTITIES if kind is TokenClassifier else ANSWERS
    reading = kind(task, backbone, backbone_config(Path()), new_prompt(METHODS["prompt_tuning"], backbone, None, 1))
    torch.manual_seed(0)
    torch.nn.init.normal_(reading.head.linear.weight)
    items = reading.items((tagged if kind is TokenClassifier else asked)(6, 5))
    alone = torch.stack([reading.loss([item]) for item in items])
    sizes = torch.tensor([len(item.window.words) if kind is TokenClassifier else 1 for item in items])
    together = reading.loss(items)
    assert float(together) == pytest.approx(float((alone * sizes).sum() / sizes.sum()), rel=1e-4)


def test_early_stopping_goes_by_the_dev_set(
    backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    loop = LOOP.model_copy(update={"early_stopping": EarlyStopping(eval_steps=5, patience=2)})
    recorder = Kept()
    config = tuned(backbone_folders["bert"], ENTITIES, training=loop)
    run(annotation_tuning, config, annotation_tuning.Inputs(data=sets["tokens"]), tmp_path / "out", recorder)
    looks = recorder.points["dev/accuracy"]
    assert looks[0][0] == 5
    assert max(value for _, value in looks) > looks[0][1]
    assert recorder.metrics["dev/best_step"] in {step for step, _ in looks}


def test_a_question_without_an_answer_is_answered_by_nothing(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    def mixed(count: int, seed: int) -> list[Question]:
        found = asked(count, seed)
        bare = [replace(item, answers=(), context=item.context.replace(item.answers[0].text, "plot")) for item in found]
        return [item if number % 2 else bare[number] for number, item in enumerate(found)]

    for seed, name in enumerate(("train", "dev", "test")):
        write_examples(tmp_path / f"{name}.jsonl", mixed(60, seed))
    task = ANSWERS.model_copy(update={"unanswerable": True})
    config = tuned(backbone_folders["bert"], task, training=LOOP.model_copy(update={"steps": 200}))
    result = run(annotation_tuning, config, annotation_tuning.Inputs(data=tmp_path), tmp_path / "out")
    lines = [
        json.loads(line)["found"] for line in (tmp_path / "out" / "test_predictions.jsonl").read_text().splitlines()
    ]
    assert 15 < lines.count("") < 45
    assert result.test.exact_match > 0.7


def test_a_head_for_another_task_is_refused(
    backbone_folders: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    loop = LOOP.model_copy(update={"steps": 1})
    config = tuned(backbone_folders["bert"], ENTITIES, training=loop)
    run(annotation_tuning, config, annotation_tuning.Inputs(data=sets["tokens"]), tmp_path / "out")
    about = tmp_path / "out" / "token_level_model.json"
    about.write_text(about.read_text().replace("B-WHO", "B-NOBODY"))
    with pytest.raises(InputError, match="tells"):
        load_token_level_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"head": "verbalizer"}, "head"),
        ({"hard_prompt_steps": 2}, "hard_prompt_steps"),
        ({"init": {"kind": "label_words"}}, "init"),
    ],
)
def test_methods_that_need_words_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fits_token_level(PromptConfig(**settings))
    assert caught.value.key == key
    check_fits_token_level(PromptConfig())
