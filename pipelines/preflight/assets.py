"""Downloads the assets of a recipe into the cache, after checking that all of them are available."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pipelines.schema.locations import errors_located_in
from stages.common.assets import availability
from stages.common.assets.cache import is_cached, resolve
from stages.common.errors import AssetError
from stages.common.models.model_files import model_folder, translated

OnStart = Callable[[str, int, int], None]
"""Called with the name of the next task, the number of finished tasks, and the number of all tasks, for the display."""


def fetch(refs: Mapping[str, str], on_start: OnStart, *, models: Collection[str] = ("backbone.asset",)) -> None:
    """Downloads assets into the cache, one after another, once it is known that all of them are available.

    Args:
        refs: Dotted key -> reference.
        on_start: Called before each task.
        models: Keys whose assets are models. GGUF files among them are translated.

    Raises:
        AssetError: an asset is unavailable or damaged; with its dotted key.
    """
    missing = {}
    for key, ref in refs.items():
        with errors_located_in(key):
            if not is_cached(ref):
                missing[key] = ref
    num_tasks = len(missing) + 1
    on_start("checking that everything is available", 0, num_tasks)
    unavailable = availability.find_unavailable(missing.values())
    for key, ref in missing.items():
        if ref in unavailable:
            raise unavailable[ref].at(key=key)
    for num_finished, (key, ref) in enumerate(missing.items()):
        on_start(f"downloading {ref.partition('#')[0]}", num_finished, num_tasks)
        with errors_located_in(key):
            resolve(ref)
    on_start("reading the backbone (a GGUF file is translated once)", len(missing), num_tasks)
    for key, ref in refs.items():
        with errors_located_in(key):
            prepare_model(ref) if key in models else resolve(ref)
    on_start("checking data, patterns and label words", num_tasks, num_tasks)


def prepare_model(ref: str) -> Path:
    """Returns the folder of a model. A GGUF file is translated in a separate process, which frees its memory."""
    path = resolve(ref)
    if path.suffix == ".gguf" and not (translated(path) / "config.json").exists():
        code = "import sys; from stages.common.models.model_files import model_folder; model_folder(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", code, ref], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise AssetError(f"{path.name} cannot be read ({reason}).", "Use another GGUF file or a folder.")
    return model_folder(ref)
