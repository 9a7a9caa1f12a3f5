"""Reads the rows of a table or a query of a database. SQLAlchemy, which does it, is an extra."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stages.common.errors import InputError
from stages.common.examples import Row

_URL = re.compile(r"(sqlite|postgresql|mysql|mariadb|oracle|mssql|duckdb)(\+\w+)?://")
_SELECT = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
ROWS_AT_ONCE = 1000


def is_database(reference: str) -> bool:
    """Returns True if a reference of a file is the URL of a database."""
    return _URL.match(reference) is not None


def source_name(reference: str) -> str:
    """Returns the table or query of a reference, which has no password."""
    return reference.partition("#")[2].strip()


def database_rows(reference: str) -> Iterator[Row]:
    """Yields the rows, in the order of the database, with their locations.

    Args:
        reference: `URL#TABLE` or `URL#SELECT ...`, with a URL of SQLAlchemy.

    Raises:
        InputError: the database cannot be read.
    """
    try:
        from sqlalchemy import create_engine, make_url, text  # noqa: PLC0415  (an extra)
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise InputError(
            "SQLAlchemy, which reads databases, is not installed.", "Install it: pip install 'clozeline[sql]'."
        ) from error
    url, source = reference.partition("#")[0], source_name(reference)
    if not source:
        raise InputError("the database URL names no table.", "Write URL#TABLE, or 'URL#SELECT ...'.")
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError as error:
        raise InputError("the database URL cannot be read.", "Write postgresql://USER:PASSWORD@HOST/NAME.") from error
    try:
        engine = create_engine(url)
        quoted = ".".join(map(engine.dialect.identifier_preparer.quote_identifier, source.split(".")))
        query = source if _SELECT.match(source) else f"SELECT * FROM {quoted}"
        with engine.connect() as connection:
            streamed = connection.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE)
            for number, row in enumerate(streamed.execute(text(query)).mappings(), 1):
                yield f"{source}, row {number}", dict(row)
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise InputError(
            f"cannot read {source!r} of {shown} ({reason}).", "Check the URL, its driver and the table or query."
        ) from error
