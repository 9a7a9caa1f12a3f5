"""Retries calls of a store whose server fails: with growing pauses, until a budget of time is spent.

`CLOZELINE_STORE_RETRY_S` sets the budget, 300 seconds by default. Drivers and workers read it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from cluster.errors import StoreError, StoreUnreachableError

VARIABLE = "CLOZELINE_STORE_RETRY_S"
BUDGET_S = 300.0
PAUSE_S = 0.5
"""Pause before the second attempt, doubled before each further one."""
MAX_PAUSE_S = 15.0
REQUEST_S = 10.0
"""How long a request for a lease or a manifest may take. A server that accepts connections and does not answer would
block it for a minute (S3) or five (Azure).
"""
REPORT_AFTER_S = 10.0
"""Shorter outages are not worth a message."""
T = TypeVar("T")
_budget_s: ContextVar[float | None] = ContextVar("budget_s", default=None)
_request_s: ContextVar[float | None] = ContextVar("request_s", default=None)
_report: ContextVar[Callable[[str], None] | None] = ContextVar("report", default=None)


def budget_s() -> float:
    """Returns the seconds during which a call is repeated.

    Raises:
        StoreError: the environment variable is not a number.
    """
    own = _budget_s.get()
    if own is not None:
        return own
    text = os.environ.get(VARIABLE) or str(BUDGET_S)
    try:
        return float(text)
    except ValueError:
        raise StoreError(f"{VARIABLE}={text} is not a number.", "Set it to seconds, such as 300.") from None


def request_s() -> float:
    """Returns how long a request of this thread for a lease or a manifest may take, in seconds."""
    own = _request_s.get()
    return REQUEST_S if own is None else own


@contextmanager
def budget(seconds: float, request_s: float | None = None) -> Iterator[None]:
    """Gives the calls of this thread another budget; 0: one attempt. See `request_s`."""
    tokens = _budget_s.set(seconds), _request_s.set(request_s)
    try:
        yield
    finally:
        _budget_s.reset(tokens[0])
        _request_s.reset(tokens[1])


@contextmanager
def reporting(report: Callable[[str], None]) -> Iterator[None]:
    """Calls `report` with a sentence when a call of this thread is repeated for more than a few seconds."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def retry(url: str, description: str, action: Callable[[], T], is_transient: Callable[[Exception], bool]) -> T:
    """Calls `action` until it succeeds. Raises all errors that are not transient.

    Args:
        url: Address of the store, for the error.
        description: What the action does, such as "read pet/0/manifest.json".
        action: The call.
        is_transient: Returns True for an error after which another attempt may succeed.

    Raises:
        StoreUnreachableError: the budget is spent.
    """
    started, pause_s, num_attempts = time.monotonic(), PAUSE_S, 0
    end = started + budget_s()
    while True:
        num_attempts += 1
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
            now = time.monotonic()
            if now >= end:
                action_text = f"{num_attempts} attempts to {description} within {now - started:.0f} s"
                raise StoreUnreachableError(url, action_text, f"{type(error).__name__}: {error}") from error
            report = _report.get()
            if report is not None and now - started > REPORT_AFTER_S:
                report(f"the store {url} does not answer; calls are repeated for up to {end - started:.0f} s.")
            # Drivers and workers that failed together must not come back together.
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), end - now))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
