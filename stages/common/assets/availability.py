"""Checks if assets that are not cached can be downloaded, and if others have a newer content: all at once, in seconds.

Clients of hubs and stores retry for a long time, whatever timeout they are given. So each check runs in a thread that
is abandoned after `REACH_TIMEOUT_S`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from typing import TypeVar

import fsspec

from stages.common.assets.cache import (
    REACH_TIMEOUT_S,
    check_writable,
    dataset_revision,
    fetched_revisions,
    is_cached,
    part_versions,
    read_record,
    record_dataset_revision,
    resolve,
    slot_of,
)
from stages.common.assets.packages import find_url
from stages.common.assets.references import Asset, check_online, is_offline, unavailable_error
from stages.common.errors import AssetError

Answer = TypeVar("Answer")
PIP_START_S = 1.0
"""Seconds that pip may take to start, for each check that runs at the same time, because they share the cores."""


def check_available(refs: Iterable[str]) -> None:
    """Checks that all assets are cached or can be downloaded.

    Raises:
        AssetError: an asset is unreachable; the remedy lists the kinds of reference to use instead.
    """
    for error in find_unavailable(refs).values():
        raise error


def find_unavailable(refs: Iterable[str]) -> dict[str, AssetError]:
    """Returns references that are neither cached nor downloadable, with the error. Checks all at the same time.

    Raises:
        AssetError: the cache cannot be written.
    """
    missing = [ref for ref in dict.fromkeys(refs) if not is_cached(ref)]
    if missing:
        check_writable()
    with ThreadPoolExecutor(max_workers=max(1, len(missing))) as pool:
        errors = zip(missing, pool.map(_find_error, missing, repeat(len(missing))), strict=True)
        return {ref: error for ref, error in errors if error is not None}


def _find_error(ref: str, num_checks: int) -> AssetError | None:
    try:
        _check_one(Asset.parse(ref), num_checks)
    except AssetError as error:
        return error
    return None


def _check_one(asset: Asset, num_checks: int) -> None:
    if asset.scheme == "path":
        resolve(asset.ref)
    elif asset.parts:
        check_available(asset.parts)
    elif asset.scheme == "pypi":
        _check_index(asset, num_checks)
    elif asset.scheme == "hf":
        _check_hub(asset)
    else:
        _check_url(asset)


def _check_index(asset: Asset, num_checks: int) -> None:
    limits = ("--timeout", str(REACH_TIMEOUT_S), "--retries", "0")
    find_url(asset, *limits, timeout=REACH_TIMEOUT_S + PIP_START_S * num_checks)


def _check_hub(asset: Asset) -> None:
    _answer_in_time(asset, lambda: _model_commit(asset))


def _check_url(asset: Asset) -> None:
    def read_one_byte() -> None:
        with fsspec.open(asset.name, "rb") as source:
            source.read(1)

    _answer_in_time(asset, read_one_byte)


def _answer_in_time(asset: Asset, ask: Callable[[], Answer]) -> Answer:
    """Calls `ask` in a thread that is abandoned at the timeout, because clients of hubs and stores ignore timeouts."""
    check_online(asset)
    answers: list[Answer] = []
    failures: list[Exception] = []

    def guarded() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # these clients raise errors of several libraries
            failures.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT_S)
    if failures:
        message = str(failures[0]).strip().partition("\n")[0]
        raise unavailable_error(asset, f"{type(failures[0]).__name__}: {message}") from failures[0]
    if not answers:
        raise unavailable_error(asset, "no answer")
    return answers[0]


def _model_commit(asset: Asset) -> str:
    from huggingface_hub import HfApi  # noqa: PLC0415  (0.07 s, which a plan saves)

    return str(HfApi().model_info(asset.name, revision=asset.version or None).sha)


def _dataset_commit(asset: Asset) -> str:
    from huggingface_hub import HfApi  # noqa: PLC0415  (0.07 s, which a plan saves)

    return str(HfApi().dataset_info(asset.name, revision=asset.version or None).sha)


def hub_has_dataset(asset: Asset) -> bool:
    """Returns True if the Hugging Face hub answers within seconds that it has this dataset."""
    try:
        _answer_in_time(asset, lambda: _dataset_commit(asset))
    except AssetError:
        return False
    return True


def note_dataset_revision(ref: str) -> None:
    """Notes the current commit of a dataset of the hub, unless one is noted or the hub does not answer."""
    asset = Asset.parse(ref)
    if not asset.is_pinned and dataset_revision(asset) is None:
        with suppress(AssetError):
            record_dataset_revision(asset, _answer_in_time(asset, lambda: _dataset_commit(asset)))


def find_newer(refs: Iterable[str]) -> dict[str, str]:
    """Looks for newer contents of references without a pin, all at the same time, within seconds.

    Returns:
        Reference -> how to use the newer content. Leaves out what does not answer, and what is not fetched yet.
    """
    unpinned = [ref for ref in dict.fromkeys(refs) if not Asset.parse(ref).is_pinned]
    if not unpinned or is_offline():
        return {}
    with ThreadPoolExecutor(max_workers=len(unpinned)) as pool:
        remedies = zip(unpinned, pool.map(_newer, unpinned), strict=True)
        return {ref: remedy for ref, remedy in remedies if remedy}


def _newer(ref: str) -> str:
    """Returns how to use a newer content of a reference; empty if there is none that is known."""
    asset = Asset.parse(ref)
    try:
        if asset.scheme == "hf":
            return _newer_commit(asset)
        record = read_record(asset)
        if record is None or not record.get("version"):
            return ""
        version = _answer_in_time(asset, lambda: part_versions(asset))
        return f"Delete {slot_of(asset)} to fetch it." if version != record["version"] else ""
    except AssetError:
        return ""


def _newer_commit(asset: Asset) -> str:
    dataset = dataset_revision(asset)
    commits = fetched_revisions(asset)
    if not commits:
        return ""
    latest = _answer_in_time(asset, lambda: (_dataset_commit if dataset else _model_commit)(asset))
    return "" if latest in commits else f"Write hf:{asset.name}@{latest} to use it."
