"""`clozeline init` recognizes lists of labels, and reads cells with a separator if a flag names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.init.labeled_file import LabeledFile
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.config import MULTI_LABEL, SINGLE_LABEL
from stages.common.errors import InputError
from tests.support.init_files import draw_splits, init, init_error, write_csv, write_jsonl

NAMES = ("billing", "bug", "shipping")
LISTS = [[NAMES[n % 3]] + [NAMES[(n + 1) % 3]] * (n % 2) if n % 10 else [] for n in range(60)]
TEXTS = [f"case {n} is about {' and '.join(names) or 'nothing at all'}" for n, names in enumerate(LISTS)]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lists(path: str = "tickets.jsonl") -> str:
    return write_jsonl(path, [{"message": text, "teams": names} for text, names in zip(TEXTS, LISTS, strict=True)])


def cells(path: str = "tickets.csv", separator: str = ";") -> str:
    rows = [(text, separator.join(names)) for text, names in zip(TEXTS, LISTS, strict=True)]
    return write_csv(path, ("message", "teams"), rows)


def unlabeled() -> str:
    return write_jsonl("more.jsonl", [{"message": f"case {n} is about a bug"} for n in range(100, 200)])


@pytest.mark.parametrize("separator", [None, ";", " / "])
def test_init_writes_a_multi_label_recipe(separator: str | None) -> None:
    file = lists() if separator is None else cells(separator=separator)
    flags = () if separator is None else ("--label-separator", separator)
    done = init(file, "--unlabeled", unlabeled(), "--label", "teams", *flags, "--yes", "--output", "made.yaml")
    assert done.exit_code == 0, done.output
    assert "0: 6 texts, 1: 24 texts, 2: 30 texts" in done.stdout
    assert "No PET: a language model answers with one label per text." in done.stdout
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert (config.task.labels, config.task.problem_type) == (NAMES, MULTI_LABEL)
    assert config.backbone is None and config.label_bias == "frequencies" and config.ensemble.weights == "uniform"
    assert config.data.train is not None
    assert (config.data.train.label, config.data.train.label_separator) == ("teams", separator)
    splits = draw_splits(config)
    assert len(splits.train) + len(splits.test) == 60
    assert all(isinstance(item.label, tuple) for item in (*splits.train, *splits.test))
    assert () in {item.label for item in splits.train}


def test_lists_of_the_only_plausible_column_are_recognized() -> None:
    done = init(lists(), "--unlabeled", unlabeled(), "--yes", "--output", "made.yaml")
    assert done.exit_code == 0, done.output
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert config.data.train and config.data.train.label == "teams"


def test_separators_are_proposed_only() -> None:
    """Without the flag a cell is one label, whatever is in it."""
    rows = [(f"case {n}", ("bug;billing", "bug", "billing;shipping", "shipping")[n % 4]) for n in range(40)]
    write_csv("tickets.csv", ("message", "teams"), rows)
    done = init("tickets.csv", "--label", "teams", "--backbone", "none", "--yes", "--output", "made.yaml")
    assert done.exit_code == 0, done.output
    assert "'teams' may have several labels per text. If so, set --label-separator ';'." in " ".join(
        done.stdout.split()
    )
    assert read_recipe(Path("made.yaml"), PipelineConfig).task.problem_type == SINGLE_LABEL


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("a;b", "a", "b;c", "c", "b"), ";"),
        (("a|b", "a", "b|c", "c", "b"), "|"),
        (("a, b", "a", "b, c", "c", "b"), ","),
        (("a", "b", "a", "b", "c"), None),
        (("Paris, France", "Rome, Italy", "Oslo, Norway"), None),
    ],
)
def test_guess_separator(values: tuple[str, ...], expected: str | None) -> None:
    file = LabeledFile(write_csv("a.csv", ("text", "label"), [(f"text {n}", value) for n, value in enumerate(values)]))
    assert file.guess_separator("label") == expected


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        (("--shots", "4"), "--shots"),
        (("--conflicts", "soft"), "--conflicts soft"),
        (("--class-weights", "balanced"), "--class-weights"),
        (("--backbone", "model"), "--backbone"),
        (("--label-words", "bug=crash"), "--label-words"),
        (("--describe", "bug=a crash"), "--describe"),
    ],
)
def test_flags_for_one_label_are_errors(flags: tuple[str, ...], flag: str) -> None:
    message = init_error(lists(), "--label", "teams", "--yes", *flags)
    assert f"{flag} is for one" in message and f"Remove {flag}" in message


def test_a_missing_list_is_an_error_with_its_line() -> None:
    write_jsonl("tickets.jsonl", [{"message": "one", "teams": ["a", "b"]}, {"message": "two", "teams": None}])
    message = init_error("tickets.jsonl", "--label", "teams", "--yes")
    assert "tickets.jsonl, line 2" in message and "[]" in message


def test_texts_with_different_sets_are_conflicts() -> None:
    rows = [{"text": "same", "label": names} for names in (["a", "b"], ["b", "a"])]
    rows += [{"text": "other", "label": names} for names in (["a"], ["a", "b"])]
    data = LabeledFile(write_jsonl("a.jsonl", rows)).summarize({"text": "text"}, "label")
    assert (data.num_conflicts, data.num_certain, data.total) == (1, 1, 1)
    assert data.counts == {"a": 1, "b": 1}


def test_generate_is_for_one_label() -> None:
    from typer.testing import CliRunner

    from pipelines.cli.app import app

    arguments = ["generate", lists(), "--label", "teams", "--url", "http://localhost:1/v1", "--model", "m", "--yes"]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, InputError)
    assert "several labels per text" in str(done.exception)
