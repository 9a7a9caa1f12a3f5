"""Tests of datasets of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from pipelines.init.labeled_file import LabeledFile
from stages.common.data.config import Source
from stages.common.data.rows import read_rows
from stages.common.data.sources import iter_examples
from stages.common.errors import DataError
from stages.common.examples import Example


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local dataset with two configurations, which the client loads instead of one of the hub."""
    folder = tmp_path / "glue"
    folder.mkdir()
    for subset, text in (("sst", "fine"), ("cola", "he go")):
        (folder / f"{subset}.jsonl").write_text(f'{{"text": "{text}", "label": 1}}\n{{"text": "x", "label": -1}}\n')
    features = "features: [{name: text, dtype: string}, {name: label, dtype: {class_label: {names: ['bad', 'good']}}}]"
    configs = "".join(f"\n  - {{config_name: {name}, data_files: {name}.jsonl}}" for name in ("sst", "cola"))
    infos = "".join(f"\n  - {{config_name: {name}, {features}}}" for name in ("sst", "cola"))
    (folder / "README.md").write_text(f"---\nconfigs:{configs}\ndataset_info:{infos}\n---\n")
    load = datasets.load_dataset

    def load_folder(path: str, **settings: Any) -> Any:
        assert path == "org/glue"
        return load(str(folder), cache_dir=str(tmp_path / "cache"), **settings)

    monkeypatch.setattr(datasets, "load_dataset", load_folder)
    monkeypatch.setattr("stages.common.data.hub.hub_has_dataset", lambda asset: asset.name == "org/glue")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("subset", "text"), [("sst", "fine"), ("cola", "he go")])
def test_subset_is_a_configuration_of_a_hub_dataset(subset: str, text: str) -> None:
    source = Source(asset="hf:org/glue", subset=subset, label="label", limit=1)
    assert list(iter_examples(source, ["bad", "good"])) == [Example("0", {"text": text}, "good")]


@pytest.mark.usefixtures("hub")
def test_hub_dataset_requires_its_subset() -> None:
    with pytest.raises(DataError, match="Config name is missing") as caught:
        list(iter_examples(Source(asset="hf:org/glue"), None))
    assert "subset" in caught.value.remedy


@pytest.mark.usefixtures("hub")
def test_hidden_label_of_a_hub_dataset_raises_an_error() -> None:
    with pytest.raises(DataError, match=r"row 2: the label '-1' is not in labels"):
        list(iter_examples(Source(asset="hf:org/glue", subset="sst", label="label"), ["bad", "good"]))


@pytest.mark.usefixtures("hub")
def test_labels_have_names_in_every_column() -> None:
    rows = [row for _, row in read_rows(Source(asset="hf:org/glue", subset="sst"))]
    assert [row["label"] for row in rows] == ["good", -1]


@pytest.mark.usefixtures("hub")
def test_init_reads_subset_and_split_of_a_reference() -> None:
    file = LabeledFile("hf:org/glue?subset=cola&split=train")
    assert (file.source.asset, file.source.subset, file.source.split) == ("hf:org/glue", "cola", "train")
    assert [row for _, row in file.rows] == [{"text": "he go", "label": "good"}, {"text": "x", "label": -1}]


@pytest.mark.parametrize("query", ["?config=x", "?split=", "?cola", "?subset=a&x=b"])
def test_other_settings_of_a_reference_are_errors(query: str) -> None:
    with pytest.raises(DataError, match="which are not split and subset") as caught:
        LabeledFile(f"hf:org/glue{query}")
    assert "hf:org/glue?subset=NAME&split=NAME" in caught.value.remedy
