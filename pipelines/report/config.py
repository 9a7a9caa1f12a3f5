"""Config of the report step."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ReportConfig(BaseModel, frozen=True, extra="forbid"):
    """Whose results are compared."""

    recipe: str = Field(description="Name of the recipe.")
    task: str = Field(description="Name of the recipe's own task.")
    steps: tuple[str, ...] = Field(description="Names of the measured steps, in the order of the inputs.")
    starts: dict[str, str] = Field({}, description="Method of prompts -> what its prompts start from.")
    seed: int = Field(0, description="Seed of the bootstrap that compares methods.")
