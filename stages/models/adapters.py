"""PEFT's files on disk, made the same on every machine: no paths, no order that depends on a hash."""

from __future__ import annotations

import json
from pathlib import Path


def tidy(folder: Path) -> None:
    """Rewrites what PEFT's `save_pretrained` left in `folder`: names in order, no local path, no empty card."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = None
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
