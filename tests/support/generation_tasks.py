"""Overrides of a recipe with a generation task."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.generation_data import tables

METHODS = "prompts.methods={v2: {method: p_tuning_v2, num_virtual_tokens: 3}, ppt: {init: ppt}}"


def generation_overrides(folder: Path, **settings: str) -> tuple[str, ...]:
    """Writes data to `folder`. Returns overrides: methods, and a task `tables` with other settings if given."""
    rows = [{**item.fields, "sentence": item.references[0]} for item in tables(12)]
    path = folder / "tables.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"{{asset: {path}, fields: {{name: name, food: food}}, label: sentence}}"
    more = "".join(f"{key}: {value}, " for key, value in settings.items())
    task = f"{{pattern: '{{name}}: {{food}}. Text: ', {more}data: {{train: {source}, test: {source}, train_size: 8}}}}"
    return (METHODS, f"prompts.generation={{tables: {task}}}")
