"""The store: committed results of steps, each complete or absent.

<store>/<step name>/<fingerprint>/
    files/<token>/    what an attempt wrote, and result.json
    manifest.json     names the folder of the files; written last, and without it they do not count
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.canonical_json import plain
from cluster.errors import CorruptResultError, LeaseLostError, OutdatedManifestError, StepFailedError, StoreError
from cluster.store.files import is_rest_of_removal, remove
from cluster.store.lease import Lease, LeaseBackend
from cluster.store.manifest import FileEntry, Manifest, differences, file_entries

if TYPE_CHECKING:
    from cluster.store.host_files import HostFiles

RESULT = "result.json"
FILES = "files"
"""Folder with a folder for each attempt. In stores of earlier versions, results on a disk are in `files` itself, or in
`files-<token>` next to it. Manifests name the folder.
"""
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
"""Form of a fingerprint. No part of the name of a step has it."""
MAX_COMPARED = 8
"""Latest results of a step that are compared with a new key: a longer history must not make plans slower."""
DRIVER = "driver"
"""Folder with the lease of the only driver, in a store that accepts no second one."""
RESERVED = (
    "logs",
    "reports",
    "cache",
    "recipes",
    "runs",
    "outbox",
    DRIVER,
    "results",
    "scratch",
    "mlartifacts",
    "mlflow.db",
    ".probe",
)
"""Names at the root of a store that are no steps."""


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The state of one fingerprint in the store.

    Args:
        manifest: The manifest of an intact result; None if there is none.
        problems: What is wrong with each file; empty if nothing was ever committed.
        is_outdated: True if another version of the program committed the result.
    """

    manifest: Manifest | None
    problems: tuple[str, ...] = ()
    is_outdated: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the step must run."""
        label = "made by another version" if self.is_outdated else "output files damaged"
        return tuple(f"{label}: {problem}" for problem in self.problems)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The most similar result of a step, and the problem with one of another version of the program, if any."""

    nearest: Manifest | None
    outdated: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleResult:
    """A result, or the remains of an attempt, that no recipe uses.

    Args:
        step: Name of the step.
        fingerprint: Its fingerprint.
        num_bytes: Size of all its files.
        committed_at: Time of its commit in seconds since 1970; None if it was not committed.
        owner: The driver that runs it now; empty if none does.
        is_leftover: True for what other attempts left next to a result that stays, or is to be computed.
        rest: The rest of a removal on this machine that was interrupted.
    """

    step: str
    fingerprint: str
    num_bytes: int
    committed_at: float | None
    owner: str = ""
    is_leftover: bool = False
    rest: Path | None = None


class Store(ABC):
    """Results of steps.

    `url` is the argument with which `open_store` opens the same store in another process. `local` is a folder on this
    machine for what must be on a disk: growing logs, reports, the database of MLflow. A local store is in this folder.
    """

    url: str
    local: Path

    @property
    @abstractmethod
    def accepts_many_drivers(self) -> bool:
        """True if leases keep several drivers apart. If not, `cluster.store.sole_driver` does, for the entire store."""

    @abstractmethod
    def slot(self, step: str, fingerprint: str) -> LeaseBackend:
        """Returns where the lease of a step is stored."""

    @abstractmethod
    def begin(
        self, step: str, fingerprint: str, token: str, *, has_workers: bool = False, rival: str = ""
    ) -> StagedResult:
        """Starts a result. The caller holds the lease with `token`, or `rival` does.

        Checkpoints of an earlier attempt are in its folder, unless the step `has_workers` that use `host_files`, or
        `rival` is the token of an attempt that is still writing them. Files of the rival are left alone.
        """

    @abstractmethod
    def host_files(self, step: str, fingerprint: str, token: str) -> HostFiles | None:
        """Returns the files of a step's workers on this machine. None: they reach the folder of the staged result.

        The process of the step holds the lease with `token`.
        """

    @abstractmethod
    def adopt(self, source: Manifest, manifest: Manifest, token: str) -> Manifest:
        """Commits `manifest` with a copy of the files of `source`, another result of the same step.

        Only the holder of the lease with `token` may call it. Files on one disk are linked, not copied.

        Raises:
            LeaseLostError: another driver took the step over.
            StoreError: the store cannot be written.
        """

    def files(self, step: str, fingerprint: str) -> Path:
        """Returns a folder on this machine with the files of the current result. See `files_of`.

        Raises:
            StoreError: there is no such result.
        """
        try:
            return self.files_of(self._manifest(step, fingerprint))
        except FileNotFoundError:
            raise StoreError(f"step {step} has no committed result.", "Run the pipeline first.") from None

    @abstractmethod
    def files_of(self, manifest: Manifest) -> Path:
        """Returns a folder on this machine with the files of a result. A remote store downloads and checks them first.

        It never gets files of another attempt. The files stay until the result was replaced twice.

        Raises:
            CorruptResultError: a downloaded file is not the one in the manifest.
            StoreError: the store is unreachable.
        """

    @abstractmethod
    def upload(self, path: Path) -> None:
        """Makes a file or folder below `local` available at the same path below the root of the store."""

    @abstractmethod
    def uri_of(self, path: Path) -> str:
        """Returns the address of what `upload` was called with."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Reads a small file below the root. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Writes a small file below the root, completely or not at all."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file or folder below the root, if it exists."""

    @abstractmethod
    def children(self, name: str) -> list[str]:
        """Returns the names in a folder below the root; empty if it does not exist."""

    @abstractmethod
    def _commit_times(self, step: str) -> Mapping[str, float]:
        """Returns fingerprint -> when its manifest was written, in seconds since 1970, for all results of a step."""

    @abstractmethod
    def _num_bytes(self, name: str) -> int:
        """Returns the size of all files below a folder."""

    @abstractmethod
    def _written_at(self, name: str) -> float:
        """Returns when a file, or the newest file in a folder, was written, in seconds since 1970."""

    @abstractmethod
    def _sizes(self, manifest: Manifest) -> Mapping[str, int]:
        """Returns the sizes in bytes of the existing files of a result."""

    @abstractmethod
    def _digest(self, manifest: Manifest, name: str) -> str:
        """Reads a file of a result and returns its sha256."""

    def log_path(self, step: str, fingerprint: str, attempt: int) -> Path:
        """Returns the path on this machine for the output of an attempt. `upload` publishes it when the step ends."""
        return self.local / "logs" / step / f"{fingerprint[:12]}-{attempt}.log"

    def inspect(self, step: str, fingerprint: str, verify: bool = False) -> LookupResult:
        """Looks a result up. A result with a missing or changed file does not count.

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

    def inspect_all(self, keys: Iterable[tuple[str, str]], verify: bool = False) -> list[LookupResult]:
        """Looks up results by (step, fingerprint), in the same order. See `inspect`."""
        return [self.inspect(step, fingerprint, verify) for step, fingerprint in keys]

    def lookup(self, step: str, fingerprint: str, verify: bool = False) -> Manifest | None:
        """Returns the manifest of an intact result, or None."""
        return self.inspect(step, fingerprint, verify).manifest

    def results(self, step: str) -> Iterator[Manifest]:
        """Yields all readable manifests of a step, of any fingerprint, without checking their files."""
        for name in self.fingerprints(step):
            with suppress(FileNotFoundError, CorruptResultError, OutdatedManifestError):
                yield self._manifest(step, name)

    def fingerprints(self, step: str) -> list[str]:
        """Returns all fingerprints of a step for which anything was written."""
        return sorted(name for name in self.children(step) if FINGERPRINT.fullmatch(name))

    def nearest(self, step: str, fingerprint: str, components: Mapping[str, Any] | None = None) -> Manifest | None:
        """Returns the committed result that is most similar to another fingerprint of the step. See `compare`."""
        return self.compare(step, fingerprint, components).nearest

    def compare(self, step: str, fingerprint: str, components: Mapping[str, Any] | None = None) -> Comparison:
        """Compares a fingerprint of a step with its latest results, of which it reads at most `MAX_COMPARED`.

        The nearest one has the fewest differing `components`, if given, and is the latest one among equals.
        """
        times = self._commit_times(step)
        latest = sorted((name for name in times if name != fingerprint), key=lambda name: -times[name])
        nearest: tuple[tuple[int, float], Manifest] | None = None
        outdated = ""
        for name in latest[:MAX_COMPARED]:
            try:
                manifest = self._manifest(step, name)
            except OutdatedManifestError as error:
                outdated = outdated or error.problem
                continue
            except (FileNotFoundError, CorruptResultError):  # being written, or damaged: nothing to compare with
                continue
            distance = len(differences(manifest.key, components)) if components is not None else 0
            rank = distance, -manifest.committed_at
            if nearest is None or rank < nearest[0]:
                nearest = rank, manifest
        return Comparison(nearest[1] if nearest is not None else None, outdated)

    def lease(self, step: str, fingerprint: str) -> Lease | None:
        """Returns the lease of the step, unless its owner is known to be dead."""
        lease = self.slot(step, fingerprint).read()
        return None if lease is None or lease.owner.is_dead() else lease

    def record_failure(self, fingerprint: str, failure: StepFailedError) -> None:
        """Stores the last error of a step. Does nothing if the store cannot be written, which may be the cause."""
        fields = {key: value for key, value in vars(failure).items() if key != "problem"}
        with suppress(OSError, StoreError):
            self.write(f"{failure.step}/{fingerprint}/failure.json", json.dumps(fields, indent=1).encode())

    def failure(self, step: str, fingerprint: str) -> StepFailedError | None:
        """Returns the last error of a step that has not succeeded since."""
        try:
            fields = json.loads(self.read(f"{step}/{fingerprint}/failure.json"))
            return StepFailedError(fields.pop("step"), fields.pop("error"), **fields)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def invalidate(self, step: str, fingerprint: str) -> None:
        """Removes a result, manifest first. The caller holds the lease."""
        self.remove(f"{step}/{fingerprint}/manifest.json")
        for name in self.children(f"{step}/{fingerprint}"):
            if name.startswith("files"):
                self.remove(f"{step}/{fingerprint}/{name}")

    def steps(self) -> list[str]:
        """Returns the names of all steps for which anything was written."""
        steps: list[str] = []
        waiting = [name for name in self.children("") if name not in RESERVED]
        while waiting:
            name = waiting.pop()
            children = [child for child in self.children(name) if child[0] != "."]
            if any(FINGERPRINT.fullmatch(child) for child in children):
                steps.append(name)
            waiting += [f"{name}/{child}" for child in children if not FINGERPRINT.fullmatch(child)]
        return sorted(steps)

    def notes(self, folder: str) -> list[str]:
        """Returns the names in a reserved folder of the store, without hidden ones."""
        return sorted(name for name in self.children(folder) if name[0] != ".")

    def delete(self, step: str, fingerprint: str) -> None:
        """Removes a result with its logs and checkpoints, manifest first. The caller holds the lease."""
        self.invalidate(step, fingerprint)
        for name in self.children(f"logs/{step}"):
            if name.startswith(f"{fingerprint[:12]}-"):
                self.remove(f"logs/{step}/{name}")
        self.remove(f"{step}/{fingerprint}")

    def leftovers(self, step: str, fingerprint: str, before: float) -> StaleResult | None:
        """Returns what attempts left in the folder of a fingerprint that stays, if anything.

        Args:
            step: Name of the step.
            fingerprint: Its fingerprint, with or without a result.
            before: Only files that were replaced or written before this time count, in seconds since 1970.
        """
        names = list(self._leftovers(step, fingerprint, before))
        if not names:
            return None
        lease = self.lease(step, fingerprint)
        return StaleResult(
            step=step,
            fingerprint=fingerprint,
            num_bytes=sum(self._num_bytes(name) for name in names),
            committed_at=None,
            owner=str(lease.owner) if lease is not None else "",
            is_leftover=True,
        )

    def remove_leftovers(self, step: str, fingerprint: str, before: float) -> None:
        """Removes what `leftovers` returns. The caller holds the lease, and no step reads the files."""
        for name in list(self._leftovers(step, fingerprint, before)):
            self.remove(name)

    def _leftovers(self, step: str, fingerprint: str, before: float) -> Iterator[str]:
        """Yields the files of other attempts than the one that the manifest names, and unfinished files."""
        root = f"{step}/{fingerprint}"
        committed_at, kept = 0.0, ""
        try:
            manifest = self._manifest(step, fingerprint)
            committed_at, kept = manifest.committed_at, manifest.folder
        except FileNotFoundError:
            pass
        except (CorruptResultError, OutdatedManifestError):  # what it names is unknown
            return
        names = self.children(root)
        if FILES in names and kept != FILES:
            names += [f"{FILES}/{child}" for child in self.children(f"{root}/{FILES}")]
            names.remove(FILES)
        for name in names:
            is_unneeded = name.startswith(FILES) or name.endswith(".part")
            if name == kept or not is_unneeded or is_rest_of_removal(name.rpartition("/")[2]):
                continue
            if max(committed_at, self._written_at(f"{root}/{name}")) < before:
                yield f"{root}/{name}"

    def _manifest(self, step: str, fingerprint: str) -> Manifest:
        data = self.read(f"{step}/{fingerprint}/manifest.json")
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
                yield f"{name} has {size} bytes, expected {entry.size}"
            elif verify and self._digest(manifest, name) != entry.sha256:
                yield f"{name} has changed content"

    def discard_attempt(self, step: str, fingerprint: str, token: str) -> None:
        """Removes what the attempt with `token` left next to a committed result, and all checkpoints.

        The attempt has ended without a result, and the caller holds the lease.
        """
        root = f"{step}/{fingerprint}"
        for name in ("work.json", "work", attempt_folder(token), f"work.{token}.part", f"files.{token}.part"):
            self.remove(f"{root}/{name}")

    def stale_result(self, step: str, fingerprint: str) -> StaleResult:
        """Returns what the store has of a fingerprint that no recipe uses."""
        committed_at = None
        with suppress(FileNotFoundError, CorruptResultError, OutdatedManifestError):
            committed_at = self._manifest(step, fingerprint).committed_at
        lease = self.lease(step, fingerprint)
        return StaleResult(
            step=step,
            fingerprint=fingerprint,
            num_bytes=self._num_bytes(f"{step}/{fingerprint}"),
            committed_at=committed_at,
            owner=str(lease.owner) if lease is not None else "",
        )


def attempt_folder(token: str) -> str:
    """Returns the folder for the files of the attempt that has the lease with `token`."""
    return f"{FILES}/{token[:16]}"


class StagedResult(ABC):
    """A result that is not committed yet.

    The step writes its files to `out`, and checkpoints to `checkpoint_dir`, which survives a crash. With a `rival` (see
    `Store.begin`) it does not survive the attempt. `uploaded` has the files that a worker on another machine has
    uploaded. `claim` is called when the files are permanent, before the manifest is written; it acquires the lease of
    an attempt that has none yet.
    """

    def __init__(self, folder: Path, step: str, fingerprint: str, token: str, rival: str = "") -> None:
        self.step = step
        self.fingerprint = fingerprint
        self._token = token
        self._rival = rival
        self.uploaded: Mapping[str, FileEntry] = {}
        self.claim: Callable[[], None] = lambda: None
        self.out = folder / f"files.{token}.part"
        self.checkpoint_dir = folder / (f"work.{token}.part" if rival else "work")
        for abandoned in (*folder.glob("files.*.part"), *folder.glob("work.*.part")):
            if not rival or rival not in abandoned.name:
                remove(abandoned)
        self.out.mkdir(parents=True)
        self.checkpoint_dir.mkdir(exist_ok=True)

    def commit(self, result: Any, build: Callable[[Any, Mapping[str, FileEntry]], Manifest]) -> Manifest:
        """Publishes the files and writes the manifest.

        Args:
            result: What the stage returned; it becomes result.json.
            build: Builds the manifest from the result as JSON values and the files.

        Raises:
            FingerprintError: the result has no canonical form.
            LeaseLostError: another driver took the step over.
            StoreError: the store cannot be written.
        """
        try:
            return self._commit(result, build)
        except FileNotFoundError:
            if not self.out.exists():  # the driver that took the step over has removed what it found
                raise LeaseLostError(self.step) from None
            raise

    def _commit(self, result: Any, build: Callable[[Any, Mapping[str, FileEntry]], Manifest]) -> Manifest:
        plain_result = plain(result, f"the result of step {self.step}")
        text = json.dumps(plain_result, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (self.out / RESULT).write_text(text + "\n", encoding="utf-8")
        return self.publish(build(plain_result, {**self.uploaded, **file_entries(self.out)}))

    @abstractmethod
    def publish(self, manifest: Manifest) -> Manifest:
        """Makes the files permanent, then writes the manifest. Returns the manifest as written."""

    @abstractmethod
    def discard(self) -> None:
        """Removes the files. Keeps checkpoints that a later attempt may read."""
