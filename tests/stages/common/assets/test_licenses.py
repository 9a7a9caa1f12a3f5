"""Licenses of assets: from the metadata of a package, or from the README of a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from stages.common.assets.licenses import stated_license


def cached_package(cache: Path, metadata: str) -> str:
    """Puts a package into the cache, as a download does, and returns the reference of its file."""
    slot = cache / "pypi" / "some-model-1.0"
    files = {"model/config.json": "{}", "some_model-1.0.dist-info/METADATA": metadata}
    for name, text in files.items():
        (slot / name).parent.mkdir(parents=True, exist_ok=True)
        (slot / name).write_text(text)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    (cache / "pypi" / "some-model-1.0.json").write_text(json.dumps({"ref": "", "sha256": "", "files": digests}))
    return "pypi:some-model==1.0/model/config.json"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT", "MIT"),
        ("License: Apache 2.0", "Apache 2.0"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: Copyright (c) 2020\n        Permission is hereby granted", None),
        ("Summary: no license", None),
    ],
)
def test_license_of_a_package(
    metadata: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path))
    ref = cached_package(tmp_path, f"Name: some-model\n{metadata}\n\nLicense: no header\n")
    assert stated_license(ref) == expected


def test_license_of_a_folder_is_in_its_readme(tmp_path: Path) -> None:
    assert stated_license(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: cc-by-4.0\n---\n# Model\nlicense: none\n")
    assert stated_license(str(tmp_path)) == "cc-by-4.0"
    (tmp_path / "README.md").write_text("# Model\n")
    assert stated_license(str(tmp_path)) is None


def test_license_of_what_is_not_on_this_machine_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path))
    assert stated_license("pypi:some-model==1.0/model") is None
    assert stated_license("hf:org/name") is None
