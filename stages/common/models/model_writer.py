"""Writes the folder of a model that was translated from a packed file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def save_model(model: Any, tokenizer: Any, target: Path) -> None:
    """Writes a model and a tokenizer of transformers to the new folder `target`, which appears when it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        folder = Path(temporary) / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folder.rename(target)
