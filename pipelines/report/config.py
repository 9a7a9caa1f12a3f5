"""Config of the report step."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config


class MeasuredStep(Config):
    """A step whose result the report reads. See pipelines/kinds.py for kinds and labels."""

    name: str
    """Name of the step."""
    kind: str
    """Kind of the step."""
    labels: dict[str, str] = Field({})
    """Facts about the step, such as its row and seed."""


class ReportConfig(Config):
    """Whose results are compared."""

    recipe: str
    """Name of the recipe."""
    task: str
    """Name of the recipe's own task."""
    steps: tuple[str, ...]
    """Names of the measured steps, in the order of the inputs."""
    measured: tuple[MeasuredStep, ...] = ()
    """The measured steps, in the order of the inputs."""
    starts: dict[str, str] = Field({})
    """Method of prompts -> what its prompts start from."""
    seed: int = 0
    """Seed of the bootstrap that compares methods."""
