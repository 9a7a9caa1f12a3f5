"""Finds what a model of natural language inference calls entailment. Reads its config only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from stages.common.errors import AssetError


class NliLabels(NamedTuple):
    """Numbers of the outputs for entailment and for its opposite; None if the model has no output for the latter."""

    entailment: int
    contradiction: int | None


def nli_labels(folder: Path) -> NliLabels:
    """Returns the outputs of the model in `folder`.

    Raises:
        AssetError: it has no output for entailment.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{folder} has no readable config.json.", "Specify the folder of a transformers model."
        ) from error
    names: Mapping[str, str] = config.get("id2label") or {}
    numbers = {str(name).lower(): int(number) for number, name in names.items()}
    entailment = [number for name, number in numbers.items() if name.startswith("entail")]
    if not entailment or "ForSequenceClassification" not in (config.get("architectures") or [""])[0]:
        raise AssetError(
            f"{folder.name} has no label for entailment (labels: {', '.join(map(str, names.values())) or 'none'}).",
            "Use a model that was trained on natural language inference, such as MNLI.",
        )
    contradiction = [number for name, number in numbers.items() if name.startswith(("contradict", "not_entail"))]
    return NliLabels(entailment[0], contradiction[0] if contradiction else None)
