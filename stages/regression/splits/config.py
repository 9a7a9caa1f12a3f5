"""Config models of the split stage of regression: files and sizes of the sets."""

from __future__ import annotations

from pydantic import model_validator

from stages.common.config import Config
from stages.common.data.config import DownstreamData
from stages.regression.config import RegressionTask


class RegressionData(DownstreamData):
    """Files of a regression task, and the number of examples to use."""

    @model_validator(mode="after")
    def _sources_have_values(self) -> RegressionData:
        self.check_labels("regression", "the values", "score")
        return self


class RegressionSplitsConfig(Config):
    """The sets of one regression task."""

    task: RegressionTask
    """The task."""
    data: RegressionData
    """Files and sizes."""
    seed: int = 0
    """Seed of the samples."""
