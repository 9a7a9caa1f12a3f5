"""A store at any URL of fsspec: s3://, gs://, abfs://, memory:// and others.

The layout is the one in `cluster.store.base`. Objects cannot be renamed, so an attempt uploads its files to their final
names. Writing the manifest, a single object, is the commit. Checkpoints are stored as `work/<sha256>`; `work.json`,
written after them, lists the latest ones. The workers of a step with several of them may run on several machines; there
`cluster.store.host_files` has what the process of the step does otherwise.

Each machine keeps unfinished and fetched results in a folder below `CLOZELINE_CACHE` (default ~/.cache/clozeline).
Fetched results are stored by the digest of their content, so a machine fetches nothing twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import CorruptResultError, LeaseLostError, StoreError
from cluster.redaction import redact
from cluster.store.base import FILES, LookupResult, StagedResult, Store, attempt_folder
from cluster.store.checkpoints import Checkpoints
from cluster.store.files import cache_folder, remove, sorted_files
from cluster.store.host_files import HostFiles
from cluster.store.lease import Lease, from_json, locked, to_json
from cluster.store.manifest import Manifest
from cluster.store.object_store import NUM_THREADS, ObjectStore
from cluster.store.retries import budget

MAX_SWAPS = 5


@dataclass(frozen=True, slots=True)
class ObjectLease:
    """A lease that is stored as an object. A free lease contains `null`, because some servers cannot delete an object
    under a condition.
    """

    objects: ObjectStore
    name: str

    def __hash__(self) -> int:
        return hash((self.objects.url, self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectLease) and (self.objects.url, self.name) == (other.objects.url, other.name)

    def read(self) -> Lease | None:
        """See `cluster.store.lease.LeaseBackend`."""
        return self._read_tagged()[0]

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        """See `cluster.store.lease.LeaseBackend`."""
        for _ in range(MAX_SWAPS):
            current, tag = self._read_tagged()
            if lease is not None and current == lease:
                # The first write succeeded but its response was lost, and this is the retry.
                return True
            if (current.token if current else None) != token:
                return False
            if self.objects.compare_and_swap(self.name, tag, to_json(lease)):
                return True
        return False

    def _read_tagged(self) -> tuple[Lease | None, str | None]:
        data, tag = self.objects.read_tagged(self.name)
        return (None if data is None else from_json(data)), tag


class RemoteStore(Store):
    """Results below a URL.

    Raises:
        StoreError: no installed library supports the URL.
    """

    def __init__(self, url: str) -> None:
        self.objects = ObjectStore(url)
        self.url = self.objects.url
        self.local = cache_folder() / "stores" / _folder_name(self.url)

    def inspect_all(self, keys: Iterable[tuple[str, str]], verify: bool = False) -> list[LookupResult]:
        """See `Store`. Looks up several at a time, because each needs two requests."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return list(pool.map(lambda key: self.inspect(key[0], key[1], verify), keys))

    @property
    def accepts_many_drivers(self) -> bool:
        """See `Store`. Depends on the server."""
        return self.objects.has_conditional_writes

    def slot(self, step: str, fingerprint: str) -> ObjectLease:
        """See `Store`."""
        return ObjectLease(self.objects, f"{step}/{fingerprint}/lease.json")

    def begin(
        self, step: str, fingerprint: str, token: str, *, has_workers: bool = False, rival: str = ""
    ) -> RemoteStagedResult:
        """See `Store`."""
        return RemoteStagedResult(self, step, fingerprint, token, has_workers=has_workers, rival=rival)

    def host_files(self, step: str, fingerprint: str, token: str) -> HostFiles:
        """See `Store`."""
        folder = self.scratch(step, fingerprint) / "workers"
        return HostFiles(self.objects, f"{step}/{fingerprint}", folder, attempt_folder(token))

    def scratch(self, step: str, fingerprint: str) -> Path:
        """Returns the folder on this machine for unfinished files of a result."""
        return self.local / "scratch" / step / fingerprint

    def adopt(self, source: Manifest, manifest: Manifest, token: str) -> Manifest:
        """See `Store`. The server copies the files."""
        name = f"{manifest.step}/{manifest.fingerprint}"
        before, tag = self.objects.read_tagged(f"{name}/manifest.json")
        manifest = replace(manifest, folder=attempt_folder(token))
        origin = f"{source.step}/{source.fingerprint}/{source.folder}"
        self.objects.copy_all(origin, manifest.files, f"{name}/{manifest.folder}")
        self.commit_manifest(manifest, token, tag, _folder_of(before))
        return manifest

    def commit_manifest(self, manifest: Manifest, token: str, tag: str | None, replaced: str | None) -> None:
        """Writes the manifest, if the lease still has `token` and the manifest still has `tag` (None: is missing).

        Then removes what earlier attempts left, but not the folder `replaced`, which steps may be reading.

        Raises:
            LeaseLostError: another driver took the step over.
        """
        lease = self.slot(manifest.step, manifest.fingerprint).read()
        if lease is None or lease.token != token:
            raise LeaseLostError(manifest.step)
        folder, data = f"{manifest.step}/{manifest.fingerprint}", manifest.to_json()
        is_written = self.objects.compare_and_swap(f"{folder}/manifest.json", tag, data)
        # The response to a successful write may be lost.
        if not is_written and self.objects.read_tagged(f"{folder}/manifest.json")[0] != data:
            raise LeaseLostError(manifest.step)
        # The result is committed; objects that remain only cost space.
        with suppress(StoreError):
            self._remove_leftovers(folder, {manifest.folder, replaced})

    def files_of(self, manifest: Manifest) -> Path:
        """See `Store`."""
        folder = self.cached(manifest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent):
            if not _is_complete(folder, manifest):
                self._download(manifest, folder)
        return folder

    def cached(self, manifest: Manifest) -> Path:
        """Returns the folder on this machine for the files of a result."""
        return self.local / "results" / manifest.step / manifest.fingerprint / manifest.content_digest[:16]

    def upload(self, path: Path) -> None:
        """See `Store`."""
        if path.is_dir():
            self.objects.upload_all(path, sorted_files(path), self._name(path))
        elif path.exists():
            self.objects.upload(path, self._name(path))

    def uri_of(self, path: Path) -> str:
        """See `Store`."""
        return f"{self.url}/{self._name(path)}"

    def delete(self, step: str, fingerprint: str) -> None:
        """See `Store`. Removes the copies on this machine, too."""
        super().delete(step, fingerprint)
        for name in ("results", "scratch"):
            remove(self.local / name / step / fingerprint)

    def _remove_leftovers(self, folder: str, kept: Collection[str | None]) -> None:
        """Removes what earlier attempts left in the folder of a committed result."""
        names = self.objects.list_below(folder)
        self.objects.remove_all(f"{folder}/{name}" for name in names if _is_leftover(name, kept))

    def _download(self, manifest: Manifest, folder: Path) -> None:
        """Downloads and checks files in another folder, which is renamed when it is complete."""
        part = folder.with_name(f".{folder.name}.part")
        remove(part)
        remove(folder)
        part.mkdir(parents=True)
        problems = []
        try:
            for name, entry in manifest.files.items():
                try:
                    if self.objects.download(self._file(manifest, name), part / name) != entry.sha256:
                        problems.append(f"{name} has changed content")
                except FileNotFoundError:
                    problems.append(f"{name} is missing")
            if problems:
                raise CorruptResultError(manifest.step, tuple(problems))
            part.rename(folder)
        finally:
            remove(part)

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return self.objects.read(name)

    def write(self, name: str, data: bytes) -> None:
        """See `Store`."""
        self.objects.write(name, data)

    def remove(self, name: str) -> None:
        """See `Store`. Removes the lease last: once it is gone, another driver can acquire the step."""
        self.objects.remove(name, last="lease.json")

    def children(self, name: str) -> list[str]:
        """See `Store`."""
        return self.objects.children(name)

    def _commit_times(self, step: str) -> Mapping[str, float]:
        times = {}
        for name, item in self.objects.list_below(step).items():
            fingerprint, _, file = name.partition("/")
            if file == "manifest.json":
                times[fingerprint] = item.written_at
        return times

    def _num_bytes(self, name: str) -> int:
        return sum(self.objects.sizes(name).values())

    def _written_at(self, name: str) -> float:
        return max((item.written_at for item in self.objects.list_below(name).values()), default=0.0)

    def _sizes(self, manifest: Manifest) -> Mapping[str, int]:
        return self.objects.sizes(f"{manifest.step}/{manifest.fingerprint}/{manifest.folder}")

    def _digest(self, manifest: Manifest, name: str) -> str:
        return self.objects.digest(self._file(manifest, name))

    def _file(self, manifest: Manifest, name: str) -> str:
        return f"{manifest.step}/{manifest.fingerprint}/{manifest.folder}/{name}"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.local).as_posix()


class RemoteStagedResult(StagedResult):
    """Writes files on this machine and uploads them to commit. Uploads checkpoints while the step runs.

    With workers, which do both on their machines, it only commits. With a rival it keeps its checkpoints to itself.
    """

    def __init__(
        self,
        store: RemoteStore,
        step: str,
        fingerprint: str,
        token: str,
        *,
        has_workers: bool = False,
        rival: str = "",
    ) -> None:
        self._store = store
        self._name = f"{step}/{fingerprint}"
        before, tag = store.objects.read_tagged(f"{self._name}/manifest.json")
        self._manifest_tag: str | None = tag
        self._replaced = _folder_of(before)
        self._is_published = False
        super().__init__(store.scratch(step, fingerprint), step, fingerprint, token, rival)
        self._checkpoints = Checkpoints(store.objects, self._name, self.checkpoint_dir)
        if not has_workers and not rival:
            self._checkpoints.restore()
            self._checkpoints.start()

    def discard(self) -> None:
        """See `StagedResult`."""
        is_superseded = not self._is_published and self._is_superseded()
        self._checkpoints.stop(save=not is_superseded)
        remove(self.out)
        if is_superseded or self._rival:
            remove(self.checkpoint_dir)

    def _is_superseded(self) -> bool:
        """Returns True if another attempt has committed since this one started: no one needs its checkpoints."""
        with suppress(StoreError), budget(0):
            return self._store.objects.read_tagged(f"{self._name}/manifest.json")[1] != self._manifest_tag
        return False

    def publish(self, manifest: Manifest) -> Manifest:
        """See `StagedResult`."""
        manifest = replace(manifest, folder=attempt_folder(self._token))
        self._checkpoints.stop(save=False)
        self._store.objects.upload_all(self.out, sorted_files(self.out), f"{self._name}/{manifest.folder}")
        self.claim()
        # The tag proves that no other attempt committed since this one started.
        self._store.commit_manifest(manifest, self._token, self._manifest_tag, self._replaced)
        self._is_published = True
        self._move_to_cache(manifest)
        return manifest

    def _move_to_cache(self, manifest: Manifest) -> None:
        """Keeps the files on this machine, if all are here, so that steps that run here need not download them."""
        if not self.uploaded:
            folder = self._store.cached(manifest)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.parent):
                remove(folder)
                self.out.rename(folder)
        remove(self.checkpoint_dir.parent)


def _folder_of(data: bytes | None) -> str | None:
    """Returns the folder that a manifest names; None if there is no readable manifest."""
    with suppress(StoreError):
        return None if data is None else Manifest.from_json(data).folder
    return None


def _is_leftover(name: str, kept: Collection[str | None]) -> bool:
    """Says if a name in the folder of a committed result is neither part of the result nor of the next one."""
    if name in ("failure.json", "work.json") or name.startswith("work/"):
        return True
    return name.startswith(f"{FILES}/") and "/".join(name.split("/")[:2]) not in kept


def _is_complete(folder: Path, manifest: Manifest) -> bool:
    try:
        return all((folder / name).stat().st_size == entry.size for name, entry in manifest.files.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _folder_name(url: str) -> str:
    """Returns a readable folder name that is unique for each URL."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", redact(url)).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
