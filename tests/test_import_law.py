"""The import law: pipelines -> stages, cluster; these two never import each other; only cluster knows the machinery."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
from pydantic import BaseModel

from tests.support.paths import ROOT

FOLDERS = ("pipelines", "stages", "cluster")
FILES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
MACHINERY = {"ray", "mlflow", "deepspeed"}
NEVER = {"stages": {"cluster", "pipelines"}, "cluster": {"stages", "pipelines"}, "pipelines": set()}

STAGES = [
    name.removesuffix(".py").replace("/", ".")
    for name, tree in FILES.items()
    if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body)
    and name.startswith(("stages/", "pipelines/report"))
]
"""Every module with a function `run` of its own."""


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, at the top or inside of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, item.name) for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide what is imported"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            yield node.lineno, ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else ""


def test_there_are_files_of_every_folder() -> None:
    assert {name.split("/")[0] for name in FILES} == set(FOLDERS)
    assert len(FILES) > 30


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_imports_only_what_its_folder_may(name: str) -> None:
    folder = name.split("/")[0]
    forbidden = NEVER[folder] | (set() if folder == "cluster" else MACHINERY)
    found = [(line, module) for line, module in imports(FILES[name]) if module.split(".")[0] in forbidden]
    assert found == [], name


def loaded_by(module: str) -> set[str]:
    """Top-level packages that a fresh interpreter has after importing `module`."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["pipelines.schema.config", "pipelines.dag.fewshot", "pipelines.preflight.models", "pipelines.schema.loader"],
)
def test_reading_and_planning_load_nothing_heavy(module: str) -> None:
    """`plan`, `graph` and complaints about recipes must answer at once."""
    loaded = loaded_by(module)
    assert module.partition(".")[0] in loaded
    assert not loaded & {"torch", "transformers", "ray", "mlflow", "deepspeed", "peft", "datasets", "matplotlib"}


def test_the_stages_are_known() -> None:
    assert {name.partition(".")[2] for name in STAGES} >= {
        "baseline",
        "distillation",
        "pattern_training",
        "prompt_pretraining",
        "prompt_tuning",
        "report",
        "soft_labels",
        "splits",
    }


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_the_one_shape(name: str) -> None:
    stage = importlib.import_module(name)
    signature = inspect.signature(stage.run)
    assert list(signature.parameters) == ["config", "inputs", "out", "recorder", "engine"]
    annotations = {key: item.annotation for key, item in signature.parameters.items()}
    shape = {"config": "Config", "inputs": "Inputs", "out": "Path", "recorder": "Recorder", "engine": "Engine"}
    assert annotations == shape
    assert signature.return_annotation == "Result"
    assert issubclass(stage.Config, BaseModel)
    assert stage.Config.model_config["frozen"] is True
    assert stage.Config.model_config["extra"] == "forbid"
    assert all(field.description for field in stage.Config.model_fields.values()), "every field is described"
    for kind in (stage.Inputs, stage.Result):
        assert is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
        assert all(field.kw_only for field in fields(kind))
        assert hasattr(kind, "__slots__")
    assert stage.__doc__
    assert stage.run.__doc__
