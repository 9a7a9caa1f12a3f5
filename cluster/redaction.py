"""Redacts secrets before they reach logs, reports or MLflow: in URLs (passwords, tokens, signatures) and in Azure's
connection strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARS = "***"
_PASSWORD = re.compile(r"(?<=://)([^/\s:@'\"]*):([^/\s@'\"]+)@")
_LONE_TOKEN = re.compile(r"(?<=://)(?<!abfs://)(?<!abfss://)([^/\s:@'\"]{16,})@")
"""As in https://ghp_.../. A name with at least 16 characters is taken for an access key, not for a user name; on Azure
it is a container.
"""
_QUERY = re.compile(
    r"([?&;](?:[\w.-]*(?:token|secret|password|passwd|signature|credential|api[_-]?key|access[_-]?key)|sig|key|auth)=)"
    r"[^&;\s'\"#)]+",
    re.IGNORECASE,
)
_CONNECTION = re.compile(r"\b((?:AccountKey|SharedAccessSignature)=)[^;\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Replaces the secrets of all URLs and connection strings in a text by stars.

    >>> redact("postgresql://me:pa55@host/runs")
    'postgresql://me:***@host/runs'
    """
    text = _CONNECTION.sub(rf"\1{STARS}", text)
    if "://" not in text:
        return text
    text = _PASSWORD.sub(rf"\1:{STARS}@", text)
    text = _LONE_TOKEN.sub(f"{STARS}@", text)
    return _QUERY.sub(rf"\1{STARS}", text)


def redact_values(value: Any) -> Any:
    """Redacts all texts in nested mappings and sequences, including the keys of mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact_values(name): redact_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return value


def redact_file(path: Path) -> None:
    """Redacts a text file; does not touch a file without secrets."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    clean = redact(text)
    if clean != text:
        part = path.with_name(f".{path.name}.part")
        part.touch(0o600)
        part.write_text(clean, encoding="utf-8", errors="surrogateescape")
        part.replace(path)
