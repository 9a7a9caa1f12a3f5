"""The laws of the layout: who imports whom, which modules are light, and the one shape of all stages."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from stages.common.examples import Example
from stages.common.models.tfidf_classifier import TfidfClassifier
from tests.support import imports
from tests.support.paths import ROOT

MODULES = imports.modules()
PACKAGE_LAW = {
    "pipelines": {"ray", "mlflow", "deepspeed"},
    "stages": {"pipelines", "cluster", "ray", "mlflow", "deepspeed"},
    "cluster": {"pipelines", "stages"},
}
"""Package -> the top-level packages that it must not import."""
LEVELS = {
    "stages": (
        {"stages.common.metrics"},
        {"stages.common"},
        {"stages.common.assets", "stages.common.patterns"},
        {"stages.common.data", "stages.common.models"},
        {"stages.common.training"},
        {"stages.common.prompts"},
        {imports.folder(name) for name in MODULES if name.endswith(".stage") and name.startswith("stages.")},
    ),
    "cluster": (
        {"cluster.errors", "cluster.redaction"},
        {"cluster.arithmetic", "cluster.canonical_json", "cluster.provenance"},
        {"cluster.store"},
        {"cluster.steps", "cluster.tracking"},
        {"cluster.parallel"},
        {"cluster.run"},
    ),
    "pipelines": (
        {"pipelines.palette", "pipelines.default_models"},
        {"pipelines.kinds", "pipelines.schema"},
        {"pipelines.preflight", "pipelines.report"},
        {"pipelines.dag"},
        {"pipelines.run"},
        {"pipelines.serving"},
        {"pipelines.init"},
        {"pipelines.export", "pipelines.labeling", "pipelines.search"},
        {"pipelines.cli"},
        {"pipelines.api"},
    ),
}
"""The folders of each package, lowest level first. A folder imports only folders of lower levels."""
HEAVY = {"torch", "transformers", "mlflow", "ray", "datasets", "peft", "matplotlib", "deepspeed", "pandas"}
RESOLVER = "cluster/steps/functions.py:resolve"
"""The only function that imports a module by its name."""
STAGES = sorted(name for name in MODULES if name.endswith(".stage"))
CONFIGS = sorted(
    name for name in MODULES if name.endswith(".config") and name.startswith(("stages.", "pipelines.report."))
)
SECTIONS = sorted(name for name in MODULES if name.startswith("pipelines.schema.") and not MODULES[name].is_package)


@pytest.mark.parametrize("package", PACKAGE_LAW)
def test_package_imports_only_what_it_may(package: str) -> None:
    forbidden = {
        (name, item)
        for name, module in MODULES.items()
        if name.partition(".")[0] == package
        for item in module.imports
        if item.partition(".")[0] in PACKAGE_LAW[package]
    }
    assert forbidden == set()


def test_modules_do_not_import_each_other() -> None:
    assert imports.cycles(imports.graph()) == []


def test_cycles_finds_the_cycles_of_a_graph() -> None:
    assert imports.cycles({"a": "b", "b": "c", "c": "b", "d": "ad"}) == [["b", "c"]]
    assert imports.cycles({"a": "b", "b": "c", "c": "a"}) == [["a", "b", "c"]]


def test_folder_imports_only_lower_levels() -> None:
    level = {folder: index for levels in LEVELS.values() for index, group in enumerate(levels) for folder in group}
    wrong = set()
    for name, imported in imports.graph().items():
        for item in imported:
            is_inside = item.partition(".")[0] == name.partition(".")[0]
            if not is_inside or MODULES[item].is_package or MODULES[name].is_package:
                continue
            source, target = imports.folder(name), imports.folder(item)
            if source != target and level[target] >= level[source]:
                wrong.add((name, item))
    assert wrong == set()


@pytest.mark.parametrize("name", CONFIGS)
def test_config_module_imports_only_pydantic(name: str) -> None:
    packages = {item.partition(".")[0] for item in imports.reachable(name)}
    assert packages - set(sys.stdlib_module_names) - set(imports.PACKAGES) <= {"pydantic", "pydantic_core"}


def test_import_inside_a_function_carries_its_reason() -> None:
    lines = {
        f"{module.path.relative_to(ROOT)}:{number}": line
        for module in MODULES.values()
        for number, line in enumerate(module.path.read_text().splitlines(), 1)
        if "noqa: PLC0415" in line
    }
    assert [place for place, line in lines.items() if not re.search(r"# noqa: PLC0415  \(.+\)$", line)] == []


def test_modules_are_imported_by_name_in_one_function() -> None:
    assert {place for module in MODULES.values() for place in _dynamic_imports(module)} == {RESOLVER}


def _dynamic_imports(module: imports.Module) -> Iterator[str]:
    """Yields `file:function` for each function that imports a module by name, and for a `__getattr__` of a module."""
    path = module.path.relative_to(ROOT).as_posix()
    tree = imports.tree(module.path)
    yield from (f"{path}:__getattr__" for node in tree.body if getattr(node, "name", "") == "__getattr__")
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, function = waiting.pop()
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            yield f"{path}:{function}"
        waiting += [(child, function) for child in ast.iter_child_nodes(node)]


def loaded(code: str) -> set[str]:
    """Returns the top-level packages that a new interpreter has imported after it ran `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(); print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


COMMAND = """
from pipelines.cli.app import main
sys.argv = ["clozeline", {words}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize("words", ['"plan", "demo", "--store", "/nonexistent/store"', '"--help"'])
def test_command_loads_nothing_heavy(words: str) -> None:
    loaded(COMMAND.format(words=words))  # The first plan on a machine loads torch to count the weights of the models.
    packages = loaded(COMMAND.format(words=words))
    assert "pipelines" in packages
    assert packages & HEAVY == set()


@pytest.mark.parametrize("module", ["pipelines.dag.fewshot", "pipelines.preflight.models", "pipelines.schema.loader"])
def test_planning_loads_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}") & HEAVY == set()


def test_classifier_of_words_predicts_without_torch(tmp_path: Path) -> None:
    examples = [Example(str(number), {"text": text}, text[0]) for number, text in enumerate(("a b", "b c") * 4)]
    TfidfClassifier(["a", "b"], ["text"], "word").fit(examples).save(tmp_path)
    (tmp_path / "rows.csv").write_text("text\na b\n")
    words = f'"predict", "{tmp_path}", "--input", "{tmp_path}/rows.csv", "--output", "{tmp_path}/labeled.csv"'
    assert loaded(COMMAND.format(words=words)) & {"torch", "transformers", "peft", "mlflow"} == set()
    assert (tmp_path / "labeled.csv").read_text().splitlines()[1].startswith("a b,a,")


def test_engine_plans_without_importing_stages() -> None:
    code = """
import cluster.run.scheduler, cluster.tracking.tracker
from cluster.steps.code_digests import CodeDigests
CodeDigests().of("stages.common.protocols")
"""
    assert loaded(code) & (HEAVY | {"numpy", "stages", "pipelines"}) == set()


def test_stages_are_found() -> None:
    assert {"stages.distillation.stage", "stages.soft_labels.sharded.stage", "pipelines.report.stage"} <= set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_stage_has_the_common_shape(name: str) -> None:
    stage = importlib.import_module(name)
    assert (MODULES[name].path.parent / "config.py").exists()
    signature = inspect.signature(stage.run)
    assert list(signature.parameters) == ["config", "inputs", "out", "recorder", "engine"]
    annotations = {key: item.annotation for key, item in signature.parameters.items()}
    config = getattr(stage, annotations.pop("config"))
    assert annotations == {"inputs": "Inputs", "out": "Path", "recorder": "Recorder", "engine": "Engine"}
    assert signature.return_annotation == "Result"
    assert config.__module__ == name.replace(".stage", ".config")
    for kind in (stage.Inputs, stage.Result):
        assert is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
        assert all(field.kw_only for field in fields(kind))
        assert hasattr(kind, "__slots__")
    assert stage.__doc__
    assert stage.run.__doc__


@pytest.mark.parametrize("name", [*CONFIGS, *SECTIONS])
def test_config_model_is_frozen_closed_and_described(name: str) -> None:
    for model in _models(importlib.import_module(name)):
        if model.__name__ == "ScoreRecipe":  # reads a part of any recipe
            continue
        assert model.model_config.get("frozen") is True, model
        assert model.model_config.get("extra") == "forbid", model
        assert [key for key, field in model.model_fields.items() if not field.description] == [], model


def _models(module: ModuleType) -> list[type[BaseModel]]:
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, BaseModel) and item.__module__ == module.__name__
    ]
