"""Objects at a URL of fsspec, with one retry policy for servers that fail.

The libraries' own retries are off, so the time until an answer is known. Servers differ in whether they can replace an
object only if no one else replaced it first:

- S3 has conditional writes (If-None-Match since August 2024, If-Match since November 2024). S3-compatible servers may
  ignore the condition, so this module tests them once with an object of its own.
- `memory://` exists in one process, where a lock is enough.
- For any other server `swap` writes, waits until concurrent writes have ended, and reads which write came last. This
  separates two drivers that take one lease at the same time, unless a write takes longer than `SETTLE_S`. In that case
  a step may run twice. This costs time but damages no result, because a commit is one object.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import sync
from fsspec.config import conf

from cluster.errors import StoreError, StoreUnreachableError

ATTEMPTS = 6
PAUSE_S = 0.5
"""Pause before the second attempt; doubled for each one after, so that a store may be away for 15 seconds."""
SETTLE_S = 2.0
NUM_THREADS = 8
CHUNK = 1 << 20
_TRANSIENT_ERRNOS = {
    None, errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EPIPE,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "httpx", "requests", "urllib3", "google", "gcsfs", "azure", "adlfs")
_HOPELESS = ("Credential", "Validation", "Auth", "Token", "Profile")
_IN_PROCESS = threading.Lock()
_CONDITIONAL: dict[tuple[str, str], bool] = {}
T = TypeVar("T")


class ObjectStore:
    """Objects by their names below `url`.

    Raises:
        StoreError: nothing that is installed reads such URLs.
    """

    def __init__(self, url: str) -> None:

        self.url = url.rstrip("/")
        self._is_s3 = url.startswith(("s3://", "s3a://"))
        self._is_memory = url.startswith("memory://")
        try:
            self._fs, self._root = fsspec.url_to_fs(self.url, **_options(self._is_s3))
        except (ImportError, ValueError) as error:
            extra = " pip install 'clozeline[s3]' reads s3://." if self._is_s3 else ""
            raise StoreError(
                f"no store can be opened at {url} ({error}).", f"Give a folder or a URL.{extra}"
            ) from error
        if self._is_s3:
            self._fs.retries = 1

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, and StoreError if the store is out of reach; so do all others here."""
        return bytes(self._with_retries(f"read {name}", lambda: self._fs.cat_file(self._path(name))))

    def write(self, name: str, data: bytes) -> None:
        """Puts an object there, wholly or not at all."""
        self._with_retries(f"write {name}", lambda: self._fs.pipe_file(self._path(name), data), writes=True)

    def sizes(self, name: str) -> dict[str, int]:
        """All objects below a name, with their sizes in bytes; their names are relative to it."""
        path = self._path(name)

        found = self._with_retries(f"list {name}", lambda: self._find(path))
        return {
            key.removeprefix(f"{path}/"): int(about["size"])
            for key, about in found.items()
            if key.startswith(f"{path}/")
        }

    def children(self, name: str) -> list[str]:
        """The next parts of names below a name."""

        def names() -> list[str]:
            try:
                return list(self._fs.ls(self._path(name), detail=False))
            except (FileNotFoundError, NotADirectoryError):
                return []

        return [path.rstrip("/").rpartition("/")[2] for path in self._with_retries(f"list {name}", names)]

    def upload(self, path: Path, name: str) -> None:
        """Copies a local file there."""
        self._with_retries(f"write {name}", lambda: self._fs.put_file(str(path), self._path(name)), writes=True)

    def copy_all(self, source: str, names: Iterable[str], target: str) -> None:
        """Copies objects on the server, several at a time."""

        def copy(name: str) -> None:
            paths = self._path(f"{source}/{name}"), self._path(f"{target}/{name}")
            self._with_retries(f"write {target}/{name}", lambda: self._fs.cp_file(*paths), writes=True)

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(copy, names))

    def upload_all(self, folder: Path, names: Iterable[str], below: str) -> None:
        """Copies local files there, several at a time."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(lambda name: self.upload(folder / name, f"{below}/{name}"), names))

    def download(self, name: str, path: Path) -> str:
        """Copies an object to a local file. Returns the sha256 of what was written, in hex."""

        def fetch() -> str:
            total = hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._fs.open(self._path(name), "rb", block_size=8 * CHUNK) as source, path.open("wb") as sink:
                while block := source.read(CHUNK):
                    total.update(block)
                    sink.write(block)
            return total.hexdigest()

        return self._with_retries(f"read {name}", fetch)

    def digest(self, name: str) -> str:
        """sha256 of an object, in hex."""
        return self.download(name, Path(os.devnull))

    def remove(self, name: str, last: str = "") -> None:
        """Removes an object, and all below that name; the one whose name ends in `last` after all others."""

        def clear() -> None:
            paths = sorted(self._find(self._path(name)), key=lambda path: bool(last) and path.endswith(f"/{last}"))
            for path in paths:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(path)
            if not self._is_s3:
                # Where folders are more than parts of names, empty ones would stay.
                with suppress(FileNotFoundError):
                    self._fs.rm(self._path(name), recursive=True)

        self._with_retries(f"remove {name}", clear)

    def load(self, name: str) -> tuple[bytes, str] | tuple[None, None]:
        """An object and a tag that changes whenever it is written; None and None if there is none."""

        def get() -> tuple[bytes, str] | tuple[None, None]:
            try:
                if not self._is_s3:
                    data = bytes(self._fs.cat_file(self._path(name)))
                    return data, hashlib.sha256(data).hexdigest()
                bucket, key, _ = self._fs.split_path(self._path(name))
                answer = self._fs.call_s3("get_object", Bucket=bucket, Key=key)
                return _body(self._fs, answer), str(answer["ETag"])
            except FileNotFoundError:
                return None, None

        return self._with_retries(f"read {name}", get)

    def swap(self, name: str, tag: str | None, data: bytes) -> bool:
        """Writes an object, if the one that is there still has that tag (None: if there is none). See above."""
        if self._is_s3 and self._has_conditions():
            return self._put_if(name, tag, data)
        with _IN_PROCESS:
            if self.load(name)[1] != tag:
                return False
            self.write(name, data)
            if self._is_memory:
                return True
            time.sleep(SETTLE_S)
            return self.load(name)[0] == data

    def _has_conditions(self) -> bool:
        """Whether the server honours both conditions; asked once."""
        server = (self._fs._fs_token, self._root.partition("/")[0])
        if server not in _CONDITIONAL:
            probe = f".probe/{os.urandom(8).hex()}"
            try:
                first = self._put_if(probe, None, b"1")
                again = self._put_if(probe, None, b"2") or self._put_if(probe, '"0"', b"3")
                _CONDITIONAL[server] = first and not again
            except StoreError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSYS, errno.EINVAL):
                    raise
                _CONDITIONAL[server] = False
            self.remove(probe)
        return _CONDITIONAL[server]

    def _put_if(self, name: str, tag: str | None, data: bytes) -> bool:
        bucket, key, _ = self._fs.split_path(self._path(name))
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}

        def put() -> bool:
            try:
                self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
            except Exception as error:
                # Missing, where a tag was asked for; not as it was; being written by another at this moment.
                if _code(error) in (
                    "NoSuchKey",
                    "404",
                    "PreconditionFailed",
                    "412",
                    "ConditionalRequestConflict",
                    "409",
                ):
                    return False
                raise
            return True

        return self._with_retries(f"write {name}", put, writes=True)

    def _find(self, path: str) -> dict[str, Any]:
        """The object of that path and all below it, by their paths."""
        try:
            return dict(self._fs.find(path, detail=True))
        except FileNotFoundError:
            return {}

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _with_retries(self, what: str, action: Callable[[], T], *, writes: bool = False) -> T:
        """Tries an action a few times. For anything but a missing object, the last error becomes a StoreError."""
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except FileNotFoundError as error:
                if not writes:
                    raise
                raise StoreError(f"{self.url} is not there, so that nobody can {what}.", "Make the bucket.") from error
            except StoreError:
                raise
            except Exception as error:
                if _is_local(error):
                    raise
                if not is_transient(error):
                    raise StoreError(
                        f"the store {self.url} refuses to {what} ({type(error).__name__}: {error}).",
                        "Check its address, your credentials and what they may do.",
                    ) from error
                if attempt + 1 == ATTEMPTS:
                    reason = f"{type(error).__name__}: {error}"
                    raise StoreUnreachableError(self.url, f"{ATTEMPTS} attempts to {what}", reason) from error
                time.sleep(PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def is_transient(error: BaseException) -> bool:
    """Whether a server may answer better a moment later."""
    if isinstance(error, PermissionError | FileExistsError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, OSError | TimeoutError):
        return error.errno in _TRANSIENT_ERRNOS
    kind = type(error)
    return kind.__module__.partition(".")[0] in _CLIENTS and not any(word in kind.__name__ for word in _HOPELESS)


def _is_local(error: Exception) -> bool:
    """A full disk on this side of the wire."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _code(error: Exception) -> str:
    """What S3 calls the error."""
    answer = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _body(fs: Any, answer: Any) -> bytes:

    return bytes(sync(fs.loop, answer["Body"].read))


def _options(is_s3: bool) -> dict[str, Any]:
    """What the file system is made with: nothing remembered of listings, and none of S3's own repetitions."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if is_s3:
        given = dict(conf.get("s3", {}))
        options["config_kwargs"] = {**given.get("config_kwargs", {}), "retries": {"max_attempts": 0}}
        # fsspec keeps a file system for each set of options, and so has to be told of the server.
        server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if server and "endpoint_url" not in given:
            options["endpoint_url"] = server
    return options
