"""Many prompts over one backbone: constant memory, versions, and errors that change nothing."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest

from pipelines.serving.loading import load_predictor
from pipelines.serving.prompt_predictor import PromptPredictor
from pipelines.serving.served_tasks import ServedTasks
from stages.common.errors import AssetError, DataError, InputError
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.soft_prompt import Prompt
from tests.support.served_prompts import TEXTS, save_backbone, save_prompts, save_text_prompt

NUM_TASKS = 200
CAPACITY = 8


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def folders(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    names = {f"task{number}": number for number in range(NUM_TASKS)}
    return save_prompts(backbone, tmp_path_factory.mktemp("prompts"), names)


def loaded(folders: list[Path], capacity: int = CAPACITY) -> PromptPredictor:
    predictor = load_predictor(folders, capacity)
    assert isinstance(predictor, PromptPredictor)
    return predictor


def num_prompts() -> int:
    gc.collect()
    return sum(type(item) is Prompt for item in gc.get_objects())


def test_hundreds_of_prompts_take_the_memory_of_a_few(folders: list[Path]) -> None:
    before = num_prompts()
    predictor = loaded(folders)
    assert len(predictor.tasks) == NUM_TASKS
    rows = [{"task": f"task{number}", "text": TEXTS[number % 3]} for number in range(NUM_TASKS)]
    mixed = predictor.predict([predictor.parse_row(row, "0") for row in rows])
    assert num_prompts() - before == predictor.num_loaded == CAPACITY
    assert [item["task"] for item in mixed] == [row["task"] for row in rows]
    assert len({json.dumps(item["probabilities"]) for item in mixed}) > NUM_TASKS / 2, "prompts differ"
    for number in (0, 7, 8, 199):  # the same as alone, read again from its folder
        (alone,) = loaded([folders[number]]).predict([predictor.parse_row(rows[number], "0")])
        assert mixed[number]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_a_version_is_named_by_number_or_alias(folders: list[Path]) -> None:
    predictor = loaded(folders[:1])
    served, _ = predictor.table.served.with_version("task0", str(folders[1]), None, ["next"], None)
    waiting = predictor.parse_row({"text": TEXTS[0]}, "0")
    predictor.install(predictor.prepare(served.with_alias("task0", "default", "2")))
    predictor.names_versions = True
    rows = [{"task": f"task0{name}", "text": TEXTS[0]} for name in ("", "@1", "@2", "@next", "@default")]
    answers = predictor.predict([predictor.parse_row(row, "0") for row in rows])
    assert [item["version"] for item in answers] == ["2", "1", "2", "2", "2"]
    assert answers[0]["probabilities"] != answers[1]["probabilities"]
    assert predictor.predict([waiting])[0]["version"] == "1", "a text that waits keeps its version"
    assert predictor.plain_field("task0@next") == "text"
    for name in ("task0@9", "task0@", "@1", "task9"):
        with pytest.raises(DataError, match="has no prompt here"):
            predictor.parse_row({"task": name, "text": "x"}, "0")


def test_a_broken_prompt_changes_nothing(folders: list[Path], tmp_path: Path) -> None:
    predictor = loaded(folders[:2])
    broken = shutil.copytree(folders[2], tmp_path / "broken")
    (broken / "prompt/adapter_model.safetensors").write_bytes(b"nothing")
    other = save_prompts(save_backbone(tmp_path / "model"), tmp_path, {"other": 1})[0]
    before = predictor.table
    for folder, words in ((broken, "damaged"), (other, "another backbone"), (tmp_path / "none", "has no prompt_model")):
        served, _ = before.served.with_version("task0", str(folder), None, ["default"], None)
        with pytest.raises(InputError, match=words):
            predictor.prepare(served)
    assert predictor.table is before


def test_files_that_change_after_they_were_added_are_an_error(folders: list[Path], tmp_path: Path) -> None:
    mine = shutil.copytree(folders[0], tmp_path / "mine")
    predictor = loaded([mine, *folders[1:3]], capacity=1)
    items = [predictor.parse_row({"task": f"task{number}", "text": TEXTS[0]}, "0") for number in range(2)]
    shutil.copy(folders[5] / "prompt/adapter_model.safetensors", mine / "prompt")
    with pytest.raises(AssetError, match="have changed"):
        predictor.predict(items)


def test_removed_prompts_leave_the_memory(folders: list[Path]) -> None:
    predictor = loaded(folders[:3])
    assert predictor.num_loaded == 3
    predictor.install(predictor.prepare(ServedTasks.of_folders({"task1": str(folders[1])})))
    predictor.forget_others()
    assert predictor.num_loaded == 1 and set(predictor.tasks) == {"task1"}


def test_two_prompts_of_one_task_need_versions(folders: list[Path], backbone: Path, tmp_path: Path) -> None:
    twice = save_prompts(backbone, tmp_path, {"task0": 9})
    with pytest.raises(InputError, match="two prompts have the same task"):
        loaded([folders[0], *twice])


def test_prompts_that_depend_on_the_text_share_batches_with_others(
    backbone: Path, folders: list[Path], tmp_path: Path
) -> None:
    texts = [
        save_text_prompt(backbone, tmp_path / name, name, config)
        for name, config in {
            "instance": PromptConfig(method="idpg", bottleneck_size=8),
            "mixture": PromptConfig(method="attempt", bottleneck_size=8, temperature=1.0, sources=("ppt",)),
        }.items()
    ]
    predictor = loaded([folders[0], *texts])
    rows = [{"task": task, "text": text} for text in TEXTS for task in ("instance", "task0", "mixture")]
    mixed = predictor.predict([predictor.parse_row(row, "0") for row in rows])
    assert [item["task"] for item in mixed] == [row["task"] for row in rows]
    for row, item in zip(rows, mixed, strict=True):
        folder = {"instance": texts[0], "mixture": texts[1], "task0": folders[0]}[row["task"]]
        (alone,) = loaded([folder]).predict([predictor.parse_row(row, "0")])
        assert item["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
    assert len({json.dumps(item["probabilities"]) for item in mixed}) == len(mixed)
