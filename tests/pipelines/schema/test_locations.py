"""Locations of errors: lines of a recipe, and dotted keys of its sections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.schema.locations import errors_located_in
from stages.common.errors import AssetError, DataError

TEXT = """\
name: films
data:
  pool:
    asset: films.csv
  shots: 4
pet:
  seeds: [0, 1]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "films.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("key", "line"),
    [("data.shots", 5), ("data.pool.fields", 3), ("data.test_size", 2), ("pet", 6), ("pet.seeds.1", 7)],
)
def test_a_key_is_located_at_its_line_or_at_the_line_of_its_section(key: str, line: int, path: Path) -> None:
    with pytest.raises(DataError) as caught, errors_located_in(path):
        raise DataError("too few.", "Get more.", key=key)
    assert str(caught.value) == f"{path}:{line}: {key}: too few. Get more."


@pytest.mark.parametrize(("key", "where"), [("data.shots", "-o"), ("", "")])
def test_a_known_location_is_kept(key: str, where: str, path: Path) -> None:
    with pytest.raises(DataError) as caught, errors_located_in(path):
        raise DataError("too few.", "Get more.", key=key, where=where)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("section", "key", "expected"),
    [("ppt", "corpus.window", "ppt.corpus.window"), ("ppt", "", "ppt"), ("", "data", "data")],
)
def test_a_key_is_relative_to_the_section(section: str, key: str, expected: str) -> None:
    with pytest.raises(DataError) as caught, errors_located_in(section):
        raise DataError("too few.", "Get more.", key=key, where="films.csv:3")
    assert (caught.value.key, caught.value.where) == (expected, "films.csv:3")


def test_sections_and_files_can_be_nested(path: Path) -> None:
    with pytest.raises(DataError) as caught, errors_located_in(path), errors_located_in("data"):
        raise DataError("too few.", "Get more.", key="shots")
    assert str(caught.value).startswith(f"{path}:5: data.shots: ")


def test_json_that_cannot_be_parsed_is_an_asset_error() -> None:
    with pytest.raises(AssetError, match=r"backbone\.asset: not JSON"), errors_located_in("backbone.asset"):
        json.loads("{")
