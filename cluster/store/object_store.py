"""Objects at a URL of fsspec. Requests that fail are repeated as `cluster.store.retries` says.

The retries of S3's client are off, so the time until an answer is known. Those of Azure and GCS are off for leases and
manifests; other requests may take a minute longer. Servers differ in whether they can replace an object only if no one
else replaced it first:

- S3, Azure and GCS have conditional writes (`cluster.store.conditional_writes`). Servers that are compatible with them
  may ignore the condition, so this module tests each server once with an object of its own.
- `memory://` exists in one process, where a lock is enough.
- Any other server accepts a single driver (`cluster.store.sole_driver`), so `compare_and_swap` reads and then writes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.config import conf

from cluster.errors import StoreError
from cluster.store.conditional_writes import ConditionalWrites, conditional_writes
from cluster.store.lease import RENEWED_AT_ONCE
from cluster.store.retries import retry

NUM_THREADS = 8
CHUNK = 1 << 20
_TRANSIENT_ERRNOS = {
    None, errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EPIPE,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
_TRANSIENT_STATUSES = (408, 429)
"""Timeout, and too many requests."""
_CLIENT_PACKAGES = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "httpx",
    "requests",
    "urllib3",
    "google",
    "gcsfs",
    "azure",
    "adlfs",
)
_PERMANENT_CLASSES = (
    StoreError, FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError,
)  # fmt: skip
_PERMANENT_NAMES = ("Credential", "Validation", "Auth", "Token", "Profile")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""Extras of this package that install what opens a kind of URL."""
_IN_PROCESS = threading.Lock()
_CONDITIONAL: dict[tuple[str, str], bool] = {}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The size of an object in bytes, and the time of its last write in seconds since 1970; 0 if unknown."""

    size: int
    written_at: float

    @classmethod
    def of(cls, size: int, info: Mapping[str, Any]) -> ObjectInfo:
        """Reads what a server or fsspec says about an object; servers name the time differently."""
        times = (info.get(name) for name in ("LastModified", "last_modified", "updated", "created", "mtime"))
        when = next((item for item in times if item), 0.0)
        if isinstance(when, str):
            when = datetime.fromisoformat(when)
        return cls(int(size), when.timestamp() if isinstance(when, datetime) else float(when))


class ObjectStore:
    """Objects by their names below `url`.

    All methods raise StoreError if the server refuses a request, or fails in all attempts.

    Raises:
        StoreError: no installed library supports the URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        extra = _EXTRAS.get(url.partition("://")[0], "")
        self._is_s3 = extra == "s3"
        self._is_memory = url.startswith("memory://")
        try:
            self._fs, self._root = _file_system(self.url, extra)
            self._conditional = conditional_writes(extra, self._fs)
        except ImportError as error:
            remedy = f"Run: pip install 'clozeline[{extra}]'." if extra else "Specify a folder or another URL."
            raise StoreError(f"no store can be opened at {url} ({error}).", remedy) from error
        except ValueError as error:
            remedy = "Set AZURE_STORAGE_ACCOUNT_NAME." if extra == "azure" else "Specify a folder or another URL."
            raise StoreError(f"no store can be opened at {url} ({error}).", remedy) from error
        if self._is_s3:
            self._fs.retries = 1

    def read(self, name: str) -> bytes:
        """Returns the content of an object. Raises FileNotFoundError."""
        if self._conditional is not None:  # one request, where s3fs needs three to know that an object is missing
            data = self.read_tagged(name)[0]
            if data is None:
                raise FileNotFoundError(name)
            return data
        return bytes(self._with_retries(f"read {name}", lambda: self._fs.cat_file(self._path(name))))

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, completely or not at all."""
        self._with_retries(f"write {name}", lambda: self._fs.pipe_file(self._path(name), data), writes=True)

    def sizes(self, name: str) -> dict[str, int]:
        """Returns the sizes in bytes of all objects below a name, by their names relative to it."""
        return {path: item.size for path, item in self.list_below(name).items()}

    def list_below(self, name: str) -> dict[str, ObjectInfo]:
        """Returns all objects below a name, by their names relative to it."""
        prefix = f"{self._path(name).rstrip('/')}/"
        objects = self._with_retries(f"list {name}", lambda: self._find(self._path(name)))
        return {path.removeprefix(prefix): info for path, info in objects.items() if path.startswith(prefix)}

    def children(self, name: str) -> list[str]:
        """Returns the next part of every object name below a name."""

        def list_paths() -> list[str]:
            if self._is_s3:
                return self._list_s3(self._path(name), delimiter="/")[1]
            try:
                return list(self._fs.ls(self._path(name), detail=False))
            except (FileNotFoundError, NotADirectoryError):
                return []

        return [path.rstrip("/").rpartition("/")[2] for path in self._with_retries(f"list {name}", list_paths)]

    def upload(self, path: Path, name: str) -> None:
        """Copies a local file to an object."""
        self._with_retries(f"write {name}", lambda: self._fs.put_file(str(path), self._path(name)), writes=True)

    def copy_all(self, source: str, names: Iterable[str], target: str) -> None:
        """Copies objects on the server, several at a time."""

        def copy(name: str) -> None:
            paths = self._path(f"{source}/{name}"), self._path(f"{target}/{name}")
            self._with_retries(f"write {target}/{name}", lambda: self._fs.cp_file(*paths), writes=True)

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(copy, names))

    def upload_all(self, folder: Path, names: Iterable[str], prefix: str) -> None:
        """Copies files of a local folder to objects below `prefix`, several at a time."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(lambda name: self.upload(folder / name, f"{prefix}/{name}"), names))

    def download(self, name: str, path: Path) -> str:
        """Copies an object to a local file. Returns its sha256 in hex."""

        def fetch() -> str:
            digest = hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._fs.open(self._path(name), "rb", block_size=8 * CHUNK) as source, path.open("wb") as sink:
                while block := source.read(CHUNK):
                    digest.update(block)
                    sink.write(block)
            return digest.hexdigest()

        return self._with_retries(f"read {name}", fetch)

    def digest(self, name: str) -> str:
        """Reads an object and returns its sha256 in hex."""
        return self.download(name, Path(os.devnull))

    def remove(self, name: str, last: str = "") -> None:
        """Removes an object and all objects below its name; removes the one with the name `last` after all others."""

        def remove_all() -> None:
            found = {*self._find(self._path(name)), self._path(name)}
            paths = sorted(found, key=lambda path: bool(last) and path.endswith(f"/{last}"))
            for path in paths:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(path)
            if not self._is_s3:
                # Other servers have real folders, which would remain empty.
                with suppress(FileNotFoundError):
                    self._fs.rm(self._path(name), recursive=True)

        self._with_retries(f"remove {name}", remove_all)

    def remove_all(self, names: Iterable[str]) -> None:
        """Removes objects, several at a time."""

        def remove(name: str) -> None:
            with suppress(FileNotFoundError):
                self._with_retries(f"remove {name}", lambda: self._fs.rm_file(self._path(name)))

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(remove, names))

    def read_tagged(self, name: str) -> tuple[bytes, str] | tuple[None, None]:
        """Returns an object and a tag that changes with every write; (None, None) if it does not exist."""

        def get() -> tuple[bytes, str] | tuple[None, None]:
            try:
                if self._conditional is not None:
                    return self._conditional.read(self._path(name))
                data = bytes(self._fs.cat_file(self._path(name)))
                return data, hashlib.sha256(data).hexdigest()
            except FileNotFoundError:
                return None, None

        return self._with_retries(f"read {name}", get)

    def compare_and_swap(self, name: str, tag: str | None, data: bytes) -> bool:
        """Writes an object if it still has this tag (None: if it does not exist). Returns False if it does not.

        The docstring of the module describes how this depends on the server.
        """
        if self._conditional is not None and self.has_conditional_writes:
            return self._write_if(self._conditional, name, tag, data)
        with _IN_PROCESS:
            if self.read_tagged(name)[1] != tag:
                return False
            self.write(name, data)
            return True

    @property
    def has_conditional_writes(self) -> bool:
        """True if several drivers can be kept apart. Tests each server once."""
        if self._conditional is None:
            return self._is_memory
        server = (self._conditional.server, self._root.partition("/")[0])
        if server not in _CONDITIONAL:
            probe = f".probe/{os.urandom(8).hex()}"
            try:
                _CONDITIONAL[server] = self._honors_conditions(self._conditional, probe)
            except StoreError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSYS, errno.EINVAL):
                    raise
                _CONDITIONAL[server] = False
            self.remove(probe)
        return _CONDITIONAL[server]

    def _honors_conditions(self, conditional: ConditionalWrites, name: str) -> bool:
        """Creates and replaces an object, and tries both again with conditions that no longer hold."""
        self._write_if(conditional, name, None, b"1")
        tag = self.read_tagged(name)[1]
        for data, condition in ((b"2", tag), (b"3", tag), (b"4", None)):
            self._write_if(conditional, name, condition, data)
        # What was written counts, because the response to a successful write may be lost.
        return self.read_tagged(name)[0] == b"2"

    def _write_if(self, conditional: ConditionalWrites, name: str, tag: str | None, data: bytes) -> bool:
        path = self._path(name)
        return self._with_retries(f"write {name}", lambda: conditional.write(path, tag, data), writes=True)

    def _find(self, path: str) -> dict[str, ObjectInfo]:
        """Returns all objects below a path, and with some servers the one with this path."""
        if self._is_s3:
            return self._list_s3(path)[0]
        try:
            found = self._fs.find(path, detail=True)
        except FileNotFoundError:
            return {}
        if isinstance(found, list):  # adlfs: there is nothing below the path
            return {}
        return {name: ObjectInfo.of(info["size"], info) for name, info in found.items()}

    def _list_s3(self, path: str, delimiter: str = "") -> tuple[dict[str, ObjectInfo], list[str]]:
        """Lists what is below a path with one request per thousand names. Returns objects, and the next parts."""
        bucket, key, _ = self._fs.split_path(path.rstrip("/"))
        options = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": delimiter}
        objects: dict[str, ObjectInfo] = {}
        folders: list[str] = []
        while True:
            page = self._fs.call_s3("list_objects_v2", **options)
            for item in page.get("Contents", ()):
                objects[f"{bucket}/{item['Key']}"] = ObjectInfo.of(item["Size"], item)
            folders += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated"):
                return objects, [*folders, *objects]
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _with_retries(self, description: str, action: Callable[[], T], *, writes: bool = False) -> T:
        """Repeats an action while the server fails. Every error but that of a missing object becomes a StoreError."""
        try:
            return retry(self.url, description, action, is_transient)
        except FileNotFoundError as error:
            if not writes:
                raise
            raise StoreError(
                f"the store {self.url} does not exist (cannot {description}).", "Create the bucket or container."
            ) from error
        except StoreError:
            raise
        except Exception as error:
            if _is_local(error):
                raise
            raise StoreError(
                f"the store {self.url} refuses to {description} ({type(error).__name__}: {error}).",
                "Check its address, your credentials and their permissions.",
            ) from error


def is_transient(error: BaseException) -> bool:
    """Returns True if a later request may succeed."""
    if isinstance(error, _PERMANENT_CLASSES):
        return False
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status in _TRANSIENT_STATUSES
    if isinstance(error, OSError | TimeoutError):
        return error.errno in _TRANSIENT_ERRNOS
    error_class = type(error)
    is_of_client = error_class.__module__.partition(".")[0] in _CLIENT_PACKAGES
    return is_of_client and not any(word in error_class.__name__ for word in _PERMANENT_NAMES)


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status of an error of Azure or GCS."""
    package = type(error).__module__.partition(".")[0]
    if package == "azure":
        return getattr(error, "status_code", None)
    if package == "gcsfs":
        return int(getattr(error, "code", None) or 0)
    # gcsfs turns status 403 into an error without a number.
    return 403 if type(error) is OSError and str(error).startswith("Forbidden: ") else None


def _is_local(error: Exception) -> bool:
    """Returns True for a full disk on this machine."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _file_system(url: str, extra: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and the path in it."""
    if extra == "gcs":
        # The class that fsspec uses sends requests to another service, which needs other permissions.
        from gcsfs.core import GCSFileSystem  # noqa: PLC0415  (an extra)

        return GCSFileSystem(**_options(extra)), url.partition("://")[2]
    file_system, path = fsspec.url_to_fs(url, **_options(extra))
    return file_system, str(path)


def _options(extra: str) -> dict[str, Any]:
    """Returns the options of the file system: no cache of listings, and no retries by the S3 client.

    fsspec caches file systems by their options, so the options contain the server.
    """
    options: dict[str, Any] = {"use_listings_cache": False}
    if extra == "s3":
        user_options = dict(conf.get("s3", {}))
        options["config_kwargs"] = {
            "max_pool_connections": RENEWED_AT_ONCE,
            **user_options.get("config_kwargs", {}),
            "retries": {"max_attempts": 0},
        }
        server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if server and "endpoint_url" not in user_options:
            options["endpoint_url"] = server
    return options
