"""A store at any URL of fsspec: s3://, gs://, abfs://, memory:// and others.

The layout is the one in `cluster.store.base`, but objects cannot be renamed. Each attempt therefore writes to its own
folder, `files/<token>/`, which the manifest names. Writing the manifest, a single object, is the commit. Checkpoints
are stored as `work/<sha256>`; `work.json`, written after them, lists the latest ones.

Each machine keeps unfinished and fetched results in a folder below `CLOZELINE_CACHE` (default ~/.cache/clozeline).
Fetched results are stored by the digest of their content, so a machine fetches nothing twice.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import CorruptResultError, LeaseLostError, StoreError
from cluster.redaction import redact
from cluster.store.base import LookupResult, StagedResult, Store
from cluster.store.checkpoints import Checkpoints
from cluster.store.files import remove, sorted_files
from cluster.store.lease import Lease, from_json, locked, to_json
from cluster.store.manifest import Manifest
from cluster.store.object_store import NUM_THREADS, ObjectStore

SWAPS = 5


@dataclass(frozen=True, slots=True)
class ObjectLease:
    """A lease kept as an object. A free one holds `null`, for not every server removes under a condition."""

    objects: ObjectStore
    name: str

    def __hash__(self) -> int:
        return hash((self.objects.url, self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectLease) and (self.objects.url, self.name) == (other.objects.url, other.name)

    def read(self) -> Lease | None:
        """See `cluster.store.lease.LeaseBackend`."""
        return self._load()[0]

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        """See `cluster.store.lease.LeaseBackend`."""
        for _ in range(SWAPS):
            current, tag = self._load()
            if lease is not None and current == lease:
                # An answer was lost on the way, and the repeated write met its own first one.
                return True
            if (current.token if current else None) != token:
                return False
            if self.objects.swap(self.name, tag, to_json(lease)):
                return True
        return False

    def _load(self) -> tuple[Lease | None, str | None]:
        data, tag = self.objects.load(self.name)
        return (None if data is None else from_json(data)), tag


class RemoteStore(Store):
    """Results below a URL.

    Raises:
        StoreError: nothing that is installed reads such URLs.
    """

    def __init__(self, url: str) -> None:
        self.objects = ObjectStore(url)
        self.url = self.objects.url
        self.local = _home() / "stores" / _slug(self.url)

    def inspect_all(self, wanted: Iterable[tuple[str, str]], verify: bool = False) -> list[LookupResult]:
        """See `Store`. Several at a time, for each takes two answers of the server."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return list(pool.map(lambda one: self.inspect(one[0], one[1], verify), wanted))

    def slot(self, step: str, fingerprint: str) -> ObjectLease:
        """See `Store`."""
        return ObjectLease(self.objects, f"{step}/{fingerprint}/lease.json")

    def begin(self, step: str, fingerprint: str, token: str) -> RemoteStagedResult:
        """See `Store`."""
        return RemoteStagedResult(self, step, fingerprint, token)

    def adopt(self, source: Manifest, manifest: Manifest, token: str) -> Manifest:
        """See `Store`. The server copies the files."""
        name = f"{manifest.step}/{manifest.fingerprint}"
        tag = self.objects.load(f"{name}/manifest.json")[1]
        manifest = replace(manifest, folder=f"files/{token[:16]}")
        origin = f"{source.step}/{source.fingerprint}/{source.folder}"
        self.objects.copy_all(origin, manifest.files, f"{name}/{manifest.folder}")
        self.commit_manifest(manifest, token, tag)
        with suppress(StoreError):
            self.tidy(manifest)
        return manifest

    def commit_manifest(self, manifest: Manifest, token: str, tag: str | None) -> None:
        """Writes the manifest, if the lease still has `token` and the manifest still has `tag` (None: is missing).

        Raises:
            LeaseLostError: another driver took the step over.
        """
        lease = self.slot(manifest.step, manifest.fingerprint).read()
        if lease is None or lease.token != token:
            raise LeaseLostError(manifest.step)
        data, name = manifest.to_json(), f"{manifest.step}/{manifest.fingerprint}/manifest.json"
        if not self.objects.swap(name, tag, data) and self.objects.load(name)[0] != data:
            raise LeaseLostError(manifest.step)

    def tidy(self, manifest: Manifest) -> None:
        """Removes what earlier attempts left."""
        name = f"{manifest.step}/{manifest.fingerprint}"
        for leftover in ("failure.json", "work.json", "work"):
            self.objects.remove(f"{name}/{leftover}")
        for other in self.objects.children(f"{name}/files"):
            if f"files/{other}" != manifest.folder:
                self.objects.remove(f"{name}/files/{other}")

    def files(self, step: str, fingerprint: str) -> Path:
        """See `Store`."""
        try:
            manifest = self._manifest(step, fingerprint)
        except FileNotFoundError:
            raise StoreError(f"step {step} has no committed result.", "Run the pipeline first.") from None
        place = self.cached(manifest)
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place.parent):
            if not _is_whole(place, manifest):
                self._fetch(manifest, place)
        return place

    def cached(self, manifest: Manifest) -> Path:
        """Where the files of a result are kept on this machine."""
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
        """See `Store`. The copies on this machine go too."""
        super().delete(step, fingerprint)
        for kind in ("results", "scratch"):
            remove(self.local / kind / step / fingerprint)

    def _fetch(self, manifest: Manifest, place: Path) -> None:
        """Into a folder of another name, compared to the manifest, which gets its name when all is there."""
        part = place.with_name(f".{place.name}.part")
        remove(part)
        remove(place)
        part.mkdir(parents=True)
        problems = []
        try:
            for name, entry in manifest.files.items():
                try:
                    if self.objects.download(self._file(manifest, name), part / name) != entry.sha256:
                        problems.append(f"{name} has other content than was written")
                except FileNotFoundError:
                    problems.append(f"{name} is missing")
            if problems:
                raise CorruptResultError(manifest.step, tuple(problems))
            part.rename(place)
        finally:
            remove(part)

    def _read(self, name: str) -> bytes:
        return self.objects.read(name)

    def _write(self, name: str, data: bytes) -> None:
        self.objects.write(name, data)

    def _remove(self, name: str) -> None:
        # Whoever sees no lease may take the step at once.
        self.objects.remove(name, last="lease.json")

    def _children(self, name: str) -> list[str]:
        return self.objects.children(name)

    def _num_bytes(self, name: str) -> int:
        return sum(self.objects.sizes(name).values())

    def _sizes(self, manifest: Manifest) -> Mapping[str, int]:
        return self.objects.sizes(f"{manifest.step}/{manifest.fingerprint}/{manifest.folder}")

    def _digest(self, manifest: Manifest, name: str) -> str:
        return self.objects.digest(self._file(manifest, name))

    def _file(self, manifest: Manifest, name: str) -> str:
        return f"{manifest.step}/{manifest.fingerprint}/{manifest.folder}/{name}"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.local).as_posix()


class RemoteStagedResult(StagedResult):
    """Files are made on this machine and go up when all are there; checkpoints go up while the step runs."""

    def __init__(self, store: RemoteStore, step: str, fingerprint: str, token: str) -> None:
        self._store = store
        self._name = f"{step}/{fingerprint}"
        self._tag = store.objects.load(f"{self._name}/manifest.json")[1]
        super().__init__(store.local / "scratch" / step / fingerprint, step, fingerprint, token)
        self._checkpoints = Checkpoints(store.objects, self._name, self.checkpoint_dir)
        self._checkpoints.restore()
        self._checkpoints.start()

    def discard(self) -> None:
        """See `Draft`."""
        self._checkpoints.stop()
        remove(self.out)

    def _publish(self, manifest: Manifest) -> Manifest:
        objects = self._store.objects
        manifest = replace(manifest, folder=f"files/{self._token[:16]}")
        self._checkpoints.stop(save=False)
        objects.upload_all(self.out, manifest.files, f"{self._name}/{manifest.folder}")
        self._store.commit_manifest(manifest, self._token, self._tag)
        self._keep(manifest)
        # The result is committed. Leftovers only cost space.
        with suppress(StoreError):
            self._store.tidy(manifest)
        return manifest

    def _keep(self, manifest: Manifest) -> None:
        """The files are on this machine already, so the steps that read them here need not fetch them."""
        place = self._store.cached(manifest)
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place.parent):
            remove(place)
            self.out.rename(place)
        remove(self.checkpoint_dir.parent)


def _is_whole(place: Path, manifest: Manifest) -> bool:
    try:
        return all((place / name).stat().st_size == entry.size for name, entry in manifest.files.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _home() -> Path:
    """This machine's folder for what can be fetched again."""
    return Path(os.environ.get("CLOZELINE_CACHE") or Path.home() / ".cache" / "clozeline").expanduser().absolute()


def _slug(url: str) -> str:
    """A folder's name that a person recognises, different for different URLs."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", redact(url)).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
