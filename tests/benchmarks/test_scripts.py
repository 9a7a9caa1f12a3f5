"""Tests of the command lines and recipes of benchmarks. `make bench-quick` runs the scripts themselves."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import engine, run_all
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from tests.support.documented_commands import shell_lines
from tests.support.paths import ROOT

PATHS = sorted((ROOT / "benchmarks").rglob("*.py"))
SCRIPTS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PATHS
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
COMMAND = re.compile(r"(?:^|`)(python (?:benchmarks/|-m benchmarks\.)(?:\\\n|[^`\n])+)", re.M)
"""A command of a page, in a block or in its text."""


class ParsedError(Exception):
    """The arguments of a script are valid."""


def check_arguments(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses arguments with the parser of a script, and runs nothing."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *args: Any, **options: Any) -> None:
        parse_args(parser, *args, **options)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(ParsedError):
        importlib.import_module(module).main()


def documented_commands() -> Iterator[tuple[str, list[str]]]:
    """Yields the module and the arguments of each command in a page."""
    for page in (*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for command in COMMAND.findall(page.read_text(encoding="utf-8")):
            (words,) = shell_lines(command)
            words = words[2:] if words[1] == "-m" else words[1:]
            yield words[0].removesuffix(".py").replace("/", "."), words[1:]


DOCUMENTED = list(documented_commands())


@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmark_prints_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])

    with pytest.raises(SystemExit) as error:
        module.main()

    assert error.value.code == 0
    assert module.__doc__.splitlines()[0] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("module", "arguments"), DOCUMENTED, ids=[" ".join([name, *rest]) for name, rest in DOCUMENTED]
)
def test_documented_command_has_valid_arguments(
    module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_arguments(module, arguments, monkeypatch)


def test_most_scripts_are_documented() -> None:
    assert len({module for module, _ in DOCUMENTED}) > 15, "the expression finds the commands of the pages"


@pytest.mark.parametrize("benchmark", run_all.BENCHMARKS, ids=[benchmark.script for benchmark in run_all.BENCHMARKS])
def test_arguments_of_a_full_run_are_valid(benchmark: run_all.Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = benchmark.full if benchmark.full is not None else benchmark.quick
    check_arguments(module_of(benchmark.script), arguments, monkeypatch)


def module_of(script: str) -> str:
    return f"benchmarks.{script.removesuffix('.py').replace('/', '.')}"


def test_quick_run_includes_every_script_or_says_why_not() -> None:
    scripts = [module_of(benchmark.script) for benchmark in run_all.BENCHMARKS]
    left_out = [module_of(script) for script in run_all.NOT_RUN]
    assert sorted([*scripts, *left_out, "benchmarks.run_all"]) == SCRIPTS


def test_failed_script_fails_the_run_but_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, code in {"broken": "raise SystemExit(3)", "working": "print('it works')"}.items():
        (tmp_path / f"{name}.py").write_text(code)
    broken, working = (run_all.Benchmark(str(tmp_path / f"{name}.py")) for name in ("broken", "working"))
    missing = run_all.Benchmark("missing.py", package="no_such_package")
    monkeypatch.setattr(sys, "argv", ["run_all", "--quick"])

    monkeypatch.setattr(run_all, "BENCHMARKS", (broken, missing, working))
    assert run_all.main() == 1
    output = capfd.readouterr().out
    assert "exit status 3" in output and "it works" in output and f"failed: {broken.script}" in output
    assert "skipped: it needs no_such_package." in output
    assert all(f"skipped: {reason}" in output for reason in run_all.NOT_RUN.values())

    monkeypatch.setattr(run_all, "BENCHMARKS", (working,))
    assert run_all.main() == 0


def comparison_recipes() -> Iterator[dict[str, Any]]:
    """Yields the recipes of the comparisons, for the first seed of each set."""
    from benchmarks.quality import methods, prompts
    from benchmarks.quality.splits import SEEDS

    for name in prompts.HARD:
        for kind in prompts.METHODS:
            yield prompts.recipe(name, SEEDS[name][0], kind, Path("splits"))
    for method in methods.METHODS.values():
        sources = {other: Path(other) for other in method.sources if other != "sst2"}
        yield methods.recipe("sst2", SEEDS["sst2"][0], method, "smollm2", Path("splits"), sources or None)


def test_recipes_of_the_comparisons_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for content in comparison_recipes():
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

        assert read_recipe(path, PipelineConfig).name == content["name"]


@pytest.mark.parametrize(("overhead_ms", "words", "fails"), [(11, [], True), (11, ["--quick"], False), (9, [], False)])
def test_benchmark_of_the_engine_fails_if_a_limit_is_exceeded(
    overhead_ms: float, words: list[str], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(folder: Path, num_steps: int) -> None:
        del folder, num_steps
        engine.print_limited("no-op steps", overhead_ms, 10.0, "ms each", 1)

    monkeypatch.setattr(engine, "exceeded", [])
    monkeypatch.setattr(engine, "measure_noop_steps", measure)
    monkeypatch.setattr(sys, "argv", ["engine.py", "steps", *words])
    with pytest.raises(SystemExit, match="exceeded: no-op steps: 11") if fails else nullcontext():
        engine.main()
