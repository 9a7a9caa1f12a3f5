"""The manifest of a committed result and the key by which the result is found.

A key holds everything that can change a result; its hash is the fingerprint. Paths, numbers of workers, devices and log
settings are not part of it. The manifest lists the key, the files, the upstream results and the course of the attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.canonical_json import canonical
from cluster.errors import OutdatedManifestError, StoreError

FORMAT = 2
"""Raised when the key or the layout of results changes. Steps with older results rerun."""


@dataclass(frozen=True, slots=True)
class Key:
    """A step's identity.

    `components` has dotted keys, such as `config.loop.steps`, `inputs.members.0`, `assets.backbone`,
    `code.stages.training.loop`; `fingerprint` is the hash of all of them.
    """

    fingerprint: str
    components: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One component that differs; None where it is absent."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.name.startswith("code."):
            return f"the code of {self.name[5:]} changed"
        if self.name.startswith(("inputs.", "assets.")):
            return f"{self.name} changed"
        return f"{self.name}: {_shown(self.before)} -> {_shown(self.after)}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Components that differ: those of the config first, then inputs, assets, code."""
    order = ("config", "inputs", "assets", "code")
    # by canonical form, as the fingerprint has it: 16 and 16.0 are equal in Python
    names = [name for name in {**before, **after} if canonical(before.get(name)) != canonical(after.get(name))]
    names.sort(key=lambda name: order.index(top) if (top := name.partition(".")[0]) in order else -1)
    return tuple(Difference(name, before.get(name), after.get(name)) for name in names)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """Size in bytes and sha256 in hex of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A committed result. The manifest is written last: if it exists, the files exist.

    Args:
        step: Name of the step.
        fingerprint: Its fingerprint.
        key: The components of the fingerprint.
        files: Relative paths of the files.
        upstream_digests: Upstream step -> `content_digest` of the result that was read.
        result: What the stage returned, as JSON values.
        metrics: Last value of every metric.
        run_id: MLflow run of the attempt.
        seconds: Duration of the attempt.
        committed_at: Time of the commit in seconds since 1970.
        attempt: Number of the attempt, from 1.
        host: Machine that ran it.
        versions: Versions of Python and the libraries.
        folder: Folder of the files, relative to the manifest.
        format: `FORMAT` of the program that wrote it.
    """

    step: str
    fingerprint: str
    key: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    upstream_digests: Mapping[str, str]
    result: Any
    metrics: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None
    seconds: float = 0.0
    committed_at: float = 0.0
    attempt: int = 1
    host: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: str = "files"
    format: int = FORMAT

    @property
    def content_digest(self) -> str:
        """Digest of all files. It depends on their names and bytes only."""
        digests = {name: entry.sha256 for name, entry in self.files.items()}
        return hashlib.sha256(canonical(digests).encode()).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Total size of all files."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> bytes:
        """Returns the content of the file. A metric may be NaN, which Python's JSON parser accepts."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Reads a manifest.

        Raises:
            OutdatedManifestError: it has another format.
            StoreError: the file is damaged.
        """
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise OutdatedManifestError(fields["format"], FORMAT)
            fields["files"] = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the manifest cannot be read ({type(error).__name__}: {error}).",
                "Run the pipeline again: the step reruns.",
            ) from error
