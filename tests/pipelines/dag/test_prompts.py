"""Steps of soft prompts: alone, together, as sub-models; and one real run of all of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

METHODS = "prompts.methods={v2: {method: p_tuning_v2, num_virtual_tokens: 3}, ppt: {init: ppt}}"
TOGETHER = "prompts.batched_training=true"
SUBMODELS = ("pet.tune=prompt", "pet.prompt={num_virtual_tokens: 4}", "pet.batched_training=true")
SOFT = "task.patterns.soft='{text} {soft:2} is {mask}.'"
SOFT_WORDS = "task.verbalizer={rotten: [bad], fresh: [good]}"


def plan(*overrides: str) -> dict[str, Step]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    return {step.name: step for step in build_steps(config)}


def upstream(step: Step) -> set[str]:
    return {item.name for item in step.upstream()}


def refused(*overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        plan(*overrides)
    return caught.value


def test_prompts_that_train_together_are_trained_in_one_step_and_tested_in_their_own() -> None:
    alone, together = plan(METHODS), plan(METHODS, TOGETHER)
    names = [name for name in alone if name.startswith("prompts/")]
    assert len(names) == 4
    assert set(together) - set(alone) == {"prompts/together"}
    shared = together["prompts/together"]
    assert [job.name for job in shared.config.jobs] == names
    assert upstream(shared) == {"data/rotten_tomatoes", "data/plot_or_quote", "ppt/pair"}
    for name in names:
        task = name.split("/")[1]
        assert upstream(together[name]) == {f"data/{task}", "prompts/together"}
        assert together[name].config == alone[name].config, "the same seed and settings, so the same prompt"
    starts = {job.name: job.pretrained for job in shared.config.jobs}
    assert {name for name, start in starts.items() if start == 0} == {name for name in names if "/ppt/" in name}
    order = list(together)
    assert order.index("prompts/together") < min(order.index(name) for name in names)
    assert "prompts/together" not in upstream(together["report"])


def test_submodels_with_prompts_train_together_in_the_first_generation() -> None:
    found = plan(*SUBMODELS, "pet.seeds=[0, 1]", "pet.ipet={generations: 1, scale: 2}")
    jobs = found["pet/together"].config.jobs
    assert [job.name for job in jobs] == [
        f"pet/{name}/{seed}" for name in ("review", "verdict", "question") for seed in (0, 1)
    ]
    for job in jobs:
        assert upstream(found[job.name]) == {"data/rotten_tomatoes", "pet/together"}
        assert (found[job.name].config.seed, found[job.name].config.prompt) == (job.seed, job.prompt)
        assert "pet/together" not in upstream(found[job.name.replace("pet/", "pet/g1/")])
    assert "pet/together" not in upstream(found["soft_labels"])


def test_patterns_with_soft_blocks_are_for_those_who_train_them() -> None:
    soft = (SOFT, SOFT_WORDS)
    found = plan(*soft, "prompts.tasks=[{pattern: soft}]")
    assert not any("/soft/" in name for name in found if name.startswith(("pet/", "zero_shot/")))
    found = plan(*soft, "pet.patterns=[review, soft]", *SUBMODELS)
    assert {"pet/soft/0", "pet/review/0"} <= set(found)
    assert "zero_shot/soft" not in found
    assert refused(*soft).key == "task.patterns.soft"
    assert refused(*soft, "pet.patterns=[soft, review]").key == "pet.patterns"
    deep = "pet.prompt={method: p_tuning_v2}"
    assert refused(*soft, "pet.patterns=[soft, review]", "pet.tune=prompt", deep).key == "pet.patterns"


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (("pet.batched_training=true",), "pet", "together is for soft prompts"),
        (("pet.tune=prompt", "pet.prompt={lora: {}}"), "pet", "no mlm, prompt.lora or prompt.head"),
        (("prompts.methods={x: {lora: {}}}", TOGETHER), "prompts", "without LoRA"),
        ((TOGETHER, "prompts.training.micro_batch_size=2"), "prompts", "neither micro_batch_size"),
        (("ppt=null",), "prompts.methods.ppt.start", "no ppt section"),
        (
            ("pet.tune=prompt", "pet.prompt={init: ppt}", "ppt=null", "prompts=null"),
            "pet.prompt.start",
            "no ppt section",
        ),
        ((*SUBMODELS, "task.verbalizer={}", "verbalizer_search={}", "prompts=null"), "pet.together", "searched for"),
        (("prompts.methods={x: {method: p_tuning, rank: 2}}",), "prompts.methods.x", "rank is for vectors"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: tuple[str, ...], key: str, problem: str) -> None:
    error = refused(*overrides)
    assert error.key.startswith(key), str(error)
    assert problem in str(error)


@pytest.fixture(scope="module")
def soft_run(tmp_path_factory: pytest.TempPathFactory, clozeline: Clozeline) -> tuple[Path, list[str]]:
    """The store of a run with prompts trained together, and the words that made it."""
    store = tmp_path_factory.mktemp("soft") / "store"
    words = (
        "name=soft",
        SOFT,
        SOFT_WORDS,
        "pet.patterns=[review, soft]",
        *SUBMODELS,
        METHODS,
        TOGETHER,
        "zero_shot=false",
    )
    overrides = [word for override in words for word in ("-o", override)]
    done = clozeline("run", "smoke", *overrides, "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    return store, [*overrides, "--store", str(store)]


def test_a_run_with_prompts_trained_together(soft_run: tuple[Path, list[str]], clozeline: Clozeline) -> None:
    store, words = soft_run
    report = json.loads((store / "reports" / "soft" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    tasks = ("rotten_tomatoes", "plot_or_quote")
    assert {f"prompts/{task}/{method}" for task in tasks for method in ("v2", "ppt")} <= set(rows)
    assert rows["pet/review"]["trainable_parameters"] == 2 * rows["pet/soft"]["trainable_parameters"], "4 and 2 vectors"
    again = clozeline("run", "smoke", *words)
    assert "0 steps executed" in again.stdout


def test_a_mixed_file_is_answered_by_the_prompt_of_each_lines_task(
    soft_run: tuple[Path, list[str]], clozeline: Clozeline, tmp_path: Path
) -> None:
    store, words = soft_run
    rows = [
        {"task": ("rotten_tomatoes", "plot_or_quote")[number % 2], "text": f"The film number {number}."}
        for number in range(7)
    ]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = clozeline("predict", "smoke", "--prompts", "v2", "--input", str(tmp_path / "mixed.jsonl"), *words)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["task"] for row in found] == [row["task"] for row in rows]
    labels = {"rotten_tomatoes": {"rotten", "fresh"}, "plot_or_quote": {"plot", "quote"}}
    assert all(set(row["probabilities"]) == labels[row["task"]] for row in found)
    folder = next((store / "prompts" / "plot_or_quote" / "v2" / "0").glob("*/files"))
    alone = clozeline("predict", str(folder), "--input", "-", stdin="The film number 1.\n")
    assert alone.returncode == 0, alone.stderr
    one = json.loads(alone.stdout)
    assert one["label"] == found[1]["label"]
    assert one["probabilities"] == pytest.approx(found[1]["probabilities"], abs=1e-3)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "A film."}', "line 1: names no task"),
        ('{"task": "weather", "text": "A film."}', "line 1: names the task 'weather'"),
        ('{"task": "plot_or_quote"}', "line 1: the field 'text' is missing"),
        ("A film.", "line 1: not JSON"),
    ],
)
def test_lines_that_name_no_task_are_refused(
    line: str, problem: str, soft_run: tuple[Path, list[str]], clozeline: Clozeline
) -> None:
    done = clozeline("predict", "smoke", "--prompts", "v2", "--input", "-", *soft_run[1], stdin=line + "\n")
    assert done.returncode == 2
    assert problem in done.stderr


def test_a_method_that_there_is_not_is_named(soft_run: tuple[Path, list[str]], clozeline: Clozeline) -> None:
    done = clozeline("predict", "smoke", "--prompts", "v3", "--input", "-", *soft_run[1], stdin="x\n")
    assert done.returncode == 2
    assert "Its methods: v2, ppt" in done.stderr
