"""Fetches the assets of a recipe into the cache, after checking that all of them are available."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipelines.schema.locations import with_key
from stages.common.assets import availability
from stages.common.assets.cache import is_cached, resolve
from stages.common.errors import AssetError
from stages.common.models.model_files import model_folder, translated

OnStart = Callable[[str, int, int], None]
"""Told what begins, how many things are done, and of how many: for the display."""


def fetch(wanted: dict[str, str], on_start: OnStart) -> None:
    """Brings assets into the cache: first asks for all of them whether they can be had, then fetches one by one.

    Args:
        wanted: Dotted place in the recipe -> reference.
        on_start: Told before each one.
    """
    missing = {place: ref for place, ref in wanted.items() if not with_key(place, is_cached, ref)}
    on_start("asking whether everything can be fetched", 0, len(missing) + 1)
    refused = availability.find_unavailable(missing.values())
    for place, ref in missing.items():
        if ref in refused:
            raise refused[ref].at(key=place)
    for done, (place, ref) in enumerate(missing.items()):
        on_start(f"fetching {ref.partition('#')[0]}", done, len(missing) + 1)
        with_key(place, resolve, ref)
    on_start("reading the backbone (a GGUF file is translated the first time)", len(missing), len(missing) + 1)
    for place, ref in wanted.items():
        is_model = place.endswith(("backbone.asset", "student.asset", "encoder.asset"))
        with_key(place, prepare_model if is_model else resolve, ref)
    on_start("checking data, patterns and label words", len(missing) + 1, len(missing) + 1)


def prepare_model(ref: str) -> Path:
    """The folder of a model. A GGUF file is translated in a process of its own, whose memory is given back."""
    path = resolve(ref)
    if path.suffix == ".gguf":
        code = "import sys; from stages.common.models.model_files import model_folder; model_folder(sys.argv[1])"
        if not (translated(path) / "config.json").exists():
            done = subprocess.run([sys.executable, "-c", code, ref], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["?"])[-1]
                raise AssetError(f"{path.name} cannot be read ({reason}).", "Name another GGUF file or a folder.")
    return model_folder(ref)
