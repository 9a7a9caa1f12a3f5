"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.serving.input_rows import FileFormat
from stages.common.errors import InputError

Recipe = Annotated[str, typer.Argument(help="Name of an included recipe (demo, smoke) or a YAML file.")]
Override = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="Override a key: -o pet.training.epochs=3. Repeatable.")
]
StoreFolder = Annotated[
    str,
    typer.Option(
        "--store",
        help="Folder of results, runs and reports, or a URL such as s3://bucket/store.",
        envvar="CLOZELINE_STORE",
    ),
]
From = Annotated[list[str] | None, typer.Option("--from", help="Run these steps and all downstream steps. Globs.")]
Until = Annotated[list[str] | None, typer.Option("--until", help="Run these steps and all upstream steps. Globs.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Run only these steps. Globs.")]
Force = Annotated[list[str] | None, typer.Option("--force", help="Rerun these steps even if committed. Globs.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare hashes of committed files, not only sizes.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going/--stop", help="After a failure, run all steps that do not need the failed step.")
]
MaxParallel = Annotated[int | None, typer.Option("--max-parallel", min=1, help="Maximum number of steps at a time.")]
Speculate = Annotated[
    float | None,
    typer.Option(
        "--speculate",
        min=1.5,
        metavar="FACTOR",
        help="Also start a step on another node if it takes FACTOR times as long as others of its kind: 3.",
    ),
]
Register = Annotated[
    bool, typer.Option("--register/--no-register", help="Register classifier and prompts in MLflow's model registry.")
]
Row = Annotated[
    str | None,
    typer.Option("--row", help="Use this row of the leaderboard: student/small. Default: the report selects it."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON object per event to stdout, and messages to stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Address = Annotated[str | None, typer.Option("--address", help="Connect to a Ray cluster: auto, or HOST:PORT.")]
InputFile = Annotated[
    str,
    typer.Option(
        "--input",
        "-i",
        help="CSV, TSV, JSON lines, parquet, Excel, or plain lines (.txt); - for standard input; hf:ORG/NAME; or a "
        "database: URL#TABLE.",
    ),
]
InputFormat = Annotated[
    FileFormat | None, typer.Option("--format", help="Format of the input. Default: by the ending of its name.")
]
OutputFile = Annotated[Path | None, typer.Option("--output", help="Output file. Default: standard output.")]
DEFAULT_STORE = "store"


def renamed_option(old: str, new: str) -> Any:
    """Returns a hidden option whose use raises an `InputError` that names the new option."""

    def reject(value: Sequence[str] | None) -> None:
        if value:
            raise InputError(f"{old} was renamed.", f"Use {new}.")

    return typer.Option(old, hidden=True, callback=reject)
