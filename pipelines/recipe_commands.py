"""Commands about recipes as files: what one may say."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import options as words
from pipelines.terminal import sink


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference for people instead.")] = False,
    output: words.OutputFile = None,
) -> None:
    """Print what recipes may say: a JSON schema for editors, or (--markdown) a reference of all keys."""
    from pipelines import reference

    with sink(output) as file:
        file.write(reference.markdown() if markdown else reference.schema_text())
