"""Writes an object only if no one else wrote it first, by the preconditions of S3, Azure and GCS.

| server | tag of an object | create | replace |
|---|---|---|---|
| S3 | ETag | If-None-Match: * | If-Match |
| Azure | ETag | If-None-Match: * | If-Match |
| GCS | generation | ifGenerationMatch=0 | ifGenerationMatch |

S3 has both since November 2024. The classes use file systems of fsspec, whose own functions cannot replace an object
under a condition. They do not retry; `cluster.store.object_store` does. A request that takes longer than
`retries.request_s` fails with a TimeoutError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from fsspec.asyn import sync

from cluster.store.retries import request_s


class ConditionalWrites(Protocol):
    """Objects of one server by their paths, `bucket/name`."""

    @property
    def server(self) -> str:
        """Address of the server."""

    def read(self, path: str) -> tuple[bytes, str]:
        """Returns an object and a tag that changes with every write. Raises FileNotFoundError."""

    def write(self, path: str, tag: str | None, data: bytes) -> bool:
        """Writes an object if it still has this tag (None: if it does not exist). Returns False if it does not.

        Raises:
            FileNotFoundError: the bucket does not exist.
        """


class S3Writes:
    """Conditional writes of S3 and servers that are compatible with it, through s3fs."""

    _REFUSED: ClassVar = ("NoSuchKey", "404", "PreconditionFailed", "412", "ConditionalRequestConflict", "409")
    """Error codes: the object does not exist, was changed, or is being written by another client now."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    @property
    def server(self) -> str:
        """See `ConditionalWrites`."""
        return str(self._fs.endpoint_url)

    def read(self, path: str) -> tuple[bytes, str]:
        """See `ConditionalWrites`."""
        bucket, key, _ = self._fs.split_path(path)
        response = self._fs.call_s3("get_object", Bucket=bucket, Key=key, timeout=request_s())
        return bytes(sync(self._fs.loop, response["Body"].read, timeout=request_s())), str(response["ETag"])

    def write(self, path: str, tag: str | None, data: bytes) -> bool:
        """See `ConditionalWrites`."""
        bucket, key, _ = self._fs.split_path(path)
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, timeout=request_s(), **condition)
        except Exception as error:
            if self._code(error) in self._REFUSED:
                return False
            raise
        return True

    @staticmethod
    def _code(error: Exception) -> str:
        response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
        return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


class AzureWrites:
    """Conditional writes of Azure Blob Storage, through the client of adlfs."""

    def __init__(self, fs: Any) -> None:
        from azure import core  # noqa: PLC0415  (an extra)

        self._fs = fs
        self._unchanged = core.MatchConditions.IfNotModified
        self._refused = (core.exceptions.ResourceExistsError, core.exceptions.ResourceModifiedError)
        self._missing = core.exceptions.ResourceNotFoundError

    @property
    def server(self) -> str:
        """See `ConditionalWrites`."""
        return str(self._fs.service_client.primary_endpoint)

    def read(self, path: str) -> tuple[bytes, str]:
        """See `ConditionalWrites`."""
        try:
            data, tag = sync(self._fs.loop, self._download, path, timeout=request_s())
        except self._missing as error:
            raise FileNotFoundError(path) from error
        return data, tag

    def write(self, path: str, tag: str | None, data: bytes) -> bool:
        """See `ConditionalWrites`."""
        condition = {} if tag is None else {"etag": tag, "match_condition": self._unchanged}
        try:
            options = {"overwrite": tag is not None, **condition}
            sync(self._fs.loop, self._upload, path, data, options, timeout=request_s())
        except self._refused:
            return False
        except self._missing as error:
            raise FileNotFoundError(path) from error
        return True

    async def _download(self, path: str) -> tuple[bytes, str]:
        async with self._client(path) as client:
            stream = await client.download_blob(retry_total=0)
            return await stream.readall(), str(stream.properties.etag)

    async def _upload(self, path: str, data: bytes, options: dict[str, Any]) -> None:
        async with self._client(path) as client:
            await client.upload_blob(data, retry_total=0, **options)

    def _client(self, path: str) -> Any:
        container, name, _ = self._fs.split_path(path)
        return self._fs.service_client.get_blob_client(container, name)


class GcsWrites:
    """Conditional writes of Google Cloud Storage, through requests of gcsfs to the JSON API."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    @property
    def server(self) -> str:
        """See `ConditionalWrites`."""
        return str(self._fs.base)

    def read(self, path: str) -> tuple[bytes, str]:
        """See `ConditionalWrites`."""
        bucket, key, _ = self._fs.split_path(path)
        headers, data = self._fs.call("GET", "b/{}/o/{}", bucket, key, alt="media", timeout=request_s())
        return bytes(data), str(headers["X-Goog-Generation"])

    def write(self, path: str, tag: str | None, data: bytes) -> bool:
        """See `ConditionalWrites`."""
        bucket, key, _ = self._fs.split_path(path)
        boundary = os.urandom(16).hex()
        parts = (b"application/json; charset=UTF-8", json.dumps({"name": key}).encode()), (b"application/json", data)
        body = b"".join(b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (boundary.encode(), *part) for part in parts)
        try:
            self._fs.call(
                "POST",
                f"{self._fs.base.removesuffix('storage/v1/')}upload/storage/v1/b/{{}}/o",
                bucket,
                uploadType="multipart",
                ifGenerationMatch=tag or "0",
                headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
                data=body + b"--%b--" % boundary.encode(),
                timeout=request_s(),
            )
        except FileExistsError:  # status 412
            return False
        return True


_CLASSES: dict[str, Callable[[Any], ConditionalWrites]] = {"s3": S3Writes, "azure": AzureWrites, "gcs": GcsWrites}


def conditional_writes(extra: str, fs: Any) -> ConditionalWrites | None:
    """Returns the conditional writes of a file system.

    Args:
        extra: Extra of this package that installs the file system.
        fs: The file system.

    Returns:
        None if its server is not known to have them.
    """
    writes = _CLASSES.get(extra)
    return None if writes is None else writes(fs)
