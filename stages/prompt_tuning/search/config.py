"""Config model of the prompt-search stage."""

from __future__ import annotations

from pydantic import Field

from stages.prompt_tuning.config import TunedPromptConfig


class PromptSearchConfig(TunedPromptConfig):
    """One trial of a search: a setting of prompt tuning, and the number of steps that its prompts are trained."""

    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples. One prompt is trained per fold."""
