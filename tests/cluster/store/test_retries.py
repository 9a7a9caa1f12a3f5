"""Calls of a store whose server fails."""

import random
import threading
import time

import pytest

from cluster.errors import StoreError, StoreUnreachableError
from cluster.store import retries
from cluster.store.retries import budget, budget_s, reporting, retry


class Server:
    """A server that fails until `until_s`, on a clock that only pauses move."""

    def __init__(self, until_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.until_s = until_s
        self.num_calls = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.pause)
        monkeypatch.setattr(random, "uniform", lambda low, high: high)
        monkeypatch.delenv(retries.VARIABLE, raising=False)

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> str:
        self.num_calls += 1
        if self.now < self.until_s:
            raise ConnectionResetError("503")
        return "answer"


def call(server: Server) -> str:
    return retry("s3://bucket", "read x", server, lambda error: isinstance(error, ConnectionResetError))


@pytest.mark.parametrize("outage_s", [0, 16, 60, 280])
def test_outage_within_the_budget_is_survived(outage_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(outage_s, monkeypatch)
    assert call(server) == "answer"
    assert server.now <= outage_s + retries.MAX_PAUSE_S
    assert server.num_calls < 30


def test_outage_beyond_the_budget_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(10**9, monkeypatch)
    with pytest.raises(StoreUnreachableError, match=r"attempts to read x within 300 s failed"):
        call(server)
    assert server.now == 300


def test_budget_is_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(10**9, monkeypatch)
    monkeypatch.setenv(retries.VARIABLE, "7.5")
    with pytest.raises(StoreUnreachableError):
        call(server)
    assert server.now == 7.5
    monkeypatch.setenv(retries.VARIABLE, "soon")
    with pytest.raises(StoreError, match=r"CLOZELINE_STORE_RETRY_S=soon is not a number\. Set it to seconds"):
        call(server)


def test_heartbeats_have_a_budget_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(10**9, monkeypatch)
    with budget(0), pytest.raises(StoreUnreachableError):
        call(server)
    assert (server.num_calls, server.now) == (1, 0)
    with budget(0):
        seen: list[float] = []
        thread = threading.Thread(target=lambda: seen.append(budget_s()))
        thread.start()
        thread.join()
    assert seen == [300]


def test_other_errors_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(10**9, monkeypatch)
    with pytest.raises(ConnectionResetError):
        retry("s3://bucket", "read x", server, lambda error: False)
    assert server.num_calls == 1


def test_long_outage_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[str] = []
    with reporting(reports.append):
        call(Server(5, monkeypatch))
        assert reports == []
        call(Server(60, monkeypatch))
    assert set(reports) == {"the store s3://bucket does not answer; calls are repeated for up to 300 s."}
