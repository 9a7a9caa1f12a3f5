"""`generate` writes texts per label, with a fake endpoint on this machine."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.init.labeled_file import LabeledFile
from pipelines.init.text_generation import TextGenerator, parse_texts
from pipelines.run.request import load_request
from stages.common.errors import InputError
from stages.llm.config import EndpointSettings, Prices
from stages.splits.config import SplitsConfig
from stages.splits.stage import sample_splits
from tests.support.chat_server import Chat, ChatServer, chat_server

TEXTS = {"bug": "the app crashes at start", "money": "the invoice is wrong"}


def write_texts(chat: Chat) -> str:
    """A model that writes what was requested, in prose and JSON, with one repetition per answer."""
    number, label = re.search(r'Write (\d+) new texts whose label is "(\w+)"', chat[0]["content"]).groups()  # type: ignore[union-attr]
    examples = json.loads(chat[1]["content"])
    texts = [
        f"{TEXTS[label]} number {hash((chat[0]['content'], str(examples), n)) % 10**9}" for n in range(int(number))
    ]
    return f"Here they are:\n{json.dumps([examples[0], *texts[1:]])}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    """An endpoint, and an empty cache of answers."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    with chat_server(write_texts) as state:
        yield state


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """12 labeled texts in columns with other names than those of patterns."""
    path = tmp_path / "tickets.csv"
    rows = [f"{text} today {n},{label}" for n in range(6) for label, text in TEXTS.items()]
    path.write_text("\n".join(["message,kind", *rows]) + "\n")
    return path


def generator(train: Path, url: str, per_label: int, **settings: object) -> TextGenerator:
    data = LabeledFile(str(train)).summarize({"text": "message"}, "kind")
    return TextGenerator(
        settings=EndpointSettings(url=url, model="small", **settings),  # type: ignore[arg-type]
        data=data,
        per_label=per_label,
        descriptions={"bug": "something is broken"},
    )


def test_each_label_has_the_requested_number_of_new_texts(server: ChatServer, train: Path) -> None:
    progress: list[tuple[int, int]] = []
    generated = generator(train, server.url, 23).write_texts(lambda done, total: progress.append((done, total)))
    assert Counter(row["kind"] for row in generated.rows) == {"bug": 23, "money": 23}
    assert generated.num_missing == 0
    texts = [row["message"] for row in generated.rows]
    assert len(set(texts)) == 46
    assert set(texts).isdisjoint(train.read_text().replace(",bug", "").replace(",money", "").splitlines())
    assert progress[5] == (6, 6)
    # ten texts per request and what is left; repetitions are requested again
    sizes = [int(re.findall(r"Write (\d+)", request["messages"][0]["content"])[0]) for request in server.requests]
    assert sorted(sizes[:6]) == [3, 3, 10, 10, 10, 10]
    assert sizes[6:] == [10, 10]


def test_requests_show_examples_of_the_label_and_differ(server: ChatServer, train: Path) -> None:
    generator(train, server.url, 20).write_texts(lambda *_: None)
    bodies = [json.dumps(request["messages"]) + str(request["seed"]) for request in server.requests]
    assert len(set(bodies)) == len(bodies)
    for request in server.requests:
        system, user = (item["content"] for item in request["messages"])
        label = re.findall(r'label is "(\w+)"', system)[0]
        examples = json.loads(user)
        assert len(examples) == 5
        assert all(text.startswith(TEXTS[label]) for text in examples)
        assert ("(something is broken)" in system) == (label == "bug")
        assert request["temperature"] == 1.0


def test_nothing_is_requested_twice(server: ChatServer, train: Path) -> None:
    first = generator(train, server.url, 8).write_texts(lambda *_: None)
    num_requests = len(server.requests)
    again = generator(train, server.url, 8)
    assert again.estimate().num_requests == 0
    assert again.write_texts(lambda *_: None) == first
    assert len(server.requests) == num_requests


def test_answers_without_texts_are_counted(server: ChatServer, train: Path) -> None:
    server.answer = lambda chat: "I would rather not." if '"money"' in chat[0]["content"][80:] else write_texts(chat)
    generated = generator(train, server.url, 5).write_texts(lambda *_: None)
    assert Counter(row["kind"] for row in generated.rows) == {"bug": 5}
    assert generated.num_missing == 5


def test_limits_hold_before_the_first_request(server: ChatServer, train: Path) -> None:
    with pytest.raises(InputError) as caught:
        generator(train, server.url, 100, max_requests=3).estimate()
    assert caught.value.key == "max_requests"
    prices = Prices(input=1.0, output=10.0)
    with pytest.raises(InputError) as caught:
        generator(train, server.url, 100, prices=prices, max_cost=1e-6).estimate()
    assert caught.value.key == "max_cost"
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "fields", "texts"),
    [
        ('["a b", "c"]', ("text",), [{"text": "a b"}, {"text": "c"}]),
        ('```json\n[\n"a",\n"b"\n]\n```', ("text",), [{"text": "a"}, {"text": "b"}]),
        ('["a", "cut off in the mid', ("text",), [{"text": "a"}]),
        ('[{"text": "a"}, {"other": "b"}, "", 3]', ("text",), [{"text": "a"}]),
        ('[{"text_a": "a", "text_b": "b\\n c"}, "d"]', ("text_a", "text_b"), [{"text_a": "a", "text_b": "b c"}]),
        ("no list", ("text",), []),
        ("[", ("text",), []),
    ],
)
def test_parse_texts(answer: str, fields: tuple[str, ...], texts: list[dict[str, str]]) -> None:
    assert parse_texts(answer, fields) == texts


@pytest.fixture
def generate(train: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the command in the folder of the file; returns what it prints, or its error."""
    monkeypatch.chdir(train.parent)

    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["generate", "tickets.csv", *options])
        return str(result.exception) if isinstance(result.exception, InputError) else result.stdout

    return run


def test_init_reads_what_the_command_writes(server: ChatServer, train: Path, generate: Callable[..., str]) -> None:
    output = generate("--url", server.url, "--model", "small", "-n", "30", "--prices", "1", "2", "--yes")
    assert re.search(r"requests  6 with about \d,?\d+ tokens, which cost less than 0\.01", output)
    assert "wrote     tickets.generated.jsonl (60 texts)" in output
    assert "next      clozeline init tickets.csv --unlabeled tickets.generated.jsonl" in output
    command = ["init", "tickets.csv", "--unlabeled", "tickets.generated.jsonl", "--backbone", "none", "--yes"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    data = load_request("tickets.yaml", None, "store").config.data
    splits = sample_splits(SplitsConfig(data=data, labels=("bug", "money"), fields=("text",)))
    assert len(splits.unlabeled) == 60
    assert {item.label for item in splits.unlabeled} == {None}
    assert "already exists" in generate("--url", server.url, "--model", "small", "--yes")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--url", "ftp://x", "--model", "m"], "--url 'ftp://x' is not valid. Write --url http://localhost:8000/v1."),
        (["--url", "http://x", "--model", "m", "--max-cost", "1"], "--max-cost requires prices. Add --prices IN OUT."),
        (["--url", "http://x", "--model", "m", "--prices", "-1", "1"], "--prices -1.0 is not valid."),
        (["--url", "http://x", "--model", "m", "--api-key-variable", "NO_KEY"], "NO_KEY is not set."),
        (["--url", "http://x", "--model", "m", "--describe", "spam=x"], "has none of the labels bug, money"),
        (["--url", "http://x", "--model", "m"], "generate requires a confirmation, but there is no terminal."),
    ],
)
def test_wrong_options_are_errors(generate: Callable[..., str], options: list[str], problem: str) -> None:
    assert problem in generate(*options)
