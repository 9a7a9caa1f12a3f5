"""Config models of the split stage of text generation: files and sizes of the sets."""

from __future__ import annotations

from pydantic import model_validator

from stages.common.config import Config, Name
from stages.common.data.config import DownstreamData, Source


class GenerationData(DownstreamData):
    """Files of a text generation task, and the number of examples to use."""

    train: Source
    """Source of the training set. `fields` are the inputs, and `label` is the column of the target."""
    test: Source
    """Source of the test set. Its `label` may be a column with lists of right texts."""

    @model_validator(mode="after")
    def _sources_have_targets(self) -> GenerationData:
        self.check_labels("generation", "the target", "summary")
        return self


class GenerationSplitsConfig(Config):
    """The sets of one text generation task. How texts are generated does not change them."""

    task: Name
    """Name of the task."""
    fields: tuple[str, ...]
    """Fields of the data that the pattern reads."""

    data: GenerationData
    """Files and sizes."""
    seed: int = 0
    """Seed of the samples."""
