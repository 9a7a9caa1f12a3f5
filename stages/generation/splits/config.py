"""Config models of the split stage of text generation: files and sizes of the sets."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.common.config import Config, Name
from stages.common.data.config import Source
from stages.common.errors import InputError

UNUSED = ("label_map", "label_separator", "id", "group", "question")
"""Keys of a source that are for classification."""


class GenerationData(Config):
    """Files of a text generation task, and the number of examples to use."""

    train: Source
    """Source of the training set. `fields` are the inputs, and `label` is the column of the target."""
    dev: Source | None = None
    """Source of the dev set."""
    test: Source
    """Source of the test set. Its `label` may be a column with lists of right texts."""
    train_size: int | None = Field(None, ge=1)
    """Training examples to sample. If not set, all are used."""
    test_size: int | None = Field(None, ge=1)
    """Test examples to sample. If not set, all are used."""

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

    @property
    def has_dev(self) -> bool:
        """Returns True if there is a dev set."""
        return self.dev is not None

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that are set, by name."""
        sources = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: source for name, source in sources.items() if source is not None}


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
