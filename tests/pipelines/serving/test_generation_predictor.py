"""A prompt for text generation is loaded from its folder, and its texts are written in every format."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from pipelines.serving.generation_predictor import GenerationPredictor
from pipelines.serving.input_rows import InputRows
from pipelines.serving.loading import load_predictor
from pipelines.serving.output_rows import Answer, AnswerColumns, write_text
from stages.common.errors import DataError
from stages.common.models.backbones.loader import load_backbone
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.peft_format import save_prompt
from stages.generation.config import GenerationServingConfig
from tests.support.generation_data import METHODS, TABLES
from tests.support.small_models import TOKENIZERS, backbone_config, small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tuning step, with a prompt that was not trained."""
    root = tmp_path_factory.mktemp("generation")
    tokenizer = TOKENIZERS["gpt2"]()
    torch.manual_seed(7)
    model = small_model("gpt2", len(tokenizer), tokenizer)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    config = backbone_config(root / "model")
    backbone = load_backbone(config, frozen=True)
    prompt = new_prompt(METHODS["prefix_tuning"], backbone, TABLES.input_pattern, seed=1)
    save_prompt(prompt, backbone, root / "step" / "prompt", "prefix_tuning")
    GenerationServingConfig(task=TABLES, backbone=config).save(root / "step")
    return root / "step"


def test_rows_get_a_text_each_whatever_the_batch_is(folder: Path) -> None:
    predictor = load_predictor([folder])
    assert isinstance(predictor, GenerationPredictor)
    assert predictor.tasks == {"tables": ("name", "food")}
    assert predictor.plain_field() is None
    rows = [{"name": "News", "food": "bad"}, {"name": "The audience of critics", "food": "great"}]
    items = [predictor.parse_row(row, str(number)) for number, row in enumerate(rows)]
    together = predictor.predict(items)
    assert together == [*predictor.predict(items[:1]), *predictor.predict(items[1:])]
    assert len({row["generated_text"] for row in together}) == 2
    with pytest.raises(DataError, match="the field 'food' is missing") as caught:
        predictor.parse_row({"name": "News"}, "0")
    assert caught.value.key == "food"


def test_a_text_file_has_a_generated_text_per_line(folder: Path) -> None:
    predictor = load_predictor([folder])
    answers = [
        Answer({"name": "News"}, {"generated_text": "one\ntwo"}),
        Answer({"name": "It"}, {"generated_text": "b"}),
    ]
    rows = InputRows(format="jsonl", rows=iter(()))
    for file_format, expected in (
        ("lines", "one two\nb\n"),
        ("csv", 'name,generated_text,error\nNews,"one\ntwo",\nIt,b,\n'),
        ("jsonl", '{"name": "News", "generated_text": "one\\ntwo"}\n{"name": "It", "generated_text": "b"}\n'),
    ):
        file = io.StringIO()
        write_text(iter([answers]), AnswerColumns(predictor, None), rows, file_format, file)
        assert file.getvalue() == expected
