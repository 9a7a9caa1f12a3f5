"""Turns errors of damaged files into errors that the user understands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from stages.common.errors import AssetError, InputError


@contextmanager
def damage_located_in(folder: Path) -> Iterator[None]:
    """Turns errors that damaged files of a model cause into an `AssetError`; other user errors stay as they are."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be imported
            raise
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".: ")
        raise AssetError(
            f"the model in {folder} is damaged, or another version of clozeline wrote it "
            f"({type(error).__name__}: {reason}).",
            "Run its recipe again, or install the version that wrote it.",
        ) from error
