"""Decides which errors are transient, so that another attempt may succeed."""

from __future__ import annotations

import errno
from collections.abc import Iterator

TRANSIENT_ERRNOS = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.ENETUNREACH,
    errno.EHOSTUNREACH, errno.EAGAIN, errno.EINTR,
}  # fmt: skip
# Classes are compared by name, so that no HTTP library is imported only to check an error.
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
PACKAGES_WITH_RESPONSES = {"httpx", "httpx2", "huggingface_hub", "requests", "aiohttp"}
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


def is_transient(error: BaseException) -> bool:
    """Returns True for a lost connection or a busy server, not for invalid input or a full disk.

    An error with a `remedy` was raised by a stage on purpose; its cause is ignored.
    """
    return any(_is_transient_itself(link) for link in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = None if getattr(link, "remedy", "") else link.__cause__


def _is_transient_itself(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)) or getattr(error, "transient", False) is True:
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    classes = [(base.__module__.partition(".")[0], base.__name__) for base in type(error).__mro__]
    if any(name in TRANSIENT_CLASSES.get(package, ()) for package, name in classes):
        return True
    if not any(package in PACKAGES_WITH_RESPONSES for package, _ in classes):
        return False
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status", None)
    return status in TRANSIENT_STATUS
