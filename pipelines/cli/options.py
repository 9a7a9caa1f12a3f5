"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe that comes with clozeline (demo, smoke) or a YAML file.")]
Override = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="Change a value: -o pet.training.epochs=3. Repeatable.")
]
StoreFolder = Annotated[
    str,
    typer.Option(
        "--store",
        help="Folder of results, runs and reports, or a URL such as s3://bucket/store.",
        envvar="CLOZELINE_STORE",
    ),
]
From = Annotated[list[str] | None, typer.Option("--from", help="Only these steps and all that needs them. Globs.")]
Until = Annotated[list[str] | None, typer.Option("--until", help="Only these steps and all that they need. Globs.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Only these steps. Globs.")]
Force = Annotated[list[str] | None, typer.Option("--force", help="Run these again although committed. Globs.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare hashes of committed files, not only sizes.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going/--stop", help="After a failure, run what does not need the failed step.")
]
MaxParallel = Annotated[int | None, typer.Option("--max-parallel", min=1, help="Steps at once.")]
Register = Annotated[
    bool, typer.Option("--register/--no-register", help="Put student and prompts into MLflow's model registry.")
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object a line for each event on standard output; words go to stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what went wrong.")]
Address = Annotated[str | None, typer.Option("--address", help="A Ray cluster: auto, or HOST:PORT.")]
InputFile = Annotated[
    str, typer.Option("--input", "-i", help="JSON lines (or plain lines of text); - for standard input.")
]
OutputFile = Annotated[Path | None, typer.Option("--output", help="File for the answers; standard output if none.")]
DEFAULT_STORE = "store"
