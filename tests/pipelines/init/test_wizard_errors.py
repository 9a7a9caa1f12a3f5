"""`clozeline init` with a person who answers, and every wrong turn said so that it can be mended."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.cli.views import terminal
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.errors import InputError
from tests.support.init_files import TOPICS, init, refused, tickets, write_csv

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


# --- questions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "is_person", lambda: True)


@pytest.mark.usefixtures("person")
def test_a_person_is_asked_for_what_no_flag_says_and_again_for_what_cannot_be(backbone: str) -> None:
    answers = ["massage", "message", "message", "id", "team", "My Name", "mine"]
    answers += ["/no/where", backbone, "/no/where", backbone]
    answers += ["said={text} is", "said={text} is {mask}", "", "映画", "invoice, parcel", "", "invoice,parcel", "crash"]
    answers += ["none", "4", "9"]
    done = init(tickets(), "--out", "made.yaml", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, (done.exception, done.output)
    for complaint in (
        "has no column 'massage'", "is the column of the text", "looks like text, not labels", "is no name",
        "--backbone REF", "--student REF", "has no {mask}", "not in the backbone's vocabulary", "have the same words",
        "is no number of texts",
    ):  # fmt: skip
        assert done.output.count(complaint) == 1, complaint
    config = read_recipe(Path("made.yaml"), PipelineConfig)
    assert config.data.pool is not None
    assert (config.name, config.data.pool.label, config.data.shots, config.data.test_size) == ("mine", "team", 4, 9)
    assert config.task.patterns == {"said": "{text} is {mask}"}
    assert config.task.verbalizer == {"billing": ["invoice", "parcel"], "bug": ["bug"], "shipping": ["crash"]}


@pytest.mark.usefixtures("person")
def test_enter_takes_what_is_proposed(backbone: str) -> None:
    flags = (tickets(), "--backbone", backbone, "--student", backbone, "--no-score")
    assert init(*flags, "--out", "asked.yaml", answers="\n" * 20).exit_code == 0
    assert init(*flags, "--out", "given.yaml", "--yes", "--name", "asked").exit_code == 0
    asked, given = (Path(name).read_text().splitlines()[2:] for name in ("asked.yaml", "given.yaml"))
    assert asked == given and len(asked) > 40


@pytest.mark.usefixtures("person")
def test_nothing_is_asked_that_flags_say(backbone: str) -> None:
    done = init(
        tickets(), "--out", "made.yaml", "--name", "x", "--text", "message", "--label", "team", "--backbone", backbone,
        "--student", backbone, "--pattern", "a={text} {mask}", "--shots", "3", "--test-size", "5", "--no-score",
        *itertools.chain.from_iterable(("--words", f"{name}={name}") for name in TOPICS), answers="",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception


@pytest.mark.usefixtures("person")
def test_an_end_of_the_answers_is_said(backbone: str) -> None:
    assert "--yes" in refused(tickets(), "--backbone", backbone, answers="message\n")


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_file_is_not_written_over_but_with_force(backbone: str, start: Callable[..., PipelineConfig]) -> None:
    Path("made.yaml").write_text("mine")
    done = init(tickets(), "--out", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert isinstance(done.exception, InputError) and "--force" in str(done.exception)
    assert Path("made.yaml").read_text() == "mine"
    assert start(tickets(), "--force").name == "made"


def test_a_recipe_appears_whole_or_not_at_all(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    said = refused(tickets(), "--out", "made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "cannot be written (No space left on device)" in said and "--out" in said


def test_a_folder_that_is_not_there_is_said(backbone: str) -> None:
    said = refused(tickets(), "--out", "no/made.yaml", "--backbone", backbone, "--student", backbone, "--no-score")
    assert "no/made.yaml cannot be written" in said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.csv", None, ["'gone.csv' does not exist"]),
        ("empty.csv", "", ["empty.csv is empty"]),
        ("empty.jsonl", "", ["empty.jsonl holds no row"]),
        ("header.csv", "text,label\n", ["header.csv holds no row"]),
        ("bad.csv", "text,label\na b c,x\na b c,x,y\n", ["bad.csv, line 3", "3 values"]),
        ("bad.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', ["bad.jsonl, line 2", "not JSON"]),
        ("list.jsonl", "[1]\n", ["list.jsonl, line 1", "not a JSON object"]),
        ("kind.xyz", "text,label\n", ["kind.xyz", "Rename it"]),
        ("many.jsonl", '{"text": "a b c", "label": ["x"]}\n', ["many.jsonl, line 1", "is a list"]),
        ("odd.jsonl", '{"text": "a b c", "label": "x"}\n{"text": 7, "label": "y"}\n', ["odd.jsonl, line 2", "is int"]),
        ("less.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', ["less.jsonl, line 2", "no column 'label'"]),
        ("less.jsonl", '{"text": "a", "label": "x"}\n{"label": "y"}\n', ["less.jsonl, line 2", "no column 'text'"]),
        ("one.csv", "text,label\na b c,x\na b d,x\n", ["one label only, 'x'", "--label"]),
        ("none.csv", "text,label\na b c,\na b d,\n", ["has no label"]),
    ],
)
def test_bad_files_are_refused(name: str, content: str | None, said: list[str]) -> None:
    if content is not None:
        Path(name).write_text(content)
    columns = ("--text", "text") if name == "odd.jsonl" else ()
    found = refused(name, *columns)
    assert all(words in found for words in said), found


def test_labels_that_are_texts_are_refused() -> None:
    rows = [(f"the case {i}", f"value {i}") for i in range(60)]
    found = refused(write_csv("some.csv", ("text", "label"), rows))
    assert "60 different values in 60 rows" in found and "looks like text, not labels" in found
    rows = [(f"the case {i}", "a very long label " * 5 + str(i % 2)) for i in range(60)]
    assert "looks like text" in refused(write_csv("some.csv", ("text", "label"), rows))


def test_columns_that_cannot_be_told_are_named() -> None:
    rows = [(f"words of one {i}", f"words of two {i}", "ab"[i % 2], "cd"[i % 2]) for i in range(20)]
    data = write_csv("some.csv", ("one", "two", "three", "four"), rows)
    found = refused(data)
    assert "one, two, three, four" in found and "--text COLUMN" in found
    assert "--label COLUMN" in refused(data, "--text", "one")
    assert "has no column 'five'" in refused(data, "--text", "five")
    assert "is the column of the text" in refused(data, "--text", "one", "--label", "one")


def test_too_few_texts_of_a_label_are_refused(backbone: str) -> None:
    rows = [(f"the case {i}", "bug") for i in range(20)] + [("the case", "billing"), ("THE  case", "billing")]
    data = write_csv("some.csv", ("text", "label"), rows)
    assert "'billing' has 1; 4 are the least" in refused(data)
    found = refused(tickets(), "--shots", "20", "--backbone", backbone)
    assert "'bug' has 20" in found and "21 are the least" in found and "--shots" in found
    flags = ("--backbone", backbone, "--student", backbone, "--no-score")
    assert "--test-size" in refused(tickets(), "--test-size", "60", *flags)
    rows = [(f"the case {i}", "billing" if i < 11 else "bug") for i in range(60)]
    data = write_csv("some.csv", ("text", "label"), rows)
    assert "--shots N" in refused(data, "--test-size", "20", "--shots", "10", *flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--name", "My Name"), ["'My Name' is no name", "--name my_name"]),
        (("--pattern", "topic"), ["'topic' is no pattern", "NAME=TEXT"]),
        (("--pattern", "Topic={text} {mask}"), ["is no pattern with a name"]),
        (("--pattern", "topic={text}"), ["has no {mask}", "--pattern topic=TEXT"]),
        (("--pattern", "topic={txt} {mask}"), ["takes {txt}", "{text}, {id}, {message}, {team}"]),
        (("--pattern", "topic={option} {text} {mask}"), ["takes {option}"]),
        (("--pattern", "topic={text} {soft:3} {mask}"), ["soft block", "--pattern topic=TEXT"]),
        (("--pattern", "a={text} {mask}", "--pattern", "a={text}: {mask}"), ["'a' is given twice"]),
        (("--words", "bugs=crash"), ["names none of the labels billing, bug, shipping"]),
        (("--words", "bug=crash", "--words", "bug=case"), ["'bug' twice"]),
        (("--words", "bug=,"), ["no word is given for 'bug'", "--words bug=WORD,WORD"]),
        (("--words", "bug=映画"), ["'映画' of 'bug' is not in the backbone's vocabulary", "--words bug=WORD,WORD"]),
        (("--words", "bug=billing"), ["have the same words", "--words bug=WORD,WORD"]),
        (("--backbone", "/no/where"), ["'/no/where' does not exist", "--backbone REF"]),
        (("--backbone", "."), ["no readable config.json", "--backbone REF"]),
        (("--student", "/no/where"), ["'/no/where' does not exist", "--student REF"]),
        (("--student", "pypi:nothing"), ["is not a package reference", "--student REF"]),
    ],
)
def test_bad_flags_are_refused(flags: tuple[str, ...], said: list[str], backbone: str) -> None:
    base = {"--backbone": backbone, "--student": backbone} | dict([flags[:2]] if flags[0] in ("--backbone",) else [])
    others = flags if flags[0] != "--backbone" else ()
    found = refused(tickets(), *itertools.chain.from_iterable(base.items()), *others)
    assert all(words in found for words in said), found


def test_labels_whose_names_say_nothing_want_words(backbone: str) -> None:
    rows = [(f"the case {i}", str(i % 2)) for i in range(40)]
    data = write_csv("some.csv", ("text", "label"), rows)
    found = refused(data, "--backbone", backbone, "--student", backbone)
    assert "label '0' gives no word" in found and "--words 0=WORD,WORD" in found


def test_bad_input_ends_with_2(clozeline: Clozeline, tmp_path: Path) -> None:
    done = clozeline("init", "gone.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'gone.csv' does not exist" in done.stderr and "Traceback" not in done.stderr
