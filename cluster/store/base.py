"""The store: committed results of steps, each complete or absent.

<store>/<step name>/<fingerprint>/
    files/            what the stage wrote, and result.json
    manifest.json     written last; without it the other files do not count
    work/             checkpoints of an unfinished step; removed after the commit
    failure.json      the last error, until an attempt succeeds
    lease.json        the driver that runs the step now
<store>/logs/<step name>/<fingerprint, 12 letters>-<attempt>.log
<store>/reports/<recipe>/

This module defines what every store does. `local.py` stores results in a folder, `remote.py` at any URL of fsspec, and
`location.py` opens the right one.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.canonical_json import plain
from cluster.errors import CorruptResultError, OutdatedManifestError, StepFailedError, StoreError
from cluster.store.files import file_digest, remove, sorted_files
from cluster.store.lease import Lease, LeaseBackend
from cluster.store.manifest import FileEntry, Manifest, differences

RESULT = "result.json"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What lies in the store for one fingerprint: a sound result, or why there is none (empty: never made).

    `problems` names what is wrong with each file; `reasons` says the same as whole sentences, for plans.
    """

    manifest: Manifest | None
    problems: tuple[str, ...] = ()
    is_outdated: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the step must be run."""
        lead = "made by another version" if self.is_outdated else "output files damaged"
        return tuple(f"{lead}: {problem}" for problem in self.problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleResult:
    """A result, or the remains of an attempt, that nobody asks for any more.

    `committed` is the time of its commit in seconds since 1970, None if there was none; `owner` who works on it now.
    """

    step: str
    fingerprint: str
    num_bytes: int
    committed_at: float | None
    owner: str = ""


class Store(ABC):
    """Results of steps.

    `url` is what `Store.open` takes to open the same store in another process. `local` is a folder on this machine
    for what must be on a disk: logs while they grow, reports, MLflow's database. For a store on a disk it is the store.
    """

    url: str
    local: Path

    # --- how it is kept ---------------------------------------------------------------------------------------

    @abstractmethod
    def slot(self, step: str, fingerprint: str) -> LeaseBackend:
        """Where the lease of a step is."""

    @abstractmethod
    def begin(self, step: str, fingerprint: str, token: str) -> StagedResult:
        """Starts a result. For who holds the lease with `token`."""

    @abstractmethod
    def adopt(self, source: Manifest, manifest: Manifest, token: str) -> Manifest:
        """Commits `manifest` with a copy of the files of `source`, another result of the same step.

        Only the holder of the lease with `token` may call it. Files on one disk are linked, not copied.

        Raises:
            LeaseLostError: another driver took the step over.
            StoreError: the store cannot be written.
        """

    @abstractmethod
    def files(self, step: str, fingerprint: str) -> Path:
        """The folder of the committed files, on this machine's disk; fetched, and compared to the manifest, if need be.

        Raises:
            CorruptResult: what was fetched is not what the manifest says.
            StoreError: there is no such result, or the store is out of reach.
        """

    @abstractmethod
    def upload(self, path: Path) -> None:
        """Shows a file or folder below `local` to all who use the store, at the same place below its root."""

    @abstractmethod
    def uri_of(self, path: Path) -> str:
        """Where all find what `share` was given."""

    @abstractmethod
    def _read(self, name: str) -> bytes:
        """A small file below the root. Raises FileNotFoundError."""

    @abstractmethod
    def _write(self, name: str, data: bytes) -> None:
        """A small file below the root, wholly or not at all."""

    @abstractmethod
    def _remove(self, name: str) -> None:
        """A file or folder below the root, if it is there."""

    @abstractmethod
    def _children(self, name: str) -> list[str]:
        """Names in a folder below the root; none if it is not there."""

    @abstractmethod
    def _num_bytes(self, name: str) -> int:
        """Size of all below a folder."""

    @abstractmethod
    def _sizes(self, manifest: Manifest) -> Mapping[str, int]:
        """Sizes in bytes of the files of a result that are there."""

    @abstractmethod
    def _digest(self, manifest: Manifest, name: str) -> str:
        """sha256 of a file of a result, read now."""

    # --- what it is -------------------------------------------------------------------------------------------

    def log_path(self, step: str, fingerprint: str, attempt: int) -> Path:
        """Where, on this machine, everything goes that a step prints. Given to `share` when the step ends."""
        return self.local / "logs" / step / f"{fingerprint[:12]}-{attempt}.log"

    def inspect(self, step: str, fingerprint: str, verify: bool = False) -> LookupResult:
        """Looks a result up. A result with a missing or altered file is none.

        Args:
            step: Name of the step.
            fingerprint: Its fingerprint.
            verify: Read all files and compare their hashes, not only their sizes.
        """
        try:
            manifest = self._manifest(step, fingerprint)
        except FileNotFoundError:
            return LookupResult(None)
        except OutdatedManifestError as error:
            return LookupResult(None, (error.problem,), is_outdated=True)
        except CorruptResultError as error:
            return LookupResult(None, error.problems)
        problems = tuple(self._damage(manifest, verify))
        return LookupResult(None if problems else manifest, problems)

    def inspect_all(self, wanted: Iterable[tuple[str, str]], verify: bool = False) -> list[LookupResult]:
        """Looks up results by step and fingerprint, in that order. See `inspect`."""
        return [self.inspect(step, fingerprint, verify) for step, fingerprint in wanted]

    def lookup(self, step: str, fingerprint: str, verify: bool = False) -> Manifest | None:
        """The manifest of a sound result, or None."""
        return self.inspect(step, fingerprint, verify).manifest

    def require(self, step: str, fingerprint: str, verify: bool = False) -> Manifest:
        """The manifest of a result that must be there.

        Raises:
            CorruptResult: it is damaged.
            StoreError: it was never made.
        """
        found = self.inspect(step, fingerprint, verify)
        if found.problems:
            raise CorruptResultError(step, found.problems)
        if found.manifest is None:
            raise StoreError(f"step {step} has no committed result.", "Run the pipeline first.")
        return found.manifest

    def results(self, step: str) -> Iterator[Manifest]:
        """All readable manifests of a step, of any fingerprint; their files are not looked at."""
        for name in self.fingerprints(step):
            with suppress(FileNotFoundError, CorruptResultError, OutdatedManifestError):
                yield self._manifest(step, name)

    def fingerprints(self, step: str) -> list[str]:
        """All fingerprints of a step for which anything was ever written."""
        return sorted(name for name in self._children(step) if _FINGERPRINT.fullmatch(name))

    def nearest(self, step: str, fingerprint: str, components: Mapping[str, Any] | None = None) -> Manifest | None:
        """The committed result that another fingerprint is best explained by.

        The one with the fewest differing components if these are given, and of equals the latest.
        """

        def rank(manifest: Manifest) -> tuple[int, float]:
            distance = len(differences(manifest.key, components)) if components is not None else 0
            return distance, -manifest.committed_at

        others = [item for item in self.results(step) if item.fingerprint != fingerprint]
        return min(others, key=rank, default=None)

    def lease(self, step: str, fingerprint: str) -> Lease | None:
        """Who runs the step now, so far as is known."""
        lease = self.slot(step, fingerprint).read()
        return None if lease is None or lease.owner.is_dead() else lease

    def record_failure(self, fingerprint: str, failure: StepFailedError) -> None:
        """Keeps the last error of a step. A store that cannot be written, often the very reason, is left alone."""
        about = {key: value for key, value in vars(failure).items() if key != "problem"}
        with suppress(OSError, StoreError):
            self._write(f"{failure.step}/{fingerprint}/failure.json", json.dumps(about, indent=1).encode())

    def failure(self, step: str, fingerprint: str) -> StepFailedError | None:
        """The last error of a step that has not succeeded since."""
        try:
            about = json.loads(self._read(f"{step}/{fingerprint}/failure.json"))
            return StepFailedError(about.pop("step"), about.pop("error"), **about)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def invalidate(self, step: str, fingerprint: str) -> None:
        """Takes a result out of use, manifest first. For who holds the lease."""
        self._remove(f"{step}/{fingerprint}/manifest.json")
        self._remove(f"{step}/{fingerprint}/files")

    def find_stale(self, keep: Mapping[str, Collection[str]]) -> list[StaleResult]:
        """Results, and remains of attempts, of the steps in `keep` whose fingerprints are not among those given."""
        return [
            self._stale_result(step, name)
            for step in keep
            for name in self.fingerprints(step)
            if name not in keep[step]
        ]

    def delete(self, step: str, fingerprint: str) -> None:
        """Removes a result with all that belongs to it, manifest first. For who holds the lease."""
        self.invalidate(step, fingerprint)
        for name in self._children(f"logs/{step}"):
            if name.startswith(f"{fingerprint[:12]}-"):
                self._remove(f"logs/{step}/{name}")
        self._remove(f"{step}/{fingerprint}")

    def outdated(self, step: str) -> str | None:
        """What is said of a result that another version of the program committed; None if there is none."""
        for name in self.fingerprints(step):
            try:
                self._manifest(step, name)
            except OutdatedManifestError as error:
                return error.problem
            except (FileNotFoundError, CorruptResultError):  # not committed, or told by whoever asks for it
                continue
        return None

    def _manifest(self, step: str, fingerprint: str) -> Manifest:
        data = self._read(f"{step}/{fingerprint}/manifest.json")
        try:
            return Manifest.from_json(data)
        except OutdatedManifestError:
            raise
        except StoreError as error:
            raise CorruptResultError(step, (error.problem,)) from error

    def _damage(self, manifest: Manifest, verify: bool) -> Iterator[str]:
        sizes = self._sizes(manifest)
        for name, entry in manifest.files.items():
            size = sizes.get(name)
            if size is None:
                yield f"{name} is missing"
            elif size != entry.size:
                yield f"{name} has {size} bytes and should have {entry.size}"
            elif verify and self._digest(manifest, name) != entry.sha256:
                yield f"{name} has other content than was written"

    def _stale_result(self, step: str, fingerprint: str) -> StaleResult:
        committed = None
        with suppress(FileNotFoundError, CorruptResultError, OutdatedManifestError):
            committed = self._manifest(step, fingerprint).committed_at
        lease = self.lease(step, fingerprint)
        return StaleResult(
            step=step,
            fingerprint=fingerprint,
            num_bytes=self._num_bytes(f"{step}/{fingerprint}"),
            committed_at=committed,
            owner=str(lease.owner) if lease is not None else "",
        )


class StagedResult(ABC):
    """A result in the making. `out` is where files are written, `work` where checkpoints survive a crash."""

    def __init__(self, place: Path, step: str, fingerprint: str, token: str) -> None:
        self.step = step
        self.fingerprint = fingerprint
        self._token = token
        self.out = place / f"files.{token}.part"
        self.checkpoint_dir = place / "work"
        for leftover in place.glob("files.*.part"):
            remove(leftover)
        self.out.mkdir(parents=True)
        self.checkpoint_dir.mkdir(exist_ok=True)

    def commit(self, result: Any, build: Callable[[Any, dict[str, FileEntry]], Manifest]) -> Manifest:
        """Makes the files permanent and writes the manifest.

        Args:
            result: What the stage returned; it becomes result.json.
            build: Makes the manifest from the plain result and the files.

        Raises:
            FingerprintError: the result has no canonical form.
            LeaseLost: another driver took the step over.
            StoreError: the store cannot be written.
        """
        shown = plain(result, f"the result of step {self.step}")
        text = json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (self.out / RESULT).write_text(text + "\n", encoding="utf-8")
        files = {
            name: FileEntry(size=(self.out / name).stat().st_size, sha256=file_digest(self.out / name))
            for name in sorted_files(self.out)
        }
        return self._publish(build(shown, files))

    @abstractmethod
    def _publish(self, manifest: Manifest) -> Manifest:
        """Files first, manifest last. Returns the manifest as written."""

    @abstractmethod
    def discard(self) -> None:
        """Throws the files away; checkpoints stay."""
