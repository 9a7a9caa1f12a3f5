"""What requests need, before the first one is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.errors import InputError
from stages.llm import answers
from stages.llm.answers import Request
from stages.llm.config import EndpointSettings
from stages.llm.messages import num_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What some requests need."""

    num_requests: int
    num_input_tokens: int
    cost: float | None
    """Cost at the prices of the settings; None without prices."""

    @classmethod
    def of(cls, requests: Sequence[Request], settings: EndpointSettings, num_answer_tokens: int) -> Estimate:
        """Estimates these requests. An answer that is on this machine needs none.

        Args:
            requests: The requests.
            settings: The endpoint.
            num_answer_tokens: Usual number of tokens of an answer.
        """
        missing = [body for body in requests if answers.load(body) is None]
        tokens = sum(num_tokens(body["messages"]) for body in missing)
        cost = cost_of(tokens, num_answer_tokens * len(missing), settings)
        return cls(num_requests=len(missing), num_input_tokens=tokens, cost=cost)

    @property
    def cost_text(self) -> str:
        """The end of a sentence about the requests; empty without prices."""
        if self.cost is None:
            return ""
        return ", which cost less than 0.01" if self.cost < 0.01 else f", which cost about {self.cost:.2f}"

    def check(self, settings: EndpointSettings) -> None:
        """Compares the requests with the limits of the settings.

        Raises:
            InputError: there are too many, or they cost too much.
        """
        if self.num_requests > settings.max_requests:
            raise InputError(
                f"{self.num_requests:,} requests are necessary, but max_requests is {settings.max_requests:,}.",
                "Raise max_requests, or use fewer texts.",
                key="max_requests",
            )
        if settings.max_cost is not None and self.cost is not None and self.cost > settings.max_cost:
            raise InputError(
                f"{self.num_requests:,} requests cost about {self.cost:.2f}, but max_cost is {settings.max_cost:g}.",
                "Raise max_cost, or use fewer texts.",
                key="max_cost",
            )


def cost_of(num_input_tokens: int, num_output_tokens: int, settings: EndpointSettings) -> float | None:
    """Returns the cost of tokens at the prices of the settings; None without prices."""
    if settings.prices is None:
        return None
    return (num_input_tokens * settings.prices.input + num_output_tokens * settings.prices.output) / 1e6
