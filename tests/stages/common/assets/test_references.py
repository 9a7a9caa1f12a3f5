"""Tests of the references of assets."""

from __future__ import annotations

import pytest

from stages.common.assets.references import Asset, split
from stages.common.errors import AssetError


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("a.zip!m", (("a.zip",), "m")),
        ("a.zip!m/config.json", (("a.zip",), "m/config.json")),
        (
            "pypi:a-1==1!2.0+cpu/a/m.zip.001#sha256=ab+pypi:a-2==1!2.0+cpu/a/m.zip.002#sha256=cd!m",
            (("pypi:a-1==1!2.0+cpu/a/m.zip.001#sha256=ab", "pypi:a-2==1!2.0+cpu/a/m.zip.002#sha256=cd"), "m"),
        ),
        ("c++/m.zip.1+/x/c+d!/m.zip.2!b!c+d/", (("c++/m.zip.1", "/x/c+d!/m.zip.2"), "b!c+d")),
        ("https://host/x.bin#sha256=ab!m", (("https://host/x.bin#sha256=ab",), "m")),
        ("pypi:a==1!2.0+cpu/a/x.csv", None),
        ("odd!/c+d.csv", None),
        ("a.zip+b/c.csv", None),
        ("hf:org/name@v1", None),
    ],
)
def test_split_separates_only_after_a_zip_or_a_pin(ref: str, expected: object) -> None:
    assert split(ref) == expected
    assert (Asset.parse(ref).scheme == "archive") == (expected is not None)


@pytest.mark.parametrize(
    ("ref", "remedy"),
    [("a.zip!", "PART!FOLDER"), ("pypi:a==1/m.1#sha256=ab+pypi:b==1/m.2#sha256=cd", "PART+PART!FOLDER")],
)
def test_parse_rejects_an_archive_without_a_path(ref: str, remedy: str) -> None:
    with pytest.raises(AssetError) as caught:
        Asset.parse(ref)
    assert remedy in caught.value.remedy


SIX = "pypi:six==1.17.0/six.py"
"""A wheel of 11 kB."""


def test_parse_splits_references() -> None:
    assert Asset.parse(f"{SIX}#sha256=ab") == Asset(f"{SIX}#sha256=ab", "pypi", "six", "1.17.0", "six.py", "ab")
    assert Asset.parse("hf:org/name@v1") == Asset("hf:org/name@v1", "hf", "org/name", "v1")
    assert Asset.parse("hf:org/name").scheme == "hf"
    assert Asset.parse("s3://bucket/x.jsonl#sha256=cd").sha256 == "cd"
    assert Asset.parse("some/path").scheme == "path"


@pytest.mark.parametrize(
    ("ref", "remedy"),
    [("pypi:six/six.py", "NAME==VERSION"), ("pypi:six==1.17.0", "NAME==VERSION"), ("hf:@main", "hf:ORG/NAME")],
)
def test_parse_rejects_incomplete_references(ref: str, remedy: str) -> None:
    with pytest.raises(AssetError) as caught:
        Asset.parse(ref)
    assert ref in caught.value.problem
    assert remedy in caught.value.remedy
