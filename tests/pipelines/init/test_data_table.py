"""The table of what init has read, its warnings, and the flags that follow them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.init.data_table import near_key
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.data.text_keys import text_key
from tests.support.init_files import draw_splits, init, init_error, write_csv, write_jsonl


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def report(backbone: str) -> Callable[..., tuple[dict[str, str], list[str]]]:
    """Runs init; returns name -> value in the column of the last file, and the warnings."""

    def call(*arguments: str) -> tuple[dict[str, str], list[str]]:
        done = init(*arguments, "--backbone", "none", "--student", backbone, "--output", "made.yaml", "--force")
        assert done.exit_code == 0, done.exception
        rows = re.findall(r"^ (\S.*?) {2,}(.*)$", done.output.partition("recipe  ")[0], re.M)
        values = {name: re.split(r" {2,}", value.strip())[-1] for name, value in rows}
        return values, re.findall(r"^warning +(.*)$", done.output, re.M)

    return call


def write(path: str, rows: Sequence[tuple[str, Any]]) -> str:
    return write_csv(path, ("text", "label"), rows)


def words(number: int) -> str:
    """Returns a text with a word that no other number has."""
    return f"the case {''.join('abcdefghij'[int(digit)] for digit in f'{number:03}')}"


TWO = [(words(i), "ab"[i % 2]) for i in range(60)]


def test_clean_file_has_no_warning(report: Callable[..., Any]) -> None:
    values, warnings = report(write("some.csv", TWO))
    assert warnings == []
    assert values == {
        "Data": "some.csv",
        "columns": "text, label",
        "format": "CSV, UTF-8",
        "rows": "60",
        "with text and label": "60",
        "characters": "12 (median), 12 (95%)",
        "labels": "2: a 30, b 30",
        "language": "english; --language changes it",
    }


def test_missing_labels_and_texts_are_counted(report: Callable[..., Any]) -> None:
    rows = [{"text": words(i) if i > 1 else "", "label": ("a", "None", None)[i % 3]} for i in range(90)]
    values, _ = report(write_jsonl("some.jsonl", rows))
    assert (values["rows"], values["with text and label"], values["without a label"]) == ("90", "58", "30")
    assert (values["without text"], values["labels"]) == ("2", "2: None 29, a 29")
    assert values["format"] == "JSON lines, UTF-8"


def test_encoding_and_delimiter_are_reported(report: Callable[..., Any]) -> None:
    text = "sep=;\ntext;label\n" + "".join(f"服务太差了 {text};{label}\n" for text, label in TWO)
    Path("some.csv").write_bytes(text.encode("gb18030"))
    assert report("some.csv")[0]["format"] == "CSV, semicolons, GB18030"
    Path("some.csv").write_bytes(text.encode("utf-16"))
    assert report("some.csv")[0]["format"] == "CSV, semicolons, UTF-16"


def test_spellings_are_reported_and_merged(report: Callable[..., Any], start: Callable[..., PipelineConfig]) -> None:
    labels = ("spam", "Spam", "spam ", "ham")
    data = write("some.csv", [(words(i), labels[i % 4]) for i in range(80)])
    test = write("test.csv", [("one", "SPAM"), ("two", "ham")])
    assert "no row of some.csv has the label 'SPAM'" in init_error(data, "--test", test)
    values, warnings = report(data)
    assert values["labels"] == "3: spam 40, Spam 20, ham 20"
    assert warnings == [
        "'spam' (40 texts) and 'Spam' (20 texts) may be one label. Merge such spellings with --merge-labels."
    ]
    config = start(data, "--merge-labels", "--test", test, "--force")
    assert config.task.labels == ("ham", "spam")
    splits = draw_splits(config)
    assert (sum(item.label == "spam" for item in splits.train), len(splits.train)) == (60, 80)
    assert [item.label for item in splits.test] == ["spam", "ham"]


def test_numbers_in_several_spellings_are_reported_and_merged(report: Callable[..., Any]) -> None:
    data = write_jsonl("some.jsonl", [{"text": words(i), "label": (0, 1, 1.0, "1")[i % 4]} for i in range(80)])
    values, warnings = report(data)
    assert (values["labels"], len(warnings)) == ("3: 1 40, 0 20, 1.0 20", 1)
    values, warnings = report(data, "--merge-labels")
    assert (values["labels"], warnings) == ("2: 1 60, 0 20", [])


@pytest.mark.parametrize(
    ("flag", "num_train"), [((), 60), (("--conflicts", "drop"), 60), (("--conflicts", "first"), 80)]
)
def test_texts_with_several_labels_are_reported_and_left_out(
    flag: tuple[str, ...], num_train: int, report: Callable[..., Any], start: Callable[..., PipelineConfig]
) -> None:
    rows = [(words(i), "ab"[i % 2]) for i in range(80)] + [(words(i), "ba"[i % 2]) for i in range(20)]
    data, test = write("some.csv", rows), write("test.csv", [("one", "a"), ("two", "b")])
    values, warnings = report(data, *flag)
    assert (values["texts with different labels"], values["duplicates"]) == ("20", "20")
    assert warnings[0].startswith("texts with different labels (20)") and "--conflicts" in warnings[0]
    splits = draw_splits(start(data, "--test", test, "--force", *flag))
    assert {item.fields["text"]: item.label for item in splits.train} == dict(rows[80 - num_train : 80])


def test_label_that_only_has_conflicts_needs_the_first(report: Callable[..., Any]) -> None:
    data = write("some.csv", [*TWO, ("odd", "a"), ("odd", "c")])
    error = init_error(data)
    assert "no text of its own for the label 'c'" in error and "--conflicts first" in error


def test_texts_of_the_test_set_in_the_train_file_are_reported(report: Callable[..., Any]) -> None:
    test = write("test.csv", [(TWO[0][0].upper(), "a"), ("some other text", "b")])
    values, warnings = report(write("some.csv", TWO), "--test", test)
    assert values["texts that are in some.csv"] == "1"
    assert len(warnings) == 1
    assert warnings[0].startswith("1 of 2 texts of test.csv are also in some.csv, so accuracies will be too high.")


def test_near_duplicates_in_the_test_set_are_reported(report: Callable[..., Any]) -> None:
    test = write("test.csv", [(f"{TWO[0][0]}, 7!", "a"), (f"{TWO[1][0]} 8", "b"), ("some other text", "b")])
    values, warnings = report(write("some.csv", TWO), "--test", test)
    assert values["near-duplicates in some.csv"] == "2" and "texts that are in some.csv" not in values
    (warning,) = warnings
    assert warning.startswith("2 of 3 texts of test.csv differ from one of some.csv only in numbers, punctuation")


def test_rare_labels_long_texts_and_near_duplicates_are_reported(report: Callable[..., Any]) -> None:
    rows = [(f"{'long words ' * 200} {i}", "ab"[i > 3]) for i in range(100)]
    values, warnings = report(write("some.csv", rows))
    assert values["near-duplicates"] == "99"
    assert [item for item in warnings if "between 4 and 96 texts" in item and "macro-F1" in item]
    assert read_recipe(Path("made.yaml"), PipelineConfig).label_bias == "macro_f1"
    assert [item for item in warnings if "longer than 256 tokens" in item]
    assert [item for item in warnings if "99 of 100 texts differ from another only in" in item and "--test" in item]


def test_class_weights_are_written_on_request(report: Callable[..., Any]) -> None:
    rows = [(words(i), "ab"[i > 3]) for i in range(100)]
    _, warnings = report(write("some.csv", rows), "--class-weights", "balanced")
    assert [item for item in warnings if "Look at macro-F1 rather than accuracy" in item]
    assert read_recipe(Path("made.yaml"), PipelineConfig).class_weights == "balanced"


def test_label_bias_can_be_turned_off(report: Callable[..., Any]) -> None:
    rows = [(words(i), "ab"[i > 3]) for i in range(100)]
    _, warnings = report(write("some.csv", rows), "--label-bias", "none")
    assert [item for item in warnings if item.endswith("never be predicted. Set --label-bias macro_f1.")]
    assert read_recipe(Path("made.yaml"), PipelineConfig).label_bias == "none"


def test_more_than_two_labels_get_a_bias_on_request_only(report: Callable[..., Any]) -> None:
    rows = [(words(i), "c" if i < 40 else "ab"[i > 42]) for i in range(110)]
    _, warnings = report(write("some.csv", rows))
    assert [item for item in warnings if item.endswith("never be predicted. Set --label-bias macro_f1.")]
    assert read_recipe(Path("made.yaml"), PipelineConfig).label_bias == "none"


def test_many_labels_run_through(report: Callable[..., Any]) -> None:
    rows = [(f"why is my {words(i % 77)} lost, in case {i}", f"intent_{i % 77}") for i in range(77 * 6)]
    values, _ = report(write("some.csv", rows))
    assert values["labels"] == "77: intent_0 6, intent_1 6, intent_10 6, …, intent_9 6"


def test_near_duplicates_have_the_same_words() -> None:
    texts = [
        "order 12 has arrived!",
        "Order 7 has arrived",
        "has order arrived",
        "order 12 has ARRIVED!",
        "an order",
        "12",
        "13",
    ]
    keys = dict.fromkeys(text_key([text]) for text in texts)
    assert len(keys) == 6, "the first and the fourth are the same text"
    assert len(keys) - len({near_key(key) for key in keys}) == 2
