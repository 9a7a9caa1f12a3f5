"""Config of the report step."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import SINGLE_LABEL, Config, LabelBias, ProblemType


class MeasuredStep(Config):
    """A step whose result the report reads. See pipelines/kinds.py for kinds and labels."""

    name: str
    """Name of the step."""
    kind: str
    """Kind of the step."""
    labels: dict[str, str] = Field({})
    """Facts about the step, such as its row and seed."""


class ReportConfig(Config):
    """The steps whose results the report compares."""

    recipe: str
    """Name of the recipe."""
    task: str
    """Name of the main task."""
    problem_type: ProblemType = SINGLE_LABEL
    """What an example of the main task has: one label, or any number of labels."""
    measured: tuple[MeasuredStep, ...]
    """The measured steps, in the order of the inputs."""
    prompt_inits: dict[str, str] = Field({})
    """Prompt method -> its initialization."""
    label_bias: LabelBias = "none"
    """The label_bias of the recipe."""
    seed: int = 0
    """Seed of the paired bootstrap."""
