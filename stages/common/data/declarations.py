"""What a text file declares about itself: its encoding by a byte order mark, its delimiter by a line `sep=;`."""

from __future__ import annotations

import codecs
import re

DELIMITERS = (",", ";", "\t", "|")
"""Usual delimiters of CSV files."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Mark at the start of a file -> encoding. The mark of UTF-16 is the start of a mark of UTF-32."""
MARK_BYTES = 4
"""Length of the longest mark."""


def declared_encoding(head: bytes) -> str | None:
    """Returns the encoding that the first bytes of a file declare; None if there is no mark."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS if head.startswith(mark)), None)


def declared_delimiter(line: str) -> str | None:
    """Returns the delimiter that a first line such as `sep=;` declares, which Excel writes; else None."""
    match = re.fullmatch(r'"?sep=([^\r\n])"?[\r\n]*', line, re.IGNORECASE)
    return match.group(1) if match else None
