"""A step that reads an asset, which someone else may edit at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from stages.common.assets.cache import resolve
from stages.common.config import AssetRef, Config

RUN = "tests.support.asset_steps:reads_asset"


class AssetConfig(Config):
    """What a step reads: an asset, or the file `config.json` in it."""

    asset: AssetRef
    """The asset."""
    text: str = Field("", json_schema_extra={"identity": False})
    """A text that is in the file only while the step runs."""


def reads_asset(config: AssetConfig, inputs: dict[str, Path], out: Path, recorder: Any, engine: Any) -> dict[str, str]:
    """Returns what is in the asset. If the config has a text, edits the file before, and restores it after."""
    path = resolve(config.asset)
    path = path / "config.json" if path.is_dir() else path
    before = path.read_text()
    if config.text:
        path.write_text(config.text)
    read = path.read_text()
    if config.text:
        path.write_text(before)
    return {"read": read}
