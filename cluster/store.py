"""The store: committed results of steps, each complete or not there at all.

<store>/<step name>/<fingerprint>/
    files/            what the stage wrote, and result.json
    manifest.json     written last; without it the rest counts for nothing
    work/             checkpoints of a step that has not finished; gone after the commit
    failure.json      the last error, until a run succeeds
    lease.json        who runs the step now
<store>/logs/<step name>/<fingerprint, 12 letters>-<attempt>.log
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.canonical import plain
from cluster.digests import file_digest, sorted_files
from cluster.disk import remove, sync_folder, sync_tree, write_atomic
from cluster.errors import CorruptResult, LeaseLost, StepFailed, StoreError
from cluster.fingerprint import differences
from cluster.lease import Lease, is_held, locked, read_lease
from cluster.manifest import Entry, Manifest

RESULT = "result.json"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the store for one fingerprint: a sound result, or why there is none (empty: never made)."""

    manifest: Manifest | None
    problems: tuple[str, ...] = ()


class Store:
    """Results on a local disk. `root` is absolute."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, where: str | Path) -> Store:
        """Opens the store at a folder, which need not exist.

        Raises:
            StoreError: it is no folder, or a kind of address that is not known.
        """
        if "://" in str(where) and not str(where).startswith("file://"):
            raise StoreError(f"the store {where} is not on a local disk.", "Give a folder.")
        root = Path(str(where).removeprefix("file://")).expanduser().absolute()
        if root.exists() and not root.is_dir():
            raise StoreError(f"the store {root} is a file.", "Give a folder.")
        return cls(root)

    @property
    def url(self) -> str:
        """What `Store.open` takes to open the same store in another process."""
        return str(self.root)

    def place(self, step: str, fingerprint: str) -> Path:
        """The folder of one result."""
        return self.root / step / fingerprint

    def files(self, step: str, fingerprint: str) -> Path:
        """The folder of the committed files."""
        return self.place(step, fingerprint) / "files"

    def log_path(self, step: str, fingerprint: str, attempt: int) -> Path:
        """Where everything goes that a step prints."""
        return self.root / "logs" / step / f"{fingerprint[:12]}-{attempt}.log"

    def inspect(self, step: str, fingerprint: str, verify: bool = False) -> Found:
        """Looks a result up. A result with a missing or altered file is none.

        Args:
            step: Name of the step.
            fingerprint: Its fingerprint.
            verify: Read all files and compare their hashes, not only their sizes.
        """
        place = self.place(step, fingerprint)
        try:
            manifest = Manifest.from_json((place / "manifest.json").read_bytes())
        except FileNotFoundError:
            return Found(None)
        except StoreError as error:
            return Found(None, (error.problem,))
        problems = tuple(_damage(place / "files", manifest, verify))
        return Found(None if problems else manifest, problems)

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
            raise CorruptResult(step, found.problems)
        if found.manifest is None:
            raise StoreError(f"step {step} has no committed result.", "Run the pipeline first.")
        return found.manifest

    def results(self, step: str) -> Iterator[Manifest]:
        """All readable manifests of a step, of any fingerprint; their files are not looked at."""
        for name in self.fingerprints(step):
            try:
                yield Manifest.from_json((self.place(step, name) / "manifest.json").read_bytes())
            except (FileNotFoundError, StoreError):
                continue

    def fingerprints(self, step: str) -> list[str]:
        """All fingerprints of a step for which anything was ever written."""
        try:
            folders = list((self.root / step).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(folder.name for folder in folders if _FINGERPRINT.fullmatch(folder.name))

    def nearest(self, step: str, fingerprint: str, components: Mapping[str, Any] | None = None) -> Manifest | None:
        """The committed result that another fingerprint is best explained by.

        The one with the fewest differing components if these are given, and of equals the latest.
        """

        def rank(manifest: Manifest) -> tuple[int, float]:
            distance = len(differences(manifest.key, components)) if components is not None else 0
            return distance, -manifest.committed

        others = [item for item in self.results(step) if item.fingerprint != fingerprint]
        return min(others, key=rank, default=None)

    def lease(self, step: str, fingerprint: str) -> Lease | None:
        """Who runs the step now, so far as is known."""
        lease = read_lease(self.place(step, fingerprint))
        return None if lease is None or lease.owner.is_dead() else lease

    def record_failure(self, fingerprint: str, failure: StepFailed) -> None:
        """Keeps the last error of a step."""
        place = self.place(failure.step, fingerprint)
        place.mkdir(parents=True, exist_ok=True)
        about = {key: value for key, value in vars(failure).items() if key != "problem"}
        write_atomic(place / "failure.json", json.dumps(about, indent=1).encode())

    def failure(self, step: str, fingerprint: str) -> StepFailed | None:
        """The last error of a step that has not succeeded since."""
        try:
            about = json.loads((self.place(step, fingerprint) / "failure.json").read_bytes())
            return StepFailed(about.pop("step"), about.pop("error"), **about)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def set_aside(self, step: str, fingerprint: str) -> None:
        """Takes a result out of use, manifest first. For who holds the lease."""
        place = self.place(step, fingerprint)
        remove(place / "manifest.json")
        remove(place / "files")

    def begin(self, step: str, fingerprint: str, token: str) -> Draft:
        """Starts a result. For who holds the lease with `token`."""
        return Draft(self, step, fingerprint, token)


class Draft:
    """A result in the making. `out` is where files are written, `work` where checkpoints survive a crash."""

    def __init__(self, store: Store, step: str, fingerprint: str, token: str) -> None:
        self.step = step
        self.fingerprint = fingerprint
        self._token = token
        self._place = store.place(step, fingerprint)
        self.out = self._place / f"files.{token}.part"
        self.work = self._place / "work"
        for leftover in self._place.glob("files.*.part"):
            remove(leftover)
        self.out.mkdir(parents=True)
        self.work.mkdir(exist_ok=True)

    def commit(self, result: Any, build: Callable[[Any, dict[str, Entry]], Manifest]) -> Manifest:
        """Makes the files permanent and writes the manifest.

        Args:
            result: What the stage returned; it becomes result.json.
            build: Makes the manifest from the plain result and the files.

        Raises:
            FingerprintError: the result has no canonical form.
            LeaseLost: another driver took the step over.
        """
        shown = plain(result, f"the result of step {self.step}")
        text = json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (self.out / RESULT).write_text(text + "\n", encoding="utf-8")
        files = {
            name: Entry(size=(self.out / name).stat().st_size, sha256=file_digest(self.out / name))
            for name in sorted_files(self.out)
        }
        sync_tree(self.out)
        manifest = build(shown, files)
        with locked(self._place):
            if not is_held(self._place, self._token):
                raise LeaseLost(self.step)
            # Whatever lies there has no manifest, or a condemned one, which must go first.
            remove(self._place / "manifest.json")
            remove(self._place / "files")
            self.out.rename(self._place / "files")
            sync_folder(self._place)
            write_atomic(self._place / "manifest.json", manifest.to_json())
        (self._place / "failure.json").unlink(missing_ok=True)
        remove(self.work)
        return manifest

    def discard(self) -> None:
        """Throws the files away; checkpoints stay."""
        remove(self.out)


def _damage(files: Path, manifest: Manifest, verify: bool) -> Iterator[str]:
    for name, entry in manifest.files.items():
        try:
            size = (files / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            yield f"{name} is missing"
            continue
        if size != entry.size:
            yield f"{name} has {size} bytes and should have {entry.size}"
        elif verify and file_digest(files / name) != entry.sha256:
            yield f"{name} has other content than was written"
