"""Loads the predictor of a folder. Libraries are imported for the models that need them: TF-IDF works without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.serving.damage import damage_located_in
from pipelines.serving.predictors import ClassifierPredictor, Predictor
from stages.common.errors import InputError
from stages.common.models.tfidf_classifier import TFIDF_FILE, TfidfClassifier

CLASSIFIER, PROMPT_MODEL, TOKEN_LEVEL_MODEL = "classifier.json", "prompt_model.json", "token_level_model.json"
GENERATION_MODEL, REGRESSION_MODEL = "generation_model.json", "regression_model.json"
"""The file that identifies the folder of each kind of model."""
MAX_LOADED_PROMPTS = 64
"""Prompts in memory."""
MODEL_FILES = (CLASSIFIER, TFIDF_FILE, PROMPT_MODEL, TOKEN_LEVEL_MODEL, GENERATION_MODEL, REGRESSION_MODEL)


def load_predictor(folders: Sequence[Path], max_loaded_prompts: int = MAX_LOADED_PROMPTS) -> Predictor[Any]:
    """Loads the model of these folders: one classifier, one prompt for a task that is not classification, or prompts of
    classification tasks for one backbone.

    Args:
        folders: The folders.
        max_loaded_prompts: Number of prompts in memory; the others are read when a text needs them.

    Raises:
        InputError: a folder has no model that this version can read, or the prompts need different backbones.
    """
    with damage_located_in(folders[0]):
        return _load(folders, max_loaded_prompts)


def _load(folders: Sequence[Path], max_loaded_prompts: int) -> Predictor[Any]:
    if (folders[0] / CLASSIFIER).exists():
        from stages.common.models.encoders.text_classifier import TextClassifier  # noqa: PLC0415  (loads torch)

        return ClassifierPredictor(TextClassifier.load(folders[0]))
    if (folders[0] / TFIDF_FILE).exists():
        return ClassifierPredictor(TfidfClassifier.load(folders[0]))
    if (folders[0] / TOKEN_LEVEL_MODEL).exists():
        from pipelines.serving.token_level_predictor import TokenLevelPredictor  # noqa: PLC0415  (loads torch)

        return TokenLevelPredictor(folders[0])
    if (folders[0] / GENERATION_MODEL).exists():
        from pipelines.serving.generation_predictor import GenerationPredictor  # noqa: PLC0415  (loads torch)

        return GenerationPredictor(folders[0])
    if (folders[0] / REGRESSION_MODEL).exists():
        from pipelines.serving.regression_predictor import RegressionPredictor  # noqa: PLC0415  (loads torch)

        return RegressionPredictor(folders[0])
    for folder in folders:
        if not (folder / PROMPT_MODEL).exists():
            raise InputError(
                f"{folder} has none of {', '.join(MODEL_FILES)}.", "Specify the folder of a classifier or of a prompt."
            )
    from pipelines.serving.prompt_predictor import PromptPredictor  # noqa: PLC0415  (loads torch)

    return PromptPredictor(folders, max_loaded_prompts)
