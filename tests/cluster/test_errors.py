"""Every error has a remedy and can be pickled; and which errors are transient."""

import errno
import inspect
import pickle
from pathlib import Path

import httpx2 as httpx
import pytest
import requests
import urllib3
from huggingface_hub.errors import HfHubHTTPError

from cluster import errors
from cluster.errors import is_transient
from stages.common.errors import AssetError, DivergedError

SAMPLES = [
    errors.ClusterError("it broke.", "Fix it."),
    errors.GraphError("a cycle.", "Cut it."),
    errors.FingerprintError("a lambda.", "Name it."),
    errors.StoreError("no store.", "Make one."),
    errors.StoreUnreachableError("s3://bucket/store", "6 attempts to read x", "OSError: 503"),
    errors.LeaseHeldError("pet/a/0", "process 7 on host"),
    errors.LeaseLostError("pet/a/0"),
    errors.OutdatedManifestError(0, 1),
    errors.CorruptResultError("pet/a/0", ("model.bin is missing",)),
    errors.SourceChangedError(Path("data.csv")),
    errors.AcceptError("config.rate changed.", "Run the step."),
    errors.MissingUpstreamError("distill/0", "soft_labels"),
    errors.StepFailedError("pet/a/0", "ValueError: no", trace="a\nb\nc", log="/logs/x.log", transient=True, attempt=2),
    errors.WorkersLostError("worker 1: killed"),
    errors.PreemptedError(),
    errors.OffloadError("no disk.", "Mount it."),
    errors.SessionError("no Ray.", "Start it."),
    errors.TrackingError("no server.", "Start it."),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: errors.ClusterError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_docstring_lists_every_error() -> None:
    classes = {item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__}
    assert {type(item) for item in SAMPLES} == classes
    assert errors.__doc__ is not None
    assert all(item.__name__ in errors.__doc__ for item in classes)


def test_message_ends_with_the_remedy() -> None:
    assert all(str(error).endswith(error.remedy) and error.remedy for error in SAMPLES)


def test_tail_returns_the_last_lines() -> None:
    assert errors.StepFailedError("a", "b", trace="1\n2\n3\n").tail(2) == "2\n3"


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
