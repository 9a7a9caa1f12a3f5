"""Decides which errors are transient, so that another attempt may succeed."""

from __future__ import annotations

import errno
from collections.abc import Iterator

TRANSIENT_ERRNOS = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.ENETUNREACH,
    errno.EHOSTUNREACH, errno.EAGAIN, errno.EINTR,
}  # fmt: skip
# By name, for a step must not import a library to find out that its error is none of that library's.
TRANSIENT_CLASSES = {
    "httpx": {"TransportError"},
    "httpx2": {"TransportError"},
    "httpcore": {"NetworkError", "TimeoutException", "ProtocolError"},
    "httpcore2": {"NetworkError", "TimeoutException", "ProtocolError"},
    "requests": {"ConnectionError", "Timeout", "ChunkedEncodingError"},
    "urllib3": {"ProtocolError", "TimeoutError", "NewConnectionError", "MaxRetryError"},
    "aiohttp": {"ClientConnectionError", "ClientPayloadError"},
    "botocore": {"HTTPClientError", "ConnectionError"},
}
RESPONSES = {"httpx", "httpx2", "huggingface_hub", "requests", "aiohttp"}
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may go better: a connection that broke or was full, not bad input and not a full disk.

    An error that brings a `remedy` is a stage's own judgement, which counts, whatever caused it.
    """
    return any(_is_transient_link(link) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = None if getattr(link, "remedy", "") else link.__cause__


def _is_transient_link(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)) or getattr(error, "transient", False) is True:
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    if any(name in TRANSIENT_CLASSES.get(package, ()) for package, name in kinds):
        return True
    if not any(package in RESPONSES for package, _ in kinds):
        return False
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status", None)
    return status in TRANSIENT_STATUS
