"""The command doctor. It loads torch, unlike the commands that plan."""

from __future__ import annotations

import typer
from rich.markup import escape

from pipelines.cli import options
from pipelines.cli.options import DEFAULT_STORE
from pipelines.cli.views.terminal import console
from pipelines.preflight.doctor import run_checks
from pipelines.run.request import load_request


def doctor(recipe: options.Recipe = "demo", override: options.Override = None) -> None:
    """Check versions, devices, disk, network and assets, and show how to fix what is missing."""
    request = load_request(recipe, override, DEFAULT_STORE)
    is_fatal = False
    for result in run_checks(request.config.assets):
        mark = "[red]error  [/]" if result.fatal else "[yellow]warning[/]" if result.remedy else "[green]ok     [/]"
        text = f"{result.what}: {result.found}" + (f". {result.remedy}" if result.remedy else "")
        console.print(f"{mark} {escape(text)}", highlight=False, soft_wrap=True)
        is_fatal |= result.fatal
    if is_fatal:
        raise typer.Exit(1)
