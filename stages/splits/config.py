"""Config models of the split stage: the sources of a task's sets, and their sizes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from stages.common.config import SINGLE_LABEL, Config, ProblemType
from stages.common.data.config import Source
from stages.common.errors import InputError


def _form(value: Any) -> str:
    return "list[source]" if isinstance(value, list | tuple) else "dict[source]"


Sources = Annotated[
    Annotated[Source, Tag("dict[source]")] | Annotated[tuple[Source, ...], Tag("list[source]"), Field(min_length=1)],
    Discriminator(_form),
]
"""One source, or a list of sources that are read one after another."""


class DataConfig(Config):
    """Sources of the sets of a task, and the sizes of the sets that are sampled."""

    pool: Source | None = None
    """Labeled examples. Sets without their own source are sampled from it."""
    train: Source | None = None
    """Source of the labeled set."""
    dev: Source | None = None
    """Source of the labeled dev set."""
    unlabeled: Sources | None = None
    """Source of the unlabeled set, or a list of sources. Texts that are in the train, dev or test set too are left out.
    """
    test: Source | None = None
    """Source of the labeled test set. If neither test nor pool is set, the test set is sampled from train."""
    annotated: Sources | None = None
    """Files of `clozeline select`, or a list of them. Rows with a label join the labeled set, whatever its source;
    rows without one are skipped.
    """
    shots: int = Field(16, ge=0)
    """Labeled examples per class to sample from the pool if train is not set. 0: no labeled data."""
    dev_shots: int = Field(0, ge=0)
    """Dev examples per class to sample from the pool."""
    unlabeled_size: int = Field(5000, ge=0)
    """Maximum number of unlabeled examples. They are sampled from unlabeled or, if it is not set, from what is left of
    the pool.
    """
    test_size: int = Field(500, ge=1)
    """Test examples to sample if test is not set: from the pool, or else from train. The sample from train keeps
    the proportions of the labels, and at least one example of each label stays in train.
    """

    conflicts: Literal["keep", "first", "drop", "soft"] = "keep"
    """Labeled texts that a set has with several labels. first: only the rows with the first label of the text are used.
    drop: none of its rows is used. soft: train uses all of its rows, so that the target of the text is the fraction of
    each label; the other sets use none, because no label is the right one. keep: all rows are used, but the pool has
    one row per text, the first.
    """

    @model_validator(mode="after")
    def _every_set_has_a_source(self) -> DataConfig:
        if self.pool is None and self.train is None:
            name = "train" if self.shots > 0 else "test"
            if getattr(self, name) is None:
                raise InputError(f"neither {name} nor pool is set.", f"Set a file: {name}: {{asset: {name}.jsonl}}.")
        for name in ("pool", "train", "dev", "test"):
            source = getattr(self, name)
            if source is not None and source.label is None:
                raise InputError(
                    f"{name}.label is not set.", "Set the column of the label: label: category.", key=f"{name}.label"
                )
        return self

    @model_validator(mode="after")
    def _soft_targets_need_a_train_file(self) -> DataConfig:
        if self.conflicts == "soft" and self.train is None:
            raise InputError(
                "conflicts: soft keeps all rows of a text, but a pool has one row per text.",
                "Set train instead of pool, or set conflicts: drop.",
                key="conflicts",
            )
        return self

    @model_validator(mode="after")
    def _annotated_files_have_labels(self) -> DataConfig:
        for key, source in self.sources.items():
            if key.partition(".")[0] == "annotated" and source.label is None:
                raise InputError(f"{key}.label is not set.", "Set the column: label: label.", key=f"{key}.label")
        return self

    @property
    def has_dev(self) -> bool:
        """Returns True if there is a dev set."""
        return self.dev is not None or (self.dev_shots > 0 and self.pool is not None)

    @property
    def sources(self) -> dict[str, Source]:
        """Dotted key -> source, for the sources that are set."""
        sources: dict[str, Source] = {}
        for name in ("pool", "train", "dev", "unlabeled", "test", "annotated"):
            value = getattr(self, name)
            if isinstance(value, tuple):
                sources |= {f"{name}.{number}": source for number, source in enumerate(value)}
            elif value is not None:
                sources[name] = value
        return sources


class SplitsConfig(Config):
    """The sets of one task."""

    data: DataConfig
    """Sources and sizes."""
    labels: tuple[str, ...]
    """Labels of the task."""
    problem_type: ProblemType = SINGLE_LABEL
    """What an example has: one label, or any number of labels."""
    fields: tuple[str, ...]
    """Fields that the patterns of the task read."""
    seed: int = 0
    """Seed of the samples."""
