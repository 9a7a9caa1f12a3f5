"""Files of labeled texts, a small model, and `clozeline init` in this process, for the tests of init."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM
from typer.testing import CliRunner, Result

from pipelines.cli.app import app
from pipelines.dag import fewshot
from pipelines.schema.config import PipelineConfig
from stages.common.errors import InputError
from stages.splits.config import SplitsConfig
from stages.splits.stage import Split, sample_splits
from tests.support.small_models import bert_tokenizer

TOPICS = {"billing": "the invoice", "bug": "the crash", "shipping": "the parcel"}
WORDS = "billing bug shipping invoice crash parcel case the of is about topic category text sentiment opinion tone"


def save_small_backbone(folder: Path) -> None:
    """Saves a masked model whose vocabulary has a few words, and letters for all other words."""
    tokenizer = bert_tokenizer(WORDS.split())
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    small = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = BertForMaskedLM(BertConfig(**small, intermediate_size=64, max_position_embeddings=96))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.5 if "embed" in name else 0.25)  # makes logits differ between texts
    model.save_pretrained(folder)


def write_csv(path: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def tickets(path: str = "tickets.csv", num: int = 60, num_unlabeled: int = 60) -> str:
    """Writes texts of three topics in turn, the last without labels, with a column of numbers that are not labels."""
    names = list(TOPICS)
    rows = [
        (i, f"{TOPICS[names[i % 3]]} of case {i}", names[i % 3] if i < num else "") for i in range(num + num_unlabeled)
    ]
    return write_csv(path, ("id", "message", "team"), rows)


def messages(path: str, num: int, first: int = 1000, *, labeled: bool) -> str:
    """Writes texts like those of `tickets`, all with labels or without the column."""
    names = list(TOPICS)
    texts = [(f"{TOPICS[names[i % 3]]} of case {i}", names[i % 3]) for i in range(first, first + num)]
    header = ("message", "team") if labeled else ("message",)
    return write_csv(path, header, [row[: len(header)] for row in texts])


def write_jsonl(path: str, rows: Sequence[dict[str, Any]]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def init(*arguments: str, answers: str | None = None) -> Result:
    return CliRunner().invoke(app, ["init", *arguments], input=answers)


def draw_splits(config: PipelineConfig) -> Split:
    """Draws the splits as a run does."""
    (step,) = [item for item in fewshot.build_steps(config) if item.run == "stages.splits.stage:run"]
    assert isinstance(step.config, SplitsConfig)
    return sample_splits(step.config)


def init_error(*arguments: str, answers: str | None = None) -> str:
    """Returns the error of a command that must fail and write nothing."""
    done = init(*arguments, answers=answers)
    assert isinstance(done.exception, InputError), done.output
    assert not list(Path().glob("*.yaml")) and not list(Path().glob(".*.part"))
    return str(done.exception)
