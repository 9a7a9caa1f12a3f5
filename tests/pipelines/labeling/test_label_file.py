"""The label file keeps rows, columns and labels, in CSV and in JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.labeling.label_file import LabelFile
from stages.common.errors import InputError


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_label_file_keeps_texts_and_labels(name: str, tmp_path: Path) -> None:
    file = LabelFile.open(tmp_path / name, ("text",))
    file.add({"text": 'a "long"\ntext, 好', "other": "not a field"})
    file.add({"text": "b"})
    file.rows[1]["label"] = "good"
    file.write()
    again = LabelFile.open(tmp_path / name)
    assert (again.fields, again.rows) == (("text",), file.rows)
    assert again.num_labeled == 1
    assert again.keys() == {again.key({"text": "B"}), again.key({"text": 'A "long" text, 好'})}


def test_other_columns_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,text,label\n7,a,\n")
    file = LabelFile.open(path, ("text",))
    file.add({"text": "b"})
    file.write()
    assert path.read_text() == "id,text,label\n7,a,\n,b,\n"


def test_wrong_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither CSV nor JSON lines"):
        LabelFile.open(tmp_path / "x.xlsx", ("text",))
    with pytest.raises(InputError, match="does not exist"):
        LabelFile.open(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("text,category\na,b\n")
    with pytest.raises(InputError, match="no column 'label'"):
        LabelFile.open(tmp_path / "x.csv", ("text",))
