"""Reads the rows of a dataset of the Hugging Face hub; class labels become their names."""

from __future__ import annotations

from collections.abc import Iterator

import datasets

from stages.common.assets.availability import hub_has_dataset
from stages.common.assets.cache import dataset_revision
from stages.common.assets.references import Asset
from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.common.examples import Row


def hub_rows(source: Source) -> Iterator[Row]:
    """Yields the rows of a split, in order, with their locations; class labels by name.

    Raises:
        DataError: the hub is unreachable, or has no such data.
    """
    asset = Asset.parse(source.asset)
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        # Check first: the client waits long for an unreachable hub. Cached datasets load offline.
        datasets.config.HF_HUB_OFFLINE = offline or not hub_has_dataset(asset)
        dataset = datasets.load_dataset(
            asset.name,
            name=source.subset,
            split=source.split,
            revision=dataset_revision(asset) or asset.version or None,
        )
    except Exception as error:  # the hub client raises errors of several libraries
        raise DataError(
            f"{source.asset} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}).",
            "Check its name, subset and split, or use a file: asset: path/to/texts.jsonl.",
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    label = dataset.features.get(source.label)
    inner = getattr(label, "feature", None)
    for number, row in enumerate(dataset, 1):
        # -1 is the hub's value for a hidden label, which has no name
        if isinstance(label, datasets.ClassLabel) and isinstance(value := row[source.label], int) and value >= 0:
            row = {**row, source.label: label.int2str(value)}
        elif isinstance(inner, datasets.ClassLabel):  # labels of tokens
            row = {**row, source.label: [inner.int2str(value) for value in row[source.label]]}
        yield f"{asset.name}[{source.split}], row {number}", row
