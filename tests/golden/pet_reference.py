"""Computes the logits of tests/golden/pet_reference.json again (run it in the root)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.serving.input_rows import InputRow, InputRows
from pipelines.serving.scoring import score_rows
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task

FILE = Path(__file__).parent / "pet_reference.json"


def logits(backbone: str, golden: dict[str, Any], pattern: str) -> list[list[float]]:
    """Returns the label logits of one pattern, [n, C], in the order of the task's labels."""
    config = BackboneConfig(asset=backbone, max_length=golden["max_length"], precision="fp32")
    texts = InputRows("jsonl", iter([InputRow(str(number), item) for number, item in enumerate(golden["examples"])]))
    rows = [json.loads(line) for line in score_rows(Task(**golden["task"]), [pattern], config, {}, texts)]
    return [[row["logits"][label] for label in golden["task"]["labels"]] for row in rows]


def main() -> None:
    """Replaces the logits; keeps patterns, words, lengths and sentences."""
    reference = json.loads(FILE.read_text())
    for golden in reference["sets"]:
        golden["logits"] = {
            pattern: [[round(value, 5) for value in row] for row in logits(reference["backbone"], golden, pattern)]
            for pattern in golden["task"]["patterns"]
        }
    FILE.write_text(json.dumps(reference, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
