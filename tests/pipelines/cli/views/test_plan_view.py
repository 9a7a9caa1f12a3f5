"""What `plan` and `explain` print."""

from pathlib import Path

from typer.testing import CliRunner

from pipelines.cli.app import app


def test_explain_prints_the_key_of_a_step_that_never_ran(tmp_path: Path) -> None:
    words = ["explain", "smoke", "pet/review/0", "--store", str(tmp_path)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:2] == ["RUN", "pet/review/0"] and lines[1] == ["never", "run"]
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert rows["config.lora.rank"] == ["2"] and rows["function"] == ["stages.pet.stage:run"]
    for part in ("inputs.data", "assets.backbone.asset", "code.stages.pet.stage"):
        assert len(rows[part][0]) == 12, "the start of a digest"
