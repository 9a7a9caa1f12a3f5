"""Tests of prompt pretraining: each format trains a prompt, and the prompt initializes that of a task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from stages.common.data.config import CorpusConfig, Source
from stages.common.errors import DataError
from stages.common.examples import load_examples
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining import stage as prompt_pretraining
from stages.prompt_pretraining.config import PretrainingConfig, SingleConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from tests.support.small_models import FAMILIES, backbone_config, film_task
from tests.support.stage_runs import Kept, assert_a_seed_decides, run, written

WORDS = ("warm", "clever", "dull", "bad")
SINGLE = SingleConfig(verbalizer={"rotten": ["bad", "terrible"], "fresh": ["good"]}, min_confidence=0.0)


def config_of(folder: Path, path: Path, kind: str, num_documents: int = 8, **settings: Any) -> PretrainingConfig:
    lines = [
        " ".join(f"The {word} film number {line} was {word} again." for word in WORDS) for line in range(num_documents)
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    corpus = CorpusConfig(source=Source(asset=str(path)), num_examples=12, max_sentence_words=8)
    values = {"num_options": (2, 8) if kind == "unified" else (6, 6), "single": SINGLE, "num_held_out": 6, "seed": 2}
    values |= {"training": TrainingConfig(learning_rate=0.05, batch_size=4, steps=3), "num_virtual_tokens": 4}
    values |= {"backbone": backbone_config(folder, 100), "corpus": corpus, "format": kind}
    return PretrainingConfig(**values | settings)


@pytest.mark.parametrize("kind", ["pair", "choice", "single", "unified"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_format_trains_a_prompt_on_each_family(
    name: str, kind: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(backbone_folders[name], tmp_path / "corpus.txt", kind)
    recorder = Kept()
    result = run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out", recorder)
    assert (result.num_documents, result.num_examples, result.trainable_parameters) == (8, 12, 4 * 32)
    assert result.held_out.num_examples == result.held_out_before.num_examples == 6
    built = load_examples(tmp_path / "out" / "examples.jsonl")
    assert len(built) == 18
    assert {item.label for item in built} <= set(config.task.labels)
    assert all(list(item.fields) == list(config.task.fields) for item in built)
    table = recorder.tables["examples"]
    assert [row["label"] for row in table] == [item.label for item in built[6:]]
    assert (tmp_path / "out" / "prompt" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("kind", ["pair", "choice", "single", "unified"])
def test_result_depends_on_the_seed_only(kind: str, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        config = config_of(backbone_folders["gpt2"], tmp_path / "corpus.txt", kind, seed=seed)
        run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)
    assert once(5, "once-more")["examples.jsonl"] != once(6, "one-more")["examples.jsonl"]


def test_single_logs_the_pseudo_labels(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "single")
    recorder = Kept()
    run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out", recorder)
    table = {row["label"]: row for row in recorder.tables["pseudo_labels"]}
    built = load_examples(tmp_path / "out" / "examples.jsonl")
    counts = Counter(item.label for item in built)
    assert all(table[label]["kept"] >= count for label, count in counts.items())
    assert sum(row["labeled"] for row in table.values()) == 32  # four sentences of eight documents
    assert len({item.fields["text"] for item in built}) == 18


@pytest.mark.parametrize(
    ("kind", "num_documents", "problem"),
    [
        (
            "choice",
            4,
            "has 4 documents with at least 3 different sentences, among 4 .* the format choice needs 5",
        ),
        ("unified", 6, "the format unified needs 7"),
        ("pair", 1, "the format pair needs 2"),
        ("single", 0, "has 0 documents with at least 1 different sentences"),
    ],
)
def test_too_small_corpus_raises_and_nothing_is_written(
    kind: str, num_documents: int, problem: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", kind, num_documents)
    with pytest.raises(DataError, match=problem) as caught:
        run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out")
    assert caught.value.remedy
    assert list((tmp_path / "out").iterdir()) == []


def test_corpus_without_long_documents_raises(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "choice")
    (tmp_path / "corpus.txt").write_text("".join(f"This is line number {n}. It is short.\n" for n in range(57)))
    with pytest.raises(DataError, match="has 0 documents with at least 3 different sentences, among 57"):
        run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"num_options": (5, 4)}, "lower number first"), ({"num_options": (1, 4)}, "greater than or equal to 2")],
)
def test_wrong_num_options_raise(
    settings: dict[str, Any], problem: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=problem):
        config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "unified", **settings)


def test_too_small_window_raises(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(backbone_folders["bert"], tmp_path / "corpus.txt", "choice")
    with pytest.raises(ValidationError, match="choice needs a window of at least 5 documents"):
        PretrainingConfig(**config.model_dump() | {"corpus": config.corpus.model_copy(update={"window": 4})})


def prompt_vectors(out: Path) -> torch.Tensor:
    return load_file(out / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]


@pytest.mark.parametrize("name", FAMILIES)
def test_pretrained_prompt_initializes_that_of_a_task(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = config_of(backbone_folders[name], tmp_path / "corpus.txt", "pair")
    run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "ppt")
    tuning = PromptTuningConfig(
        task=film_task(name).only("review"),
        pattern="review",
        backbone=backbone_config(backbone_folders[name]),
        prompt=PromptConfig(init="ppt", num_virtual_tokens=99),
        training=TrainingConfig(learning_rate=1e-6, batch_size=4, steps=1),
    )
    inputs = prompt_tuning.Inputs(data=film_data, pretrained=tmp_path / "ppt")
    run(prompt_tuning, tuning, inputs, tmp_path / "out")
    before, after = (prompt_vectors(tmp_path / step) for step in ("ppt", "out"))
    assert before.shape == after.shape == (4, 32)
    assert 0 < (before - after).abs().max() < 1e-5
