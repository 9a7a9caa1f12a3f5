"""Loads a trained token-level model: the prompt and head of a folder, on their backbone.

Such a folder has `prompt/` (PEFT's format, with the head) and a file that names its task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.common.prompts.loader import ModelLoader
from stages.token_level.config import SERVING_FILE, TokenLevelServingConfig, TokenLevelTaskConfig
from stages.token_level.model import TokenLevelModel
from stages.token_level.question_answering import SpanExtractor
from stages.token_level.token_classification import TokenClassifier


def model_class_for(task: TokenLevelTaskConfig) -> type[TokenLevelModel[Any, Any, Any]]:
    """Returns the model class of a task."""
    return TokenClassifier if task.kind == "tokens" else SpanExtractor


def load_token_level_model(folder: Path) -> TokenLevelModel[Any, Any, Any]:
    """Loads the prompt and head that the tuning stage wrote to `folder`, on their backbone.

    Raises:
        InputError: they were trained for another backbone.
    """
    config = TokenLevelServingConfig.model_validate_json((folder / SERVING_FILE).read_text(encoding="utf-8"))
    model_class = model_class_for(config.task)
    backbone, prompt, head = ModelLoader().load_prompt(folder, config.backbone, model_class.outputs(config.task))
    return model_class(config.task, backbone, config.backbone, prompt, head)
