"""The trained classifier that pseudo-labels sentences: checks that its labels agree with the config."""

from __future__ import annotations

import json
from pathlib import Path

from stages.common.assets.cache import resolve
from stages.common.errors import AssetError, InputError
from stages.prompt_pretraining.config import SingleConfig


def classifier_folder(config: SingleConfig) -> Path:
    """Returns the folder of the classifier, downloaded if needed.

    Raises:
        AssetError: it is unavailable, or is not a classifier of single texts.
        InputError: its labels are not the keys of `verbalizer`.
    """
    assert config.classifier is not None
    folder = resolve(config.classifier)
    try:
        payload = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        labels, fields = set(payload["labels"]), payload["fields"]
    except (OSError, ValueError, KeyError) as error:
        raise AssetError(
            f"{folder} contains no classifier ({error}).", "Use the folder `model` of a step distill/<student>/<seed>.",
            key="single.classifier",
        ) from error  # fmt: skip
    if len(fields) != 1:
        raise AssetError(
            f"the classifier in {folder} reads pairs of texts.", "Use one of single texts.", key="single.classifier"
        )
    if labels != set(config.verbalizer):
        raise InputError(
            f"the classifier has the labels {sorted(labels)}, but the verbalizer has {sorted(config.verbalizer)}.",
            "Set label words for each label of the classifier.",
            key="single.verbalizer",
        )
    return folder
