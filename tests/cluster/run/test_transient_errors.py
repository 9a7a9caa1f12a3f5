"""Which errors are transient."""

from __future__ import annotations

import errno

import httpx2 as httpx
import pytest
import requests
import urllib3
from huggingface_hub.errors import HfHubHTTPError

from cluster.errors import is_transient
from stages.common.errors import AssetError, DivergedError


def response_error(status: int) -> Exception:
    """Returns the error of the client of Hugging Face for a response with this status."""
    request = httpx.Request("GET", "https://example.org")
    return HfHubHTTPError("the server failed", response=httpx.Response(status, request=request))


def caused(outer: Exception, inner: Exception) -> Exception:
    """Returns `outer` with a cause."""
    outer.__cause__ = inner
    return outer


def transient_errors() -> list[Exception]:
    """Errors after which another attempt may succeed."""
    return [
        ConnectionResetError("connection closed"),
        TimeoutError(),
        OSError(errno.ENETUNREACH, "no route"),
        httpx.ConnectTimeout("late"),
        httpx.RemoteProtocolError("incomplete response"),
        requests.exceptions.ConnectionError("refused"),
        requests.exceptions.ReadTimeout("late"),
        urllib3.exceptions.ProtocolError("incomplete response"),
        response_error(429),
        response_error(503),
        caused(OSError("the model cannot be loaded"), httpx.ConnectError("refused")),
    ]


def permanent_errors() -> list[Exception]:
    """Errors that another attempt would raise again."""
    return [
        ValueError("invalid number"),
        OSError(errno.ENOSPC, "no space left"),
        FileNotFoundError("gone"),
        response_error(404),
        httpx.InvalidURL("odd"),
        DivergedError("the loss became nan", "Lower learning_rate."),
        caused(AssetError("it is not there", "Specify another one."), httpx.ConnectError("refused")),
    ]


@pytest.mark.parametrize("error", transient_errors(), ids=repr)
def test_is_transient_accepts_transient_errors(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", permanent_errors(), ids=repr)
def test_is_transient_rejects_permanent_errors(error: Exception) -> None:
    assert not is_transient(error)
