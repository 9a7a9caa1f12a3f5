"""Tests of the verbalizer search: the words of a vocabulary, their scores, and the stage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoder
from stages.common.patterns.verbalizers import Verbalizer, found_words
from stages.common.patterns.vocabulary import most_frequent, whole_words
from stages.pet.verbalizer_search import stage as verbalizer_search
from stages.pet.verbalizer_search.config import SearchMethod, VerbalizerSearchConfig
from stages.pet.verbalizer_search.stage import rank
from tests.support.small_models import FAMILIES, TOKENIZERS, WORDS, backbone_config, film_examples, film_task
from tests.support.stage_runs import LABELS, Kept, run


def by_hand(p: np.ndarray, is_label: list[bool], method: SearchMethod) -> list[float]:
    """Returns the scores of PETAL, one example at a time. The examples of the label have the weight of all others."""
    scores = []
    for word in range(p.shape[1]):
        total = 0.0
        for row, has_label in enumerate(is_label):
            q = p[row, word]
            weight = is_label.count(False) / is_label.count(True) if has_label else 1.0
            if method == "likelihood_ratio":
                total += weight * (1 if has_label else -1) * math.log(q / (1 - q))
            else:
                total += weight * math.log(q if has_label else 1 - q)
        scores.append(total)
    return scores


@pytest.mark.parametrize("method", ["likelihood_ratio", "cross_entropy"])
@pytest.mark.parametrize("is_label", [[True, False, False, False, True, False], [False, True]])
def test_rank_computes_the_scores_of_the_paper(method: SearchMethod, is_label: list[bool]) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(30), size=len(is_label))
    expected = by_hand(p, is_label, method)
    ranked = rank(np.log(p), is_label, method, num_candidates=30)
    assert [word.number for word in ranked] == sorted(range(30), key=lambda number: -expected[number])
    assert [word.score for word in ranked] == pytest.approx(sorted(expected, reverse=True))


def test_methods_prefer_different_words() -> None:
    """One word is likely everywhere; one is rare, and ten times rarer in examples of the other label."""
    p = np.array([[0.3, 0.01], [0.3, 0.01], [0.2, 0.001], [0.2, 0.001]])
    is_label = [True, True, False, False]
    assert rank(np.log(p), is_label, "likelihood_ratio", 2)[0][0] == 1
    assert rank(np.log(p), is_label, "cross_entropy", 2)[0][0] == 0


def test_rank_finds_the_words_of_the_label() -> None:
    """Words 3 and 7 are likely only for the label, word 0 for all examples."""
    rng = np.random.default_rng(4)
    is_label = [number % 3 == 0 for number in range(30)]
    weights = rng.uniform(0.5, 1.5, size=(30, 20))
    weights[:, 0] *= 50
    weights[np.ix_(is_label, [3, 7])] *= 8
    log_p = np.log(weights / weights.sum(axis=1, keepdims=True))
    assert {word.number for word in rank(log_p, is_label, "likelihood_ratio", 20)[:2]} == {3, 7}


def test_candidates_are_the_most_likely_words_of_the_label() -> None:
    p = np.array([[0.5, 0.1, 0.001, 0.2], [0.5, 0.3, 0.00001, 0.1]])
    ranked = rank(np.log(p), [True, False], "likelihood_ratio", num_candidates=2)
    assert [word.number for word in ranked] == [3, 0]  # not the rare word 2, which has the best score
    assert rank(np.log(p), [True, False], "likelihood_ratio", num_candidates=99)[0][0] == 2


def test_score_of_a_certain_word_is_finite() -> None:
    log_p = np.array([[0.0, -800.0], [0.0, -800.0]])
    for method in ("likelihood_ratio", "cross_entropy"):
        assert all(math.isfinite(score) for _, score in rank(log_p, [True, False], method, 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_whole_words_are_one_token_in_a_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    words = whole_words(tokenizer)
    assert {"great", "terrible", "good", "bad", "sisters"} <= set(words)
    assert all(word.isalpha() and len(word) >= 2 for word in words)
    assert not {"a", "[MASK]", "mask", "pad"} & set(words)
    if name in ("bert", "t5"):
        assert {word.lower() for word in words} == {word for word in WORDS if len(word) >= 2 and word.isalpha()}
    verbalizer = Verbalizer.of({word: [word] for word in words}, tokenizer)
    assert verbalizer.flat == tuple((token,) for token in words.values())


def byte_level(text: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_whole_words_of_a_byte_vocabulary_may_have_non_ascii_letters() -> None:
    assert {"café", "schön"} <= set(whole_words(byte_level("un café schön café schön")))


def test_whole_words_skip_tokens_without_a_space_before() -> None:
    """`un` without a space before it is a separate token, which never occurs at the mask."""
    tokenizer = byte_level("un café")
    assert "un" in tokenizer.get_vocab()
    assert "un" not in whole_words(tokenizer)


@pytest.mark.parametrize("letter", ["Ġ", "▁"])
def test_space_mark_as_a_token_hides_no_words(letter: str) -> None:
    original = TOKENIZERS["bert"]()
    payload = json.loads(original.backend_tokenizer.to_str())
    payload["model"]["vocab"][letter] = len(original)
    backend = Tokenizer.from_str(json.dumps(payload))
    extended = PreTrainedTokenizerFast(tokenizer_object=backend, **original.special_tokens_map)
    assert letter in extended.get_vocab()
    assert whole_words(extended) == whole_words(original) != {}


def search(folder: Path, name: str, pattern: str = "review", **settings: Any) -> VerbalizerSearchConfig:
    task = film_task(name).model_copy(update={"verbalizer": {}}).only(pattern)
    values = {"num_words": 3, "num_candidates": 40} | settings
    return VerbalizerSearchConfig(task=task, pattern=pattern, backbone=backbone_config(folder), **values)


def log_likelihoods(backbone: Backbone, name: str, data: Path, ids: list[int]) -> np.ndarray:
    """Returns log-probabilities [n, W], computed by the model itself, one example at a time."""
    task = film_task(name)
    encoder = Encoder(task.pattern("review"), backbone.tokenizer, backbone.family, 64, task.truncation)
    rows = []
    for item in encoder.all(load_examples(data / "train.jsonl")):
        with torch.inference_mode():
            if backbone.family == "seq2seq":
                decoder = torch.tensor([[0, backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")]])
                logits = backbone.model(input_ids=torch.tensor([item.ids]), decoder_input_ids=decoder).logits[0, 1]
            else:
                logits = backbone.model(input_ids=torch.tensor([item.ids])).logits[0, item.mask_position]
        rows.append(logits.double().log_softmax(dim=0)[ids].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("method", ["likelihood_ratio", "cross_entropy"])
@pytest.mark.parametrize("name", FAMILIES)
def test_search_finds_the_words_with_the_best_scores(
    name: str, method: SearchMethod, backbones: dict[str, Backbone], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "train.jsonl", film_examples(7))  # four rotten, three fresh
    vocabulary = whole_words(backbones[name].tokenizer)
    p = np.exp(log_likelihoods(backbones[name], name, film_data, list(vocabulary.values())))
    folder = Path(backbones[name].tokenizer.name_or_path)
    result = run(
        verbalizer_search,
        search(folder, name, method=method, num_candidates=len(vocabulary)),
        verbalizer_search.Inputs(data=film_data),
        tmp_path / "out",
    )
    names = list(vocabulary)
    for label in LABELS:
        is_label = [item.label == label for item in load_examples(film_data / "train.jsonl")]
        scores = by_hand(p, is_label, method)
        assert [scores[names.index(word)] for word in result.words[label]] == pytest.approx(
            sorted(scores, reverse=True)[:3], abs=1e-3
        )
    assert (result.num_candidates, result.num_labeled) == (len(vocabulary), 7)


def test_words_and_candidates_are_written(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    recorder = Kept()
    config = search(backbone_folders["roberta"], "roberta", num_words=2, num_candidates=30)
    result = run(verbalizer_search, config, verbalizer_search.Inputs(data=film_data), tmp_path / "out", recorder)
    assert found_words(tmp_path / "out") == result.words
    assert {label: len(words) for label, words in result.words.items()} == {"rotten": 2, "fresh": 2}
    rows = [json.loads(line) for line in (tmp_path / "out" / "candidates.jsonl").read_text().splitlines()]
    for label in LABELS:
        of_label = [row for row in rows if row["label"] == label]
        assert len(of_label) == result.num_candidates == 30
        assert [row["word"] for row in of_label[:2]] == result.words[label]
        assert [row["score"] for row in of_label] == sorted((row["score"] for row in of_label), reverse=True)
    assert recorder.tables["words"] == [
        {"label": label, "words": ", ".join(words)} for label, words in result.words.items()
    ]
    assert config.task.with_words(result.words).words("review") == {
        label: tuple(words) for label, words in result.words.items()
    }


def test_number_of_written_candidates_is_limited(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbalizer_search, "MAX_WRITTEN", 5)
    config = search(backbone_folders["bert"], "bert", num_candidates=20)
    run(verbalizer_search, config, verbalizer_search.Inputs(data=film_data), tmp_path / "out")
    assert len((tmp_path / "out" / "candidates.jsonl").read_text().splitlines()) == 5 * len(LABELS)


@pytest.mark.parametrize("count", [0, 1])
def test_label_without_examples_raises(
    count: int, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "train.jsonl", film_examples(count))
    config = search(backbone_folders["bert"], "bert")
    with pytest.raises(InputError, match=f"the label '{'fresh' if count else 'rotten'}' has none"):
        run(verbalizer_search, config, verbalizer_search.Inputs(data=film_data), tmp_path / "out")


def test_num_words_above_the_vocabulary_raises(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    count = len(whole_words(TOKENIZERS["bert"]()))
    config = search(backbone_folders["bert"], "bert", num_words=count // 2 + 1, num_candidates=1000)
    with pytest.raises(InputError, match=f"the vocabulary has {count} words") as caught:
        run(verbalizer_search, config, verbalizer_search.Inputs(data=film_data), tmp_path / "out")
    assert caught.value.key == "verbalizer_search.num_words"


def test_num_words_above_num_candidates_raises(backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="num_candidates"):
        search(backbone_folders["bert"], "bert", num_words=5, num_candidates=4)


def test_causal_model_needs_the_mask_at_the_end(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = search(backbone_folders["gpt2"], "bert", pattern="review")
    with pytest.raises(InputError, match="a causal model predicts them only at the end"):
        run(verbalizer_search, config, verbalizer_search.Inputs(data=film_data), tmp_path / "out")


@pytest.mark.parametrize("name", FAMILIES)
def test_only_frequent_words_are_considered(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    words = whole_words(tokenizer)
    texts = [Example("1", {"a": "film film film plot", "b": "good"}), Example("2", {"a": "plot", "b": "film [MASK]"})]
    assert set(most_frequent(words, tokenizer, texts, ("a", "b"), 2)) == {"film", "plot"}
    three = most_frequent(words, tokenizer, texts, ("a", "b"), 3)
    assert set(three) == {"film", "plot", "good"}
    assert list(three) == sorted(three, key=words.__getitem__), "in the order of the vocabulary"
    assert most_frequent(words, tokenizer, texts, ("a", "b"), 10_000) == words


def test_search_reads_the_unlabeled_texts(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "unlabeled.jsonl", [Example("x", {"text": "sisters weather team " * 50})])
    config = search(backbone_folders["bert"], "bert", num_words=1, num_candidates=3, num_frequent=3)
    result = run(verbalizer_search, config, verbalizer_search.Inputs(data=film_data), tmp_path / "out")
    assert {word for words in result.words.values() for word in words} <= {"sisters", "weather", "team"}
