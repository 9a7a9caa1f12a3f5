"""Config models of the split stage of text generation: files and sizes of the sets."""

from __future__ import annotations

from pydantic import model_validator

from stages.common.config import Config, Name
from stages.common.data.config import DownstreamData, Source
from stages.common.errors import InputError

UNUSED = ("label_map", "label_separator", "id", "group", "question")
"""Keys of a source that are for classification."""


class GenerationData(DownstreamData):
    """Files of a text generation task, and the number of examples to use."""

    train: Source
    """Source of the training set. `fields` are the inputs, and `label` is the column of the target."""
    test: Source
    """Source of the test set. Its `label` may be a column with lists of right texts."""

    @model_validator(mode="after")
    def _sources_have_targets(self) -> GenerationData:
        for name, source in self.sources.items():
            if source.label is None:
                raise InputError(
                    f"{name}.label is not set.", "Set the column of the target: label: summary.", key=f"{name}.label"
                )
            for key in UNUSED:
                if getattr(source, key):
                    raise InputError(
                        f"{key} is for classification, and has no effect on a generation task.",
                        f"Remove {key}.",
                        key=f"{name}.{key}",
                    )
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
