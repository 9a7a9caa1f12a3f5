"""Prints the keys of a recipe for several edits of the code: print_fingerprints.py FOLDER RECIPE < edits.json

FOLDER is a copy of the packages. Each edit is a pair [file, new content], or null for none. Every edit is planned with
freshly imported modules, and is undone afterward. Prints a list of {step: {"fingerprint", "modules"}}.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path

PACKAGES = ("pipelines", "stages", "cluster")


def keys(recipe: str) -> dict[str, dict[str, object]]:
    """Returns step -> its fingerprint and the modules that the code digest covers."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    importlib.invalidate_caches()
    planner = importlib.import_module("pipelines.dag.fewshot")
    request = importlib.import_module("pipelines.run.request").load_request(recipe, [], tempfile.gettempdir() + "/none")
    planned = planner.plan_recipe(request.config, request.store)
    return {
        name: {
            "fingerprint": key.fingerprint,
            "modules": [item.removeprefix("code.") for item in key.components if item.startswith("code.")],
        }
        for name, key in planned.keys.items()
    }


def main(folder: Path, recipe: str) -> None:
    """Reads the edits and prints the keys."""
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    results = []
    for edit in json.load(sys.stdin):
        if edit is None:
            results.append(keys(recipe))
            continue
        path = folder / edit[0]
        before = path.read_text()
        path.write_text(edit[1])
        results.append(keys(recipe))
        path.write_text(before)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
