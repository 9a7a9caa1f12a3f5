"""The console."""

import io
import sys

import pytest
from rich.table import Table

from pipelines.cli.views.terminal import console

PASSWORD = "pa55w0rd"
URL = f"https://me:{PASSWORD}@data.example/films.csv"


def test_console_redacts_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    table = Table("data")
    table.add_row(URL)
    console.print(URL, soft_wrap=True)
    console.print(table)
    assert PASSWORD not in out.getvalue()
    assert out.getvalue().count("https://me:***@data.example/films.csv") == 2
