"""The files of a task: which rows are in which set, and errors that name file and column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.init.task_data import TaskData, TaskFiles
from pipelines.schema.config import PipelineConfig
from stages.common.errors import DataError
from tests.support.init_files import TOPICS, draw_splits, init_error, messages, tickets, write_csv, write_jsonl

FIELDS = {"text": "message"}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def task_data(train: str) -> TaskData:
    return TaskFiles.read(train).summarize(FIELDS, "team")


def of_counts(*counts: int) -> TaskData:
    rows = [(f"case {label} {i}", f"label {label}") for label, count in enumerate(counts) for i in range(count)]
    return task_data(write_csv("counts.csv", ("message", "team"), rows))


def test_each_file_is_its_set(start: Callable[..., PipelineConfig]) -> None:
    config = start(
        tickets(), "--unlabeled", messages("more.csv", 40, labeled=False), "--test",
        messages("test.csv", 21, first=2000, labeled=True), "--dev", messages("dev.csv", 9, first=3000, labeled=True),
    )  # fmt: skip
    splits = draw_splits(config)
    assert (len(splits.train), len(splits.dev), len(splits.test)) == (60, 9, 21)
    assert len(splits.unlabeled) == 60 + 40, "rows without a label, and the file"
    assert isinstance(config.data.unlabeled, tuple) and config.data.unlabeled_size == 5000
    student = config.students["small"]
    assert student.training is not None and student.training.early_stopping


def test_unlabeled_file_may_have_a_label_column(start: Callable[..., PipelineConfig]) -> None:
    config = start(tickets(num_unlabeled=0), "--unlabeled", messages("more.csv", 50, labeled=True))
    splits = draw_splits(config)
    assert len(splits.unlabeled) == 50 and all(item.label is None for item in splits.unlabeled)


def test_unlabeled_files_may_be_several_and_plain_lines(start: Callable[..., PipelineConfig]) -> None:
    Path("lines.txt").write_text("the parcel, too\nthe last\n")
    more = messages("more.csv", 50, labeled=False)
    config = start(tickets(num_unlabeled=0), "--unlabeled", more, "--unlabeled", "lines.txt")
    assert isinstance(config.data.unlabeled, tuple)
    assert [source.fields for source in config.data.unlabeled] == [FIELDS, {"text": "text"}]
    texts = [item.fields["text"] for item in draw_splits(config).unlabeled]
    assert len(texts) == 52 and texts[-2:] == ["the parcel, too", "the last"]


def test_texts_of_other_files_are_not_unlabeled(start: Callable[..., PipelineConfig]) -> None:
    test = messages("test.csv", 10, labeled=True)
    config = start(tickets(), "--unlabeled", messages("more.csv", 40, labeled=False), "--test", test)
    splits = draw_splits(config)
    assert (len(splits.unlabeled), splits.num_unlabeled_removed) == (60 + 40 - 10, 10)


def test_test_set_is_a_fifth_of_the_train_file(start: Callable[..., PipelineConfig]) -> None:
    splits = draw_splits(start(tickets(num=90)))
    assert Counter(item.label for item in splits.test) == dict.fromkeys(TOPICS, 6)
    assert Counter(item.label for item in splits.train) == dict.fromkeys(TOPICS, 24)
    assert "test_size: 18                  # sampled from the train file" in Path("made.yaml").read_text()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((50, 50), 20), ((4000, 4000), 1000), ((2, 1), 1), ((1, 1, 1, 2, 2), 1), ((99, 1), 20), ((1, 9, 9), 4)],
)
def test_default_size_of_the_test_set(counts: tuple[int, ...], expected: int) -> None:
    assert of_counts(*counts).default_test_size(None) == expected


def test_default_size_with_shots_is_at_most_a_quarter() -> None:
    assert of_counts(30, 30).default_test_size(4) == 15
    assert of_counts(3000, 3000).default_test_size(16) == 500
    with pytest.raises(DataError, match="none is left for a test set") as caught:
        of_counts(4, 4).default_test_size(4)
    assert "--shots" in caught.value.remedy


def test_one_text_per_label_needs_a_test_file(start: Callable[..., PipelineConfig]) -> None:
    train = tickets(num=3, num_unlabeled=9)
    error = init_error(train, "--label", "team")
    assert "3 different texts of 3 labels: none is left for a test set" in error and "--test FILE" in error
    config = start(train, "--label", "team", "--test", messages("test.csv", 12, labeled=True))
    splits = draw_splits(config)
    assert Counter(item.label for item in splits.train) == dict.fromkeys(TOPICS, 1)
    assert not any(item.contrastive for item in config.members.values() if item.kind == "probe")


def test_label_with_one_text_stays_in_the_train_set(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"the crash of case {i}", "bug") for i in range(99)]
    rows += [("the invoice", "billing"), *((f"the parcel {i}", "") for i in range(10))]
    splits = draw_splits(start(write_csv("rare.csv", ("message", "team"), rows)))
    assert Counter(item.label for item in splits.train) == {"bug": 79, "billing": 1}
    assert len(splits.test) == 20


def test_shots_sample_labels_and_leave_the_other_rows_unlabeled(start: Callable[..., PipelineConfig]) -> None:
    config = start(tickets(num=90, num_unlabeled=0), "--shots", "4", "--test-size", "9")
    splits = draw_splits(config)
    assert Counter(item.label for item in splits.train) == dict.fromkeys(TOPICS, 4)
    assert (len(splits.test), len(splits.unlabeled)) == (9, 90 - 12 - 9)
    many = draw_splits(start(tickets(num_unlabeled=60), "--shots", "4", "--force"))
    assert len(many.unlabeled) == 60, "there are more rows without a label than with one"


def test_test_set_is_smaller_if_it_takes_too_many_texts_of_a_label(start: Callable[..., PipelineConfig]) -> None:
    rows = [(f"the {name} of case {i}", name) for name, count in (("bug", 200), ("case", 6)) for i in range(count)]
    config = start(write_csv("rare.csv", ("message", "team"), rows), "--shots", "5")
    assert config.data.test_size <= 51
    assert Counter(item.label for item in draw_splits(config).train) == {"bug": 5, "case": 5}


def test_sizes_that_flags_set_are_not_reduced(backbone: str) -> None:
    flags = ("--backbone", backbone, "--student", backbone, "--no-score")
    assert "--test-size" in init_error(tickets(), "--test-size", "60", *flags)
    assert "--shots N" in init_error(tickets(), "--shots", "21", "--test-size", "9", *flags)
    test = messages("test.csv", 3, labeled=True)
    assert "Remove --test-size or --test" in init_error(tickets(), "--test-size", "6", "--test", test, *flags)


@pytest.mark.parametrize("flag", ["--unlabeled", "--dev", "--test"])
def test_missing_columns_name_file_and_column(flag: str) -> None:
    other = write_csv("other.csv", ("text", "team"), [("the parcel", "bug")])
    error = init_error(tickets(), flag, other)
    assert "other.csv has no column 'message', which is used in tickets.csv" in error and "text, team" in error
    gone = init_error(tickets(), flag, "gone.csv")
    assert "'gone.csv' does not exist" in gone


@pytest.mark.parametrize("flag", ["--dev", "--test"])
@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        (("message",), ("the parcel",), ["other.csv has no column 'team'"]),
        (("message", "team"), ("the parcel", "sales"), ["other.csv, line 2", "has the label 'sales'", "tickets.csv"]),
        (("message", "team"), ("the parcel", ""), ["other.csv, line 2", "has no label"]),
    ],
)
def test_wrong_labels_name_file_and_line(
    flag: str, header: tuple[str, ...], row: tuple[str, ...], expected: list[str]
) -> None:
    error = init_error(tickets(), flag, write_csv("other.csv", header, [row]))
    assert all(words in error for words in expected), error


def test_label_without_a_text_of_its_own_is_an_error() -> None:
    rows = [("the crash", "bug"), ("the  CRASH", "billing"), ("the parcel", "shipping")]
    with pytest.raises(DataError, match="no text of its own for the label 'billing'"):
        task_data(write_csv("some.csv", ("message", "team"), rows))


def test_sources_describe_what_is_in_the_files() -> None:
    rows = [{"message": "a b", "team": " bug "}, {"message": "c d", "team": "case"}, {"message": "", "team": "case"}]
    data = task_data(write_jsonl("some.jsonl", [*rows, {"message": "e f", "team": None}]))
    section = data.section(None, 1)
    assert section == {
        "train": {
            "asset": "some.jsonl", "fields": FIELDS, "drop_empty": True, "label": "team", "label_map": {" bug ": "bug"},
            "filter": {"team": [" bug ", "bug", "case"]},
        },
        "unlabeled": {"asset": "some.jsonl", "fields": FIELDS, "drop_empty": True, "filter": {"team": [""]}},
        "test_size": 1,
    }  # fmt: skip


def posts(path: str = "posts.csv") -> str:
    """Writes texts of three topics by 34 authors, with an id, the last 60 without a label."""
    names = list(TOPICS)
    rows = [
        (f"p{i}", f"{TOPICS[names[i % 3]]} of case {i}", f"author {i // 6}", names[i % 3] if i < 144 else "")
        for i in range(204)
    ]
    return write_csv(path, ("post", "message", "by", "team"), rows)


def test_ids_and_groups_reach_the_splits(start: Callable[..., PipelineConfig]) -> None:
    config = start(posts(), "--id", "post", "--group", "by")
    splits = draw_splits(config)
    assert {item.uid for item in (*splits.train, *splits.test)} == {f"p{i}" for i in range(144)}
    assert len(splits.test) > 20
    authors = {name: {item.group for item in getattr(splits, name)} for name in ("train", "test", "unlabeled")}
    assert not authors["test"] & (authors["train"] | authors["unlabeled"])
    text = Path("made.yaml").read_text()
    assert "id: post" in text and "group: by" in text


def test_files_of_new_texts_need_no_ids_and_groups(start: Callable[..., PipelineConfig]) -> None:
    more, test = messages("more.csv", 60, labeled=False), messages("test.csv", 12, 5000, labeled=True)
    config = start(posts(), "--id", "post", "--group", "by", "--unlabeled", more, "--test", test)
    assert isinstance(config.data.unlabeled, tuple)
    own, other = config.data.unlabeled
    assert (own.id, own.group, other.id, other.group) == ("post", "by", None, None)
    assert config.data.test is not None and config.data.test.group is None
    assert len(draw_splits(config).unlabeled) == 120


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--id", "number"), "posts.csv has no column 'number'"),
        (("--id", "by"), "two rows of data.train have the id 'author 0'"),
        (("--group", "team"), "'team' is already the column of the text or of the label"),
        (("--shots", "4", "--conflicts", "soft"), "no text keeps several labels"),
    ],
)
def test_wrong_keys_are_errors(flags: tuple[str, ...], expected: str) -> None:
    error = init_error(posts(), *flags, "--label", "team", "--backbone", "none")
    assert expected in error and "--" in error


def test_all_labels_of_a_text_are_used_on_request(start: Callable[..., PipelineConfig]) -> None:
    names = list(TOPICS)
    rows = [(f"{TOPICS[names[i % 3]]} of case {i}", names[i % 3]) for i in range(60)]
    data = write_csv("both.csv", ("message", "team"), [*rows, *((text, "bug") for text, name in rows if name != "bug")])
    config = start(data, "--conflicts", "soft")
    assert config.data.conflicts == "soft" and config.data.test_size == 4, "a fifth of the texts with one label"
    splits = draw_splits(config)
    assert Counter(item.label for item in splits.train) == {"bug": 56, "billing": 20, "shipping": 20}
    assert {item.label for item in splits.test} == {"bug"}


@pytest.mark.parametrize("flag", ["train", "dev", "test"])
def test_a_file_with_labels_that_does_not_fit_into_memory_is_an_error(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.init.task_data.MAX_LABELED_ROWS", 10)
    rows = [(f"text {number}", "ab"[number % 2]) for number in range(11)]
    small, large = (write_csv(f"{size}.csv", ("message", "team"), rows[:size]) for size in (10, 11))
    files = {"train": str(small), flag: str(large)}
    with pytest.raises(DataError, match=r"11\.csv has more than 10 rows") as caught:
        TaskFiles.read(**files)
    assert "--unlabeled FILE" in caught.value.remedy
    TaskFiles.read(str(small), unlabeled=[str(large)])
