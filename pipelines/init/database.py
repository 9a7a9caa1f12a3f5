"""Rows of a database. They become a file, so that a run needs neither the database nor its password.

SQLAlchemy, which reads them, is an extra.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from stages.common.errors import InputError

_URL = re.compile(r"(sqlite|postgresql|mysql|mariadb|oracle|mssql|duckdb)(\+\w+)?://")
_SELECT = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
ROWS_AT_ONCE = 1000


def is_database(reference: str) -> bool:
    """Returns True if a reference of a file is the URL of a database."""
    return _URL.match(reference) is not None


def save_rows(reference: str, path: Path, *, force: bool) -> str:
    """Writes the rows of a table or query to a file of JSON lines, and returns its path.

    Args:
        reference: `URL#TABLE` or `URL#SELECT ...`, with a URL of SQLAlchemy.
        path: The file.
        force: Whether an existing file may be overwritten.

    Raises:
        InputError: the database cannot be read, or the file exists.
    """
    try:
        from sqlalchemy import create_engine, make_url, text  # noqa: PLC0415  (an extra)
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise InputError(
            "SQLAlchemy, which reads databases, is not installed.", "Install it: pip install 'clozeline[sql]'."
        ) from error
    url, _, source = reference.partition("#")
    if not source.strip():
        raise InputError("the database URL names no table.", "Write URL#TABLE, or 'URL#SELECT ...'.")
    if path.exists() and not force:
        raise InputError(f"{path} exists.", "Set --output to another name, or overwrite it with --force.")
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError as error:
        raise InputError("the database URL cannot be read.", "Write postgresql://USER:PASSWORD@HOST/NAME.") from error
    draft = path.with_name(f".{path.name}.part")
    try:
        engine = create_engine(url)
        quoted = ".".join(map(engine.dialect.identifier_preparer.quote_identifier, source.split(".")))
        query = source if _SELECT.match(source) else f"SELECT * FROM {quoted}"
        with engine.connect() as connection, draft.open("w", encoding="utf-8") as file:
            streamed = connection.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE)
            for row in streamed.execute(text(query)).mappings():
                file.write(json.dumps(dict(row), ensure_ascii=False, default=str) + "\n")
        draft.replace(path)
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise InputError(
            f"cannot read {source!r} of {shown} ({reason}).", "Check the URL, its driver and the table or query."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return str(path)
