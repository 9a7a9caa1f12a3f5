"""Tests of the settings of prompts."""

from __future__ import annotations

from typing import Any

import pytest

from stages.common.prompts.config import InitConfig, PromptConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "prompt_tuning", "reparameterization": "lstm"}, "cannot be reparameterized by lstm"),
        ({"method": "p_tuning", "rank": 2}, "rank is for vectors that are trained directly"),
        ({"method": "p_tuning", "init": "ppt"}, "cannot be initialized from a pretrained prompt"),
        ({"method": "p_tuning_v2", "init": "ppt"}, "cannot be initialized from a pretrained prompt"),
        ({"method": "p_tuning_v2", "init": InitConfig(kind="mean")}, "cannot be initialized with a mean"),
        ({"method": "p_tuning_v2", "hard_prompt_steps": 2}, "hard_prompt_steps is for plain prompt tuning"),
    ],
)
def test_config_rejects_incompatible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptConfig(**settings)
