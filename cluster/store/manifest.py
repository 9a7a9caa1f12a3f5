"""The manifest of a committed result and the key by which the result is found.

A key covers everything that can change a result; its hash is the fingerprint. Paths, numbers of workers, devices and
log settings are not part of it. The manifest lists the key, the files, the upstream results and how the attempt went.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.canonical_json import canonical
from cluster.errors import OutdatedManifestError, StoreError
from cluster.store.files import file_digest, sorted_files

FORMAT = 2
"""Raised when the key or the layout of results changes; steps with older results then run again."""
CODE_PARTS = ("code.", "versions.")
"""Components of a key that a user may accept: they depend on what is installed, not on the recipe or the data."""


@dataclass(frozen=True, slots=True)
class Key:
    """The identity of a result.

    `components` has dotted names, such as `config.loop.steps`, `inputs.members.0`, `assets.backbone`,
    `code.stages.common.training.loop`; `fingerprint` is the hash of all of them.
    """

    fingerprint: str
    components: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One component that differs between two keys; its value is None where the component is missing."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        part, _, rest = self.name.partition(".")
        if part == "code":
            return f"the code of {rest} changed"
        if part == "versions":
            return f"made with {rest} {self.before or 'of unknown version'}, now {self.after or 'missing'}"
        if part in ("inputs", "assets"):
            return f"{self.name} changed"
        return f"{self.name}: {_shown(self.before)} -> {_shown(self.after)}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Returns the components that differ: of the config first, then of inputs, assets, code and versions."""
    order = ("config", "inputs", "assets", "code", "versions")
    # Compare the canonical form, as the fingerprint does: 16 and 16.0 are equal in Python.
    names = [name for name in {**before, **after} if canonical(before.get(name)) != canonical(after.get(name))]
    names.sort(key=lambda name: order.index(top) if (top := name.partition(".")[0]) in order else -1)
    return tuple(Difference(name, before.get(name), after.get(name)) for name in names)


def version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Returns one sentence per library whose version differs: "made with torch 2.12, now 2.13".

    Args:
        before: Library -> version, as a manifest records them. Libraries that it does not list are skipped.
        after: The same, of this environment.
    """
    return tuple(
        str(Difference(f"versions.{library}", number, after.get(library)))
        for library, number in before.items()
        if after.get(library) != number
    )


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """A user's declaration that changes of code or libraries do not change a result.

    Args:
        user: Who accepted it, as user@host.
        accepted_at: Seconds since 1970.
        changes: What differs between the two keys, as sentences.
        fingerprint: The fingerprint of the result whose files were kept.
    """

    user: str
    accepted_at: float
    changes: tuple[str, ...]
    fingerprint: str

    def __str__(self) -> str:
        day = datetime.fromtimestamp(self.accepted_at).strftime("%Y-%m-%d")
        return f"accepted by {self.user} on {day}: {'; '.join(self.changes)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file: its size in bytes and its sha256 in hex."""

    size: int
    sha256: str


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Returns the relative paths of all files below a folder, and what is in them."""
    return {
        name: FileEntry(size=(folder / name).stat().st_size, sha256=file_digest(folder / name))
        for name in sorted_files(folder)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Describes a committed result. It is written last, so where there is a manifest, all files exist.

    Args:
        step: Name of the step.
        fingerprint: Its fingerprint.
        key: The components of the fingerprint.
        files: Relative path -> size and hash.
        upstream_digests: Upstream step -> the `content_digest` of the files that were read.
        result: What the stage returned.
        metrics: The last value of every curve.
        run_id: The MLflow run, as its tag `outbox.id`; in older manifests its id on the server.
        seconds: Duration of the attempt.
        committed_at: Seconds since 1970.
        attempt: Number of the attempt, from 1.
        host: The machine.
        versions: Python and library -> version.
        provenance: Commit of the code (null if unknown), whether files differ from it, command, user and machine of the
            driver.
        acceptances: Who kept the result when code or libraries changed, oldest first. Empty after a rerun.
        folder: Where the files are, relative to the manifest.
        format: The version of this layout.
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
    provenance: Mapping[str, Any] = field(default_factory=dict)
    acceptances: tuple[Acceptance, ...] = ()
    folder: str = "files"
    format: int = FORMAT

    @property
    def content_digest(self) -> str:
        """Digest of all files: equal for equal bytes."""
        return hashlib.sha256(
            canonical({name: entry.sha256 for name, entry in self.files.items()}).encode()
        ).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> bytes:
        """Returns the manifest as JSON. A metric may be NaN, which Python's JSON reads back."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Reads a manifest.

        Raises:
            OutdatedManifestError: it has another format.
            StoreError: the file is damaged.
        """
        try:
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise OutdatedManifestError(values["format"], FORMAT)
            values["files"] = {name: FileEntry(**entry) for name, entry in values["files"].items()}
            values["acceptances"] = tuple(
                Acceptance(**{**item, "changes": tuple(item["changes"])}) for item in values.get("acceptances", ())
            )
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the manifest cannot be read ({type(error).__name__}: {error}).",
                "Run the pipeline again to rebuild the result.",
            ) from error


class SharedParts:
    """Lets the manifests that a process keeps share what they have in common, which is most of their memory."""

    def __init__(self) -> None:
        self._parts: dict[str, Mapping[str, Any]] = {}

    def apply(self, manifest: Manifest, key: Key) -> Manifest:
        """Returns an equal manifest with one copy of all versions and provenances, and with the key of the plan."""
        return replace(
            manifest,
            step=key.components["step"],
            fingerprint=key.fingerprint,
            key=key.components,
            files={sys.intern(name): entry for name, entry in manifest.files.items()},
            upstream_digests={sys.intern(name): sys.intern(one) for name, one in manifest.upstream_digests.items()},
            host=sys.intern(manifest.host),
            folder=sys.intern(manifest.folder),
            versions=self._share(manifest.versions),
            provenance=self._share(manifest.provenance),
        )

    def _share(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._parts.setdefault(canonical(part), part)
