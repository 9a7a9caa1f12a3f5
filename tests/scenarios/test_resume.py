"""Which steps of the smoke recipe run again after a change, and how a failed run is resumed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.steps.plan import PlannedStep, PlanState
from cluster.store.garbage import entered_recipes
from pipelines.cli.views.plan_view import Explanation, explain_steps
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.publication import resolved_recipe
from pipelines.run.request import load_request
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
STUDENTS = {"distill/small/0", "distill/small/1", "report"}
pytestmark = pytest.mark.timeout(120)


def planned(store: Path, *overrides: str) -> dict[str, PlannedStep]:
    """The plan of the recipe on a store."""
    asked = load_request("smoke", list(overrides), store)
    return {line.name: line for line in plan_recipe(asked.config, asked.store)}


def to_run(store: Path, *overrides: str) -> set[str]:
    """Names of the steps that are not CACHED."""
    return {name for name, line in planned(store, *overrides).items() if line.state is not PlanState.CACHED}


def explained(store: Path, name: str, *overrides: str) -> Explanation:
    """The explanation of one step."""
    asked = load_request("smoke", list(overrides), store)
    (explanation,) = explain_steps(plan_recipe(asked.config, asked.store), asked.store, [name])
    return explanation


@pytest.fixture
def store(smoke_run: tuple[Path, str]) -> Path:
    """The finished store; these tests only read it."""
    return smoke_run[0]


def test_run_enters_its_recipe_so_that_gc_keeps_its_results(store: Path, clozeline: Clozeline) -> None:
    request = load_request("smoke", [], store)
    entered = entered_recipes(request.store)["smoke"]
    assert entered.text == resolved_recipe(request) and "seed: " in entered.text
    keys = plan_recipe(request.config, request.store).keys
    assert entered.steps == {step: key.fingerprint for step, key in keys.items()}
    shown = clozeline("gc", "--dry-run", "--store", str(store))
    assert shown.returncode == 0 and "0 results would be removed, 0 B" in shown.stdout, shown.stdout + shown.stderr


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Changes the code of a stage, in a copy of all stages that plans then look at."""
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path)

    def change(module: str, before: str, after: str) -> None:
        path = tmp_path / "stages" / f"{module}.py"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))

    return change


def test_nothing_changed_is_a_hit(store: Path) -> None:
    assert to_run(store) == set()
    explanation = explained(store, "distill/small/0")
    assert explanation.planned_step.state is PlanState.CACHED and explanation.changes == ()


def test_changed_value_runs_the_step_and_what_needs_it(store: Path) -> None:
    assert to_run(store, "distill.training.learning_rate=2e-4") == STUDENTS
    explanation = explained(store, "distill/small/0", "distill.training.learning_rate=2e-4")
    assert [str(change) for change in explanation.changes] == ["config.training.learning_rate: 0.0001 -> 0.0002"]


def test_changed_upstream_is_named_with_its_own_reason(store: Path) -> None:
    assert "soft_labels" in to_run(store, "pet.training.epochs=3")
    assert "baseline/small/0" not in to_run(store, "pet.training.epochs=3")
    explanation = explained(store, "soft_labels", "pet.training.epochs=3")
    assert [change.name for change in explanation.changes] == [f"inputs.members.{index}" for index in range(3)]
    assert explanation.notes["inputs.members.0"] == "pet/review/0 runs: config.training.epochs: 2.0 -> 3.0"


def test_changed_line_of_code_runs_the_steps_that_use_it(store: Path, edit: Callable[[str, str, str], None]) -> None:
    edit("distillation/stage", "\ndef run(", "\nNEW_LINE = 1\n\n\ndef run(")
    assert to_run(store) == STUDENTS
    explanation = explained(store, "distill/small/0")
    assert [str(change) for change in explanation.changes] == ["the code of stages.distillation.stage changed"]


def test_changed_line_of_a_shared_module_runs_what_imports_it(
    store: Path, edit: Callable[[str, str, str], None]
) -> None:
    edit("common/training/loop", "\ndef train(", "\nNEW_LINE = 1\n\n\ndef train(")
    names = to_run(store)
    assert {"pet/review/0", "baseline/small/0", "ppt/pair", "distill/small/0"} <= names
    assert "data/rotten_tomatoes" not in names


def test_changed_comment_and_docstring_are_a_hit(store: Path, edit: Callable[[str, str, str], None]) -> None:
    edit("distillation/stage", "\ndef run(", "\n# A comment that says why.\ndef run(")
    edit("common/training/loop", '"""The training loop of all stages.', '"""The loop that trains.')
    assert to_run(store) == set()


def test_moved_store_is_a_hit(store: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(store, tmp_path / "elsewhere"))
    assert to_run(moved) == set()


def test_other_resources_are_a_hit(store: Path) -> None:
    assert to_run(store, "pet.cpus=4", "distill.cpus=2", "distill.gpus=1") == set()


def test_changed_data_file_runs_what_reads_it(tmp_path: Path, clozeline: Clozeline) -> None:
    data = tmp_path / "films.csv"
    rows = [f"{label},text number {index} which is {label}" for index in range(120) for label in ("fresh", "rotten")]
    data.write_text("\n".join(["category,text", *rows]) + "\n")
    overrides = [f"data.pool.asset={data}", "data.drop_empty=true"]
    words = [word for item in overrides[:1] for word in ("-o", item)]
    store = tmp_path / "store"
    done = clozeline("run", "smoke", "--only", "data/rotten_tomatoes", "--store", str(store), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(store, overrides[0])["data/rotten_tomatoes"].state is PlanState.CACHED
    data.touch()
    assert planned(store, overrides[0])["data/rotten_tomatoes"].state is PlanState.CACHED
    data.write_text(data.read_text().replace("number 7 ", "number seven "))
    explanation = explained(store, "data/rotten_tomatoes", overrides[0])
    assert [str(change) for change in explanation.changes] == ["assets.data.pool.asset changed"]


def test_explain_prints_both_keys_side_by_side(store: Path, clozeline: Clozeline) -> None:
    done = clozeline("explain", "smoke", "distill", "--store", str(store), "-o", "distill.training.steps=9")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines if line[0] == "RUN"] == [["RUN", "distill/small/0"], ["RUN", "distill/small/1"]]
    assert ["config.training.steps", "8", "9"] in lines
    done = clozeline("explain", "smoke", "soft_labels", "--store", str(store))
    assert done.stdout.startswith("CACHED soft_labels") and "nothing differs" in done.stdout
    assert clozeline("explain", "smoke", "nonsense", "--store", str(store)).returncode == 2


def test_failed_run_prints_the_command_that_resumes_it(tmp_path: Path, clozeline: Clozeline) -> None:
    store = tmp_path / "a store"
    words = [
        "run",
        "smoke",
        "--store",
        str(store),
        "-o",
        "baseline.training.learning_rate=1e30",
        "--until",
        "baseline/small/0",
    ]
    done = clozeline(*words, "--max-parallel", "1", "--keep-going", "--no-register")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "step baseline/small/0 failed" in done.stdout and "DivergedError" in done.stdout
    log = next(line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("log "))
    assert "DivergedError" in Path(log).read_text()
    again = next(line for line in done.stdout.splitlines() if line.startswith("resume "))
    assert again.split(maxsplit=1)[1] == (
        "clozeline run smoke -o baseline.training.learning_rate=1e30 --until baseline/small/0 --keep-going "
        f"--max-parallel 1 --no-register --store '{store}'"
    )
    # NaN is not a transient error, so there is one attempt.
    assert done.stdout.count("started   baseline/small/0") == 1
