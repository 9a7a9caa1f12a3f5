"""Tests of the LLM stage, with a fake endpoint on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.common.errors import InputError
from stages.common.examples import load_examples
from stages.common.metrics.classification import softmax
from stages.llm import stage as llm
from stages.llm.config import LlmConfig
from tests.support.chat_server import Chat, ChatServer, chat_server
from tests.support.stage_runs import LABELS, Kept, logits_of, run

KEY = "sk-not-for-any-log"


def answer_by_words(chat: Chat) -> str:
    """A model that is right if the text says so plainly, and evasive otherwise."""
    text = chat[-1]["content"].lower()
    if any(word in text for word in ("bad", "dull", "awful", "boring", "poor")):
        return 'Label: "Rotten".'
    return "fresh" if len(text) > 3 else "I cannot say."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    """An endpoint, and an empty cache of answers."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLM_KEY", KEY)
    with chat_server(answer_by_words) as state:
        yield state


def config(server: ChatServer, **settings: Any) -> LlmConfig:
    return LlmConfig(labels=LABELS, fields=("text",), url=server.url, model="small", **settings)


def test_member_has_the_labels_of_the_answers(server: ChatServer, film_data: Path, tmp_path: Path) -> None:
    recorder = Kept()
    settings = config(server, api_key_variable="LLM_KEY", prices={"input": 1.0, "output": 10.0})
    result = run(llm, settings, llm.Inputs(data=film_data), tmp_path / "out", recorder)
    sets = {name: load_examples(film_data / f"{name}.jsonl") for name in ("train", "unlabeled", "test")}
    for name, file in (("test", "test_logits"), ("train", "held_out_logits"), ("unlabeled", "unlabeled_logits")):
        answers = [answer_by_words([{"content": item.fields["text"]}]) for item in sets[name]]
        assert [LABELS[row] for row in logits_of(tmp_path / "out", file).argmax(axis=1)] == [
            "rotten" if "Rotten" in answer else "fresh" for answer in answers
        ]
    assert softmax(logits_of(tmp_path / "out")).max(axis=1) == pytest.approx(0.9)
    gold = [LABELS.index(item.label or "") for item in sets["train"]]
    held_out = logits_of(tmp_path / "out", "held_out_logits").argmax(axis=1)
    assert result.held_out_accuracy == pytest.approx(np.mean(held_out == gold), abs=1e-6)
    num_texts = len({request["messages"][-1]["content"] for request in server.requests})
    assert recorder.metrics["llm/requests"] == len(server.requests) >= num_texts
    assert recorder.metrics["llm/cost"] == pytest.approx(len(server.requests) * (10 * 1.0 + 2 * 10.0) / 1e6)
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}


def test_no_example_is_its_own_demonstration(server: ChatServer, film_data: Path, tmp_path: Path) -> None:
    run(llm, config(server, shots=2), llm.Inputs(data=film_data), tmp_path / "out")
    for request in server.requests:
        system, *turns, last = request["messages"]
        assert "rotten, fresh" in system["content"]
        assert [turn["content"] for turn in turns if turn["role"] == "assistant"] == ["rotten", "fresh"] * 2
        assert last["content"] not in [turn["content"] for turn in turns if turn["role"] == "user"]


def test_descriptions_and_several_fields(server: ChatServer) -> None:
    from stages.common.examples import Example
    from stages.llm.questions import Questions

    settings = LlmConfig(
        labels=LABELS, fields=("a", "b"), url=server.url, model="m", descriptions={"fresh": "worth a ticket"}
    )
    system, question = Questions(settings, []).chat(Example("1", {"a": "one", "b": "two"}))
    assert system["content"].endswith("rotten, fresh.\nfresh: worth a ticket")
    assert question["content"] == "a: one\nb: two"


def test_no_request_is_sent_twice(server: ChatServer, film_data: Path, tmp_path: Path) -> None:
    run(llm, config(server), llm.Inputs(data=film_data), tmp_path / "first")
    num_requests = len(server.requests)
    recorder = Kept()
    # at another address, with a limit that is too low for all texts
    moved = config(server, max_requests=1).model_copy(update={"url": "http://127.0.0.1:9/v1"})
    run(llm, moved, llm.Inputs(data=film_data), tmp_path / "second", recorder)
    assert (len(server.requests), recorder.metrics["llm/requests"]) == (num_requests, 0)
    assert (logits_of(tmp_path / "first") == logits_of(tmp_path / "second")).all()


def test_an_answer_without_a_label_has_no_vote(server: ChatServer, film_data: Path, tmp_path: Path) -> None:
    server.answer = lambda chat: "rotten or fresh, who knows"
    recorder = Kept()
    result = run(llm, config(server), llm.Inputs(data=film_data), tmp_path / "out", recorder)
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(0.5)
    assert result.num_unrecognized == recorder.metrics["llm/unrecognized"] > 0
    assert recorder.tables["unrecognized"][0]["answer"] == "rotten or fresh, who knows"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"max_requests": 3}, "max_requests"),
        ({"max_cost": 1e-6, "prices": {"input": 1.0, "output": 1.0}}, "max_cost"),
        ({"api_key_variable": "NO_SUCH_KEY"}, "api_key_variable"),
    ],
)
def test_limits_hold_before_the_first_request(
    server: ChatServer, film_data: Path, tmp_path: Path, settings: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(llm, config(server, **settings), llm.Inputs(data=film_data), tmp_path / "out")
    assert caught.value.key == key
    assert server.requests == []


def test_max_cost_requires_prices(server: ChatServer) -> None:
    with pytest.raises(ValueError, match="it requires prices"):
        config(server, max_cost=1.0)
    with pytest.raises(ValueError, match=r"does not contain \{labels\}"):
        config(server, instruction="What is it?")


@pytest.mark.parametrize("status", [429, 503])
def test_requests_to_a_busy_endpoint_are_repeated(
    server: ChatServer, film_data: Path, tmp_path: Path, status: int
) -> None:
    server.statuses = [status] * 3
    run(llm, config(server, num_parallel=1), llm.Inputs(data=film_data), tmp_path / "out")
    first = server.requests[0]["messages"]
    assert [request["messages"] for request in server.requests].count(first) == 4


@pytest.mark.parametrize(
    ("status", "body", "key", "problem"),
    [
        (401, b"", "api_key_variable", "refuses access (status 401)"),
        (404, b"no model small", "url", "answers with status 404: no model small."),
        (500, b"", "url", "answers with status 500"),
        (200, b"<html>", "url", "is not a JSON object"),
        (200, b'{"choices": []}', "url", "has no choices[0].message.content"),
    ],
)
def test_refusals_are_errors_without_the_key(
    server: ChatServer, film_data: Path, tmp_path: Path, status: int, body: bytes, key: str, problem: str
) -> None:
    server.statuses, server.body = [status] * 1000, body
    settings = config(server, api_key_variable="LLM_KEY", max_attempts=2)
    with pytest.raises(InputError) as caught:
        run(llm, settings, llm.Inputs(data=film_data), tmp_path / "out")
    assert caught.value.key == key
    assert problem in str(caught.value)
    assert KEY not in str(caught.value)
    stored = [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".part"]
    assert not any(KEY in text for text in stored)


def test_an_endpoint_that_is_away_is_named(server: ChatServer, film_data: Path, tmp_path: Path) -> None:
    away = config(server, max_attempts=1).model_copy(update={"url": "http://127.0.0.1:9/v1"})
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/v1/chat/completions did not answer in 1 attempts"):
        run(llm, away, llm.Inputs(data=film_data), tmp_path / "out")
