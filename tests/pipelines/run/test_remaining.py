"""The estimate of the time that a run still takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StepFailedError
from cluster.run.events import StepFailed, StepFinished, StepStarted
from cluster.steps.fingerprint import KeyOptions
from cluster.steps.plan import Plan, PlannedStep, PlanState
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.location import open_store
from cluster.store.manifest import FileEntry, Key, Manifest
from pipelines.default_models import COSTS, MINILM, MPNET, PATTERN_TOKENS, SMOLLM2, STEP_OVERHEAD
from pipelines.run.remaining import BYTES_AROUND_TEXT, BYTES_PER_TOKEN, RemainingTime, Sizes, step_seconds
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.distillation.config import DistillationConfig
from stages.pet.config import PetConfig
from stages.probe.config import ContrastiveConfig, ProbeConfig
from stages.prompt_tuning.search.config import PromptSearchConfig

TASK: dict[str, Any] = {"labels": ("a", "b"), "fields": ("text",)}
TRAINING = TrainingConfig(learning_rate=1e-4, batch_size=16, steps=100)
SIZES = Sizes(train=32, unlabeled=1000, test=200, tokens=40)


def step(name: str, kind: str, config: Any, *upstream: Step) -> Step:
    inputs = {f"input_{number}": item for number, item in enumerate(upstream)}
    return Step(name=name, run="stages.probe.stage:run", config=config, inputs=inputs, kind=kind)


DATA = step("data/task", "data", TRAINING)
FROZEN = step(
    "probe/frozen", "probe", ProbeConfig(**TASK, encoder=EncoderConfig(asset=MINILM.asset, max_length=128)), DATA
)
STUDENT = step(
    "distill/base/0",
    "distill",
    DistillationConfig(**TASK, student=StudentConfig(asset=MPNET.asset, max_length=32), training=TRAINING),
    DATA,
    FROZEN,
)


def manifest(sizes: Sizes) -> Manifest:
    """Returns the manifest of a data step with these sizes."""
    bytes_per_row = BYTES_AROUND_TEXT + int(BYTES_PER_TOKEN * sizes.tokens)
    sets = {"train": sizes.train, "unlabeled": sizes.unlabeled, "test": sizes.test}
    files = {f"{name}.jsonl": FileEntry(size=num * bytes_per_row, sha256="") for name, num in sets.items()}
    result = {f"num_{name}": num for name, num in sets.items()}
    return Manifest(step=DATA.name, fingerprint="f", key={}, files=files, upstream_digests={}, result=result)


def plan(*steps: Step, cached: bool) -> Plan:
    """Returns the plan of a run. Its data is committed, or is sampled by the run."""
    key = Key("f" * 64, {})
    states = {item.name: PlanState.CACHED if cached and item is DATA else PlanState.RUN for item in (DATA, *steps)}
    lines = {item.name: PlannedStep(step=item, key=key, state=states[item.name]) for item in (DATA, *steps)}
    return Plan(
        lines=lines,
        steps={name: line.step for name, line in lines.items()},
        keys=dict.fromkeys(lines, key),
        manifests={DATA.name: manifest(SIZES)} if cached else {},
        key_options=KeyOptions(),
    )


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pet_config() -> PetConfig:
    task = {
        "labels": TASK["labels"],
        "name": "task",
        "patterns": {"a": "{text} It was{mask}"},
        "verbalizer": {"a": ["bad"], "b": ["good"]},
    }
    return PetConfig(task=task, pattern="a", backbone={"asset": SMOLLM2.asset, "max_length": 128}, tune="none")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield open_store(tmp_path / "store")


def test_sizes_are_those_of_the_data() -> None:
    assert Sizes.of(manifest(SIZES)) == SIZES


def test_frozen_encoder_reads_each_text_once() -> None:
    num_texts = SIZES.train + SIZES.unlabeled + SIZES.test
    assert step_seconds(FROZEN, SIZES) == pytest.approx(
        STEP_OVERHEAD + num_texts * SIZES.tokens * COSTS[MINILM].reading / 1000
    )


@pytest.mark.parametrize(("averages", "num_trainings"), [(False, 4), (True, 3)])
def test_each_fold_trains_an_encoder(averages: bool, num_trainings: int) -> None:
    contrastive = ContrastiveConfig(training=TRAINING, average_folds=averages)
    config = FROZEN.config.model_copy(update={"contrastive": contrastive, "num_folds": 3})
    more = step_seconds(step("probe/tuned", "probe", config), SIZES) - step_seconds(FROZEN, SIZES)
    assert more == pytest.approx(num_trainings * 100 * 16 * SIZES.tokens * COSTS[MINILM].training / 1000)


def test_student_is_trained_on_cut_texts_and_reads_the_test_set() -> None:
    tokens = 32 * (100 * 16 * COSTS[MPNET].training + SIZES.test * COSTS[MPNET].reading)
    assert step_seconds(STUDENT, SIZES) == pytest.approx(STEP_OVERHEAD + tokens / 1000)


def test_epochs_of_a_student_are_over_the_unlabeled_texts() -> None:
    epochs = TrainingConfig(learning_rate=1e-4, batch_size=16, epochs=2)
    long = step("distill/base/0", "distill", STUDENT.config.model_copy(update={"training": epochs}))
    assert step_seconds(long, SIZES) > step_seconds(STUDENT, SIZES), "130 steps instead of 100"


def test_pattern_is_read_with_the_text(pet_config: Any) -> None:
    without = pet_config.model_copy(update={"label_unlabeled": False})
    less = step_seconds(step("pet/a/0", "pet", pet_config), SIZES)
    less -= step_seconds(step("pet/a/0", "pet", without), SIZES)
    tokens = SIZES.tokens + PATTERN_TOKENS
    assert less == pytest.approx(SIZES.unlabeled * tokens * COSTS[SMOLLM2].reading / 1000)


def test_trial_of_a_search_trains_its_folds_and_reads_the_labeled_examples() -> None:
    task = Task(name="t", labels=("a", "b"), patterns={"p": "{text}{mask}"}, verbalizer={"a": ["x"], "b": ["y"]})
    backbone = BackboneConfig(asset=SMOLLM2.asset, max_length=128)
    config = PromptSearchConfig(
        task=task, pattern="p", backbone=backbone, prompt=PromptConfig(), training=TRAINING, num_folds=4
    )
    thousands = (SIZES.tokens + PATTERN_TOKENS) / 1000
    trained = 4 * 100 * 16 * thousands * COSTS[SMOLLM2].training
    read = SIZES.train * thousands * COSTS[SMOLLM2].reading
    trial = step("prompt_search/t/x/100_steps", "prompt_search", config)
    assert step_seconds(trial, SIZES) == pytest.approx(STEP_OVERHEAD + trained + read)


def test_step_without_a_model_takes_its_start(pet_config: Any) -> None:
    assert step_seconds(step("report", "report", TRAINING), SIZES) == STEP_OVERHEAD


def test_time_is_known_once_the_data_is_sampled(store: Store) -> None:
    clock = Clock()
    remaining = RemainingTime(plan(FROZEN, cached=False), store, clock)
    assert remaining.seconds() is None
    lookup = {DATA.name: manifest(SIZES)}
    store.lookup = lambda step, fingerprint, verify=False: lookup.get(step)  # type: ignore[method-assign]
    remaining(StepStarted(DATA.name, 1, "log"))
    remaining(StepFinished(DATA.name, 1.0, cached=False))
    assert remaining.seconds() == pytest.approx(step_seconds(FROZEN, SIZES))


def test_cached_data_is_known_at_once_and_running_steps_count_their_time(store: Store) -> None:
    clock = Clock()
    remaining = RemainingTime(plan(FROZEN, STUDENT, cached=True), store, clock)
    total = step_seconds(FROZEN, SIZES) + step_seconds(STUDENT, SIZES)
    assert remaining.seconds() == pytest.approx(total)
    remaining(StepStarted(STUDENT.name, 1, "log"))
    clock.now = 10.0
    assert remaining.seconds() == pytest.approx(total - 10)
    remaining(StepStarted(FROZEN.name, 1, "log"))
    clock.now = 14.0
    assert remaining.seconds() == pytest.approx(total - 14), "both steps together make up the time"
    remaining(
        StepFailed(FROZEN.name, StepFailedError(step=FROZEN.name, error="lost", remedy="", log="", attempt=1), 1.0)
    )
    clock.now = 16.0
    assert remaining.seconds() == pytest.approx(total - 16)


def test_finished_steps_correct_the_estimate(store: Store) -> None:
    clock = Clock()
    remaining = RemainingTime(plan(FROZEN, STUDENT, cached=True), store, clock)
    remaining(StepStarted(STUDENT.name, 1, "log"))
    clock.now = 3 * step_seconds(STUDENT, SIZES)
    remaining(StepFinished(STUDENT.name, clock.now, cached=False))
    assert remaining.seconds() == pytest.approx(3 * step_seconds(FROZEN, SIZES))
    remaining(StepStarted(FROZEN.name, 1, "log"))
    clock.now += 100 * step_seconds(FROZEN, SIZES)
    left = remaining.seconds()
    assert left is not None and left > 0, "a step that takes longer than expected is not over"
    remaining(StepFinished(FROZEN.name, 1.0, cached=False))
    assert remaining.seconds() is None, "nothing is left"
