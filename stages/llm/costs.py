"""What the requests of a member need, before the first one is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.errors import InputError
from stages.llm import answers
from stages.llm.config import LlmSettings
from stages.llm.questions import Message, num_tokens

ANSWER_TOKENS = 4
"""Tokens of an answer, for estimates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What the requests of a step need."""

    num_requests: int
    num_input_tokens: int
    cost: float | None
    """Cost at the prices of the settings; None without prices."""

    @classmethod
    def of(cls, chats: Sequence[Sequence[Message]], settings: LlmSettings) -> Estimate:
        """Estimates the requests for these chats. An answer that is on this machine needs none."""
        missing = [chat for chat in chats if answers.load(settings, chat) is None]
        tokens = sum(map(num_tokens, missing))
        cost = cost_of(tokens, ANSWER_TOKENS * len(missing), settings)
        return cls(num_requests=len(missing), num_input_tokens=tokens, cost=cost)

    def check(self, settings: LlmSettings) -> None:
        """Compares the requests with the limits of the settings.

        Raises:
            InputError: there are too many, or they cost too much.
        """
        if self.num_requests > settings.max_requests:
            raise InputError(
                f"{self.num_requests:,} requests are necessary, but max_requests is {settings.max_requests:,}.",
                "Raise max_requests, or reduce data.unlabeled_size.",
                key="max_requests",
            )
        if settings.max_cost is not None and self.cost is not None and self.cost > settings.max_cost:
            raise InputError(
                f"{self.num_requests:,} requests cost about {self.cost:.2f}, but max_cost is {settings.max_cost:g}.",
                "Raise max_cost, or reduce data.unlabeled_size or shots.",
                key="max_cost",
            )


def cost_of(num_input_tokens: int, num_output_tokens: int, settings: LlmSettings) -> float | None:
    """Returns the cost of tokens at the prices of the settings; None without prices."""
    if settings.prices is None:
        return None
    return (num_input_tokens * settings.prices.input + num_output_tokens * settings.prices.output) / 1e6
