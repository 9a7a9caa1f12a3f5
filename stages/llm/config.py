"""Config models of language models at an HTTP endpoint, and of a member that is one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from stages.common.config import Config, TextTaskConfig
from stages.common.errors import InputError

NOT_IN_KEY: dict[str, Any] = {"identity": False}
INSTRUCTION = "Label the text. Answer with one label of this list, and with nothing else: {labels}."


class Prices(Config):
    """What a million tokens cost, in any currency."""

    input: float = Field(ge=0)
    """Price of a million tokens of questions."""
    output: float = Field(ge=0)
    """Price of a million tokens of answers."""


class EndpointSettings(Config):
    """An endpoint, and limits of its use.

    Address, key, prices, and limits are not part of the key of a step, since they do not change an answer.
    """

    url: str = Field(pattern=r"^https?://[^\s@]+$", json_schema_extra=NOT_IN_KEY)
    """Address of an OpenAI-compatible API, up to its version: http://localhost:8000/v1."""
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    api_key_variable: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$", json_schema_extra=NOT_IN_KEY)
    """Name of the environment variable with the API key, such as OPENAI_API_KEY. If not set, no key is sent."""
    prices: Prices | None = Field(None, json_schema_extra=NOT_IN_KEY)
    """Prices of the endpoint, for estimates and for `max_cost`."""
    max_requests: int = Field(10_000, ge=1, json_schema_extra=NOT_IN_KEY)
    """More requests than this are an error, before the first one is sent."""
    max_cost: float | None = Field(None, gt=0, json_schema_extra=NOT_IN_KEY)
    """A higher estimated cost is an error, before the first request is sent. Requires `prices`."""
    num_parallel: int = Field(8, ge=1, json_schema_extra=NOT_IN_KEY)
    """Requests at a time."""
    timeout_s: float = Field(60, gt=0, json_schema_extra=NOT_IN_KEY)
    """Seconds that one request may take."""
    max_attempts: int = Field(6, ge=1, json_schema_extra=NOT_IN_KEY)
    """Attempts per request, with growing pauses, while the endpoint is busy or fails."""

    @model_validator(mode="after")
    def _has_prices(self) -> Self:
        if self.max_cost is not None and self.prices is None:
            raise InputError("it requires prices.", "Add prices: {input: ..., output: ...}.", key="max_cost")
        return self

    def api_key(self) -> str | None:
        """Returns the API key; None if the endpoint needs none.

        Raises:
            InputError: its environment variable is not set.
        """
        variable = self.api_key_variable
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise InputError(
                f"the environment variable {variable} is not set.",
                f"Set {variable} to the API key where clozeline and its workers start.",
                key="api_key_variable",
            )
        return key


class LlmSettings(EndpointSettings):
    """Settings of the member that a recipe defines."""

    instruction: str = INSTRUCTION
    """The first message to the model. `{labels}` is replaced by the labels."""
    descriptions: Mapping[str, str] = {}
    """Label -> what it means, for labels whose names do not say it."""
    shots: int = Field(1, ge=0)
    """Labeled demonstrations per label before each text."""
    max_characters: int = Field(4000, ge=1)
    """Longer texts are cut."""
    max_answer_tokens: int = Field(32, ge=1)
    """Maximum number of tokens of an answer."""

    @model_validator(mode="after")
    def _instruction_has_labels(self) -> Self:
        if "{labels}" not in self.instruction:
            raise InputError(
                "it does not contain {labels}.", "Add {labels} where the labels belong.", key="instruction"
            )
        return self


class LlmConfig(TextTaskConfig, LlmSettings):
    """One language model at an endpoint. Nothing is trained."""
