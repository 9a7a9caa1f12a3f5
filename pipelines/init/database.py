"""Rows of a database. They become a file, so that a run needs neither the database nor its password."""

from __future__ import annotations

import json
from pathlib import Path

from stages.common.data.database import database_rows
from stages.common.errors import InputError


def save_rows(reference: str, path: Path, *, force: bool) -> str:
    """Writes the rows of a table or query to a file of JSON lines, and returns its path.

    Args:
        reference: `URL#TABLE` or `URL#SELECT ...`, with a URL of SQLAlchemy.
        path: The file.
        force: Whether an existing file may be overwritten.

    Raises:
        InputError: the database cannot be read, or the file exists.
    """
    if path.exists() and not force:
        raise InputError(f"{path} exists.", "Set --output to another name, or overwrite it with --force.")
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("w", encoding="utf-8") as file:
            for _, row in database_rows(reference):
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return str(path)
