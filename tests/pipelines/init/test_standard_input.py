"""Texts on standard input, folders, and packed files: init writes recipes that read them again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from pipelines.init.standard_input import save_standard_input
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.errors import InputError
from tests.support.init_files import draw_splits, init

ROWS = [{"text": f"the case {i}", "label": "ab"[i % 2]} for i in range(40)]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def labels_of(config: PipelineConfig) -> dict[str, str | None]:
    splits = draw_splits(config)
    return {item.fields["text"]: item.label for item in (*splits.train, *splits.test)}


EXPECTED = {row["text"]: row["label"] for row in ROWS}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (CSV, "made.csv"),
        (json.dumps(ROWS), "made.json"),
        ("".join(json.dumps(row) + "\n" for row in ROWS), "made.jsonl"),
    ],
)
def test_standard_input_becomes_a_file(content: str, name: str, backbone: str) -> None:
    flags = ("--output", "made.yaml", "--backbone", "none", "--student", backbone)
    done = init("-", *flags, answers=content)
    assert done.exit_code == 0, done.exception
    assert Path(name).read_text() == content
    assert labels_of(read_recipe(Path("made.yaml"), PipelineConfig)) == EXPECTED


def test_existing_file_is_kept_unless_forced() -> None:
    Path("some.csv").write_text("mine")
    with pytest.raises(InputError, match=r"some\.csv exists"):
        save_standard_input(io.BytesIO(CSV.encode()), "some", force=False)
    assert Path("some.csv").read_text() == "mine"
    assert save_standard_input(io.BytesIO(CSV.encode()), "some", force=True) == "some.csv"
    assert Path("some.csv").read_text() == CSV


def test_empty_standard_input_is_an_error() -> None:
    with pytest.raises(InputError, match="standard input is empty"):
        save_standard_input(io.BytesIO(b" \n"), "some", force=False)
    assert not list(Path().iterdir())


def test_folder_of_texts(start: Callable[..., PipelineConfig]) -> None:
    for number, row in enumerate(ROWS):
        file = Path("films") / row["label"] / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(row["text"])
    others = [f"text {number:02} without a label" for number in range(50)]
    for text in others:
        Path(f"films/{text}.txt").write_text(text)
    config = start("films/")
    assert labels_of(config) == EXPECTED
    assert [item.fields["text"] for item in draw_splits(config).unlabeled] == others


def test_packed_file(start: Callable[..., PipelineConfig]) -> None:
    Path("some.csv.zst").write_bytes(pyarrow.compress(CSV.replace(",", ";").encode(), codec="zstd", asbytes=True))
    assert labels_of(start("some.csv.zst")) == EXPECTED
