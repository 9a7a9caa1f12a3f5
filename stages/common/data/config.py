"""Config models of data: a file or dataset with its columns, and a corpus of raw text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.common.config import Config

FileFormat = Literal["csv", "tsv", "tab", "jsonl", "parquet", "txt", "conll"]


class Source(Config):
    """A file (or hub dataset) and how its columns become the fields and the label of examples.

    A dotted column leads into nested objects, as `idx.question` into {"idx": {"question": 7}}.
    """

    asset: str = Field(json_schema_extra={"identity": False})
    """Reference of the file: pypi:, hf:, a path or a URL."""
    format: FileFormat | None = None
    """Kind of file; by its ending if not given."""
    split: str = "train"
    """Split of a hub dataset (hf: only)."""
    subset: str | None = None
    """Configuration of a hub dataset, as mnli of glue (hf: only)."""
    fields: dict[str, str] = Field({"text": "text"})
    """Field of an example -> column of the file."""
    label: str | None = None
    """Column of the label; none for unlabelled text."""
    label_map: dict[str, str] = Field({})
    """Value in the label column -> label of the task."""
    group: str | None = None
    """Column of the question that a row is an answer to, as in MultiRC; for the exact match."""
    filter: dict[str, list[str]] = Field({})
    """Column -> values; rows with other values are left out."""
    drop_empty: bool = False
    """Leave out rows with an empty field, where it would be an error."""
    limit: int | None = Field(None, ge=1)
    """Rows taken at the most, from the start."""

    @model_validator(mode="after")
    def _names_need_a_label(self) -> Source:
        if self.label_map and not self.label:
            raise ValueError("label_names is given, but label (the column) is not. Name the column: label: category.")
        return self

    @model_validator(mode="after")
    def _files_have_no_subset(self) -> Source:
        if self.subset and not self.asset.startswith("hf:"):
            raise ValueError(
                f"subset is given, but {self.asset} is a file. Take it out, or name a hub dataset: asset: hf:ORG/NAME."
            )
        return self


class CorpusConfig(Config):
    """A raw corpus: one document a row."""

    source: Source
    """The file, or a folder of shards (.parquet, .jsonl, .jsonl.gz); its field `text` is the document. In a .txt each
    line is one.
    """
    num_examples: int = Field(1000, ge=3)
    """Pretraining examples to build."""
    max_sentence_words: int = Field(24, ge=4)
    """Words of a sentence at the most; text without punctuation is cut into pieces of this length."""
    window: int = Field(10_000, ge=2)
    """Documents that are held at a time; sentences of other documents are drawn from these."""
