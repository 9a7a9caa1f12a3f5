"""Old keys and values are errors that name the new ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from pipelines.schema.renamed_keys import RENAMED_KEYS, RENAMED_VALUES, check_renamed_keys
from tests.support.paths import ROOT

KEYS = [
    *((f"{section}.loop", f"{section}.training") for section in ("ppt", "pet", "distill", "baseline", "prompts")),
    ("prompts.methods.random.loop", "prompts.methods.random.training"),
    ("members.bert.loop", "members.bert.training"),
    ("members.mini.contrastive.loop", "members.mini.contrastive.training"),
    ("pet.training.warmup", "pet.training.warmup_ratio"),
    ("distill.training.schedule", "distill.training.lr_scheduler"),
    ("prompts.training.early_stopping.every", "prompts.training.early_stopping.eval_steps"),
    ("ppt.start", "ppt.init"),
    ("pet.prompt.start", "pet.prompt.init"),
    ("prompts.methods.random.start", "prompts.methods.random.init"),
    ("ppt.init.words", "ppt.init.text"),
    ("prompts.methods.random.init.most_common", "prompts.methods.random.init.num_candidate_tokens"),
    ("ppt.num_vectors", "ppt.num_virtual_tokens"),
    ("pet.prompt.num_vectors", "pet.prompt.num_virtual_tokens"),
    ("prompts.methods.random.hidden", "prompts.methods.random.encoder_hidden_size"),
    ("prompts.methods.random.reparameterise", "prompts.methods.random.reparameterization"),
    ("prompts.methods.random.hard_steps", "prompts.methods.random.hard_prompt_steps"),
    ("pet.together", "pet.batched_training"),
    ("prompts.together", "prompts.batched_training"),
    ("shards", "unlabeled_shards"),
    ("unlabeled_shards.num_taught", "unlabeled_shards.max_student_examples"),
    ("distill.gold_share", "distill.gold_weight"),
    ("distill.keep_share", "distill.keep_fraction"),
    ("pet.ipet.scale", "pet.ipet.scale_factor"),
    ("pet.ipet.teacher_share", "pet.ipet.teacher_fraction"),
    ("members.bert.ipet.most_confident", "members.bert.ipet.num_most_likely"),
    ("ensemble.mean", "ensemble.average"),
    ("student", "students: {small: {...}}"),
    ("students.small.head_strength", "students.small.head_regularization_c"),
    ("members.mini.strength", "members.mini.regularization_c"),
    ("members.mini.contrast", "members.mini.contrastive"),
    ("pet.mlm.share", "pet.mlm.mlm_probability"),
    ("backbone.read_tokens", "backbone.eval_batch_tokens"),
    ("members.bert.backbone.read_tokens", "members.bert.backbone.eval_batch_tokens"),
    ("task.score", "task.label_score"),
    ("prompts.tasks.0.task.shorten", "prompts.tasks.0.task.truncation"),
    ("ppt.corpus.sentence_words", "ppt.corpus.max_sentence_words"),
    ("ppt.single.words", "ppt.single.verbalizer"),
    ("ppt.single.candidates", "ppt.single.candidates_per_example"),
    ("prompts.tokens", "prompts.token_classification"),
    ("prompts.spans", "prompts.question_answering"),
    ("prompts.question_answering.squad.max_answer", "prompts.question_answering.squad.max_answer_tokens"),
    ("data.pool.keep", "data.pool.filter"),
    ("prompts.tasks.0.data.train.label_names", "prompts.tasks.0.data.train.label_map"),
    ("ppt.corpus.source.keep", "ppt.corpus.source.filter"),
    ("unlabeled_shards.source.keep", "unlabeled_shards.source.filter"),
    ("resources.offload_to", "resources.nvme_path"),
    ("pet.offload_to", "pet.nvme_path"),
]
VALUES = [
    ("ppt.init.kind", "vocabulary", "sample_vocab"),
    ("prompts.methods.random.init.kind", "words", "text"),
    ("prompts.methods.random.head", "words", "verbalizer"),
    ("ensemble.calibration", "pile", "unlabeled"),
    ("ppt.single.calibration", "pile", "unlabeled"),
]


def last(key: str) -> str:
    """Returns the last part of a dotted key."""
    return key if "{" in key else key.rpartition(".")[2]


def nested(key: str, value: object) -> object:
    """Returns mappings, and lists for `0`, with a value at a dotted key."""
    for part in reversed(key.split(".")):
        value = [value] if part == "0" else {part: value}
    return value


@pytest.mark.parametrize(("old", "new"), KEYS)
def test_an_old_key_is_an_error_with_the_new_key(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "tickets.yaml"
    path.write_text("name: tickets\n" + yaml.safe_dump(nested(old, {})))
    line = len(path.read_text().splitlines())
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, PipelineConfig)
    names = [last(key) for key in (old, new)]
    assert str(caught.value) == (
        f"{path}:{line}: {old}: {names[0]!r} was renamed to {names[1]!r}. Rename the key to {new}."
    )


@pytest.mark.parametrize(("key", "old", "new"), VALUES)
def test_an_old_value_is_an_error_with_the_new_value(key: str, old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "tickets.yaml"
    path.write_text(yaml.safe_dump(nested(key, old)))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, PipelineConfig)
    assert str(caught.value).endswith(f": {key}: the value {old!r} was renamed to {new!r}. Set {key}: {new}.")


@pytest.mark.parametrize("old", [old for old, _ in KEYS if ".0." not in old])
def test_an_old_key_in_an_override_is_an_error(old: str) -> None:
    with pytest.raises(RecipeError, match="was renamed to") as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, [f"{old}={{}}"])
    assert (caught.value.key, caught.value.where) == (old, "-o")


@pytest.mark.parametrize(("key", "old"), [(key, old) for key, old, _ in VALUES])
def test_an_old_value_in_an_override_is_an_error(key: str, old: str) -> None:
    with pytest.raises(RecipeError, match="was renamed to") as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, [f"{key}={old}"])
    assert (caught.value.key, caught.value.where) == (key, "-o")


def test_every_renamed_key_and_value_is_tested() -> None:
    assert {(last(old), last(new)) for old, new in KEYS} == {(old, new) for _, old, new in RENAMED_KEYS}
    assert {(old, new) for _, old, new in VALUES} == {(old, new) for _, old, new in RENAMED_VALUES}


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines/recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_have_no_old_keys(path: Path) -> None:
    check_renamed_keys(yaml.safe_load(path.read_text(encoding="utf-8")))
