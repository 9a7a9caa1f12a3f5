"""Checks if assets that are not cached can be downloaded: all at once, within seconds.

Clients of hubs and stores retry for a long time, whatever timeout they are given. So each check runs in a thread that
is abandoned after `REACH_TIMEOUT_S`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import fsspec

from stages.common.assets.cache import REACH_TIMEOUT_S, check_writable, is_cached, resolve
from stages.common.assets.packages import find_url
from stages.common.assets.references import Asset, unavailable_error
from stages.common.errors import AssetError

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
    from huggingface_hub import HfApi  # noqa: PLC0415  (0.07 s, which a plan saves)

    _check_in_time(asset, lambda: HfApi().model_info(asset.name, revision=asset.version or None))


def _check_url(asset: Asset) -> None:
    def read_one_byte() -> None:
        with fsspec.open(asset.name, "rb") as source:
            source.read(1)

    _check_in_time(asset, read_one_byte)


def _check_in_time(asset: Asset, check: Callable[[], object]) -> None:
    """Runs `check` in a thread that is abandoned at the timeout, because clients of hubs and stores ignore timeouts."""
    failures: list[Exception] = []

    def guarded() -> None:
        try:
            check()
        except Exception as error:  # these clients raise errors of several libraries
            failures.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT_S)
    if thread.is_alive():
        raise unavailable_error(asset, "no answer")
    if failures:
        message = str(failures[0]).strip().partition("\n")[0]
        raise unavailable_error(asset, f"{type(failures[0]).__name__}: {message}") from failures[0]


def hub_has_dataset(asset: Asset) -> bool:
    """Returns True if the Hugging Face hub answers within seconds that it has this dataset."""
    from huggingface_hub import HfApi  # noqa: PLC0415  (0.07 s, which a plan saves)

    try:
        _check_in_time(asset, lambda: HfApi().dataset_info(asset.name, revision=asset.version or None))
    except AssetError:
        return False
    return True
