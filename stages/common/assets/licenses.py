"""Finds the license that an asset on this machine states: in the metadata of its package, or in its README."""

from __future__ import annotations

from email.message import Message
from email.parser import Parser
from pathlib import Path

from stages.common.assets.cache import is_cached, resolve
from stages.common.assets.references import Asset

MAX_CHARACTERS = 60
"""Longer values of the field License are the text of a license, not its name."""
_CLASSIFIER = "License :: OSI Approved :: "


def stated_license(ref: str) -> str | None:
    """Returns the license that a package or a model folder states; None if it states none or is not on this machine."""
    asset = Asset.parse(ref)
    if asset.scheme not in ("pypi", "path") or not is_cached(ref):
        return None
    path = resolve(ref)
    if asset.scheme == "path":
        return _license_of_readme(path / "README.md")
    root = path.parents[len(Path(asset.inner).parts) - 1]
    metadata = next((item for glob in ("*.dist-info/METADATA", "*/PKG-INFO") for item in root.glob(glob)), None)
    return None if metadata is None else _license_of_package(Parser().parsestr(metadata.read_text("utf-8", "replace")))


def _license_of_package(metadata: Message) -> str | None:
    name = str(metadata.get("License-Expression") or metadata.get("License") or "").strip()
    if name and "\n" not in name and len(name) <= MAX_CHARACTERS and name.upper() != "UNKNOWN":
        return name
    classifiers = [item for item in metadata.get_all("Classifier") or () if item.startswith(_CLASSIFIER)]
    return classifiers[0].removeprefix(_CLASSIFIER) if classifiers else None


def _license_of_readme(path: Path) -> str | None:
    """Returns the value of `license` between the first two lines `---` of a model card."""
    try:
        _, header, _ = path.read_text("utf-8", "replace").split("---\n", 2)
    except (OSError, ValueError):
        return None
    for line in header.splitlines():
        key, _, value = line.partition(":")
        if key == "license":
            return value.strip().strip("\"'") or None
    return None
