"""The manifest of a committed result: what it is made from, what was written, and how it went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.errors import OutdatedManifest, StoreError
from cluster.keys.canonical import canonical
from cluster.keys.fingerprint import FORMAT


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file: its size in bytes and its sha256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A committed result. Written last: where there is a manifest, there are the files.

    `key` holds the components of the fingerprint; `files` names relative paths; `made_from` names, for each upstream
    step, the `content` of the files that were really read; `metrics` the last value of every curve; `result` what the
    stage returned. `seconds` is the run's duration, `committed` the time in seconds since 1970. `folder` is where the
    files lie, seen from the manifest.
    """

    step: str
    fingerprint: str
    key: Mapping[str, Any]
    files: Mapping[str, Entry]
    made_from: Mapping[str, str]
    result: Any
    metrics: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None
    seconds: float = 0.0
    committed: float = 0.0
    attempt: int = 1
    host: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: str = "files"
    format: int = FORMAT

    @property
    def content(self) -> str:
        """Digest of all files: equal for equal bytes, whenever and wherever they were made."""
        return hashlib.sha256(
            canonical({name: entry.sha256 for name, entry in self.files.items()}).encode()
        ).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> bytes:
        """The manifest as a file. A metric may be NaN, which Python's JSON reads back."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Reads a manifest.

        Raises:
            OutdatedManifest: it is of another format.
            StoreError: the file is damaged.
        """
        try:
            about = json.loads(data)
            if about["format"] != FORMAT:
                raise OutdatedManifest(about["format"], FORMAT)
            about["files"] = {name: Entry(**entry) for name, entry in about["files"].items()}
            return cls(**about)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the manifest cannot be read ({type(error).__name__}: {error}).",
                "Run the pipeline again: the step is made anew.",
            ) from error
