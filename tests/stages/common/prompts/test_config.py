"""Tests of the settings of prompts."""

from __future__ import annotations

from typing import Any

import pytest

from stages.common.prompts.config import InitConfig, PromptConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "prompt_tuning", "reparameterization": "lstm"}, "not reparameterised by lstm"),
        ({"method": "p_tuning", "rank": 2}, "rank is for vectors that no lstm makes"),
        ({"method": "p_tuning", "init": "ppt"}, "does not start from ppt"),
        ({"method": "p_tuning_v2", "init": "ppt"}, "does not start from ppt"),
        ({"method": "p_tuning_v2", "init": InitConfig(kind="mean")}, "no mean to start from"),
        ({"method": "p_tuning_v2", "hard_prompt_steps": 2}, "hard_prompt_steps are for plain prompt tuning"),
    ],
)
def test_config_rejects_incompatible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptConfig(**settings)
