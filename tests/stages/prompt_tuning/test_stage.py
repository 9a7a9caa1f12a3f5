"""Prompt stages on small real models, and what seeds decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages.common.data.config import CorpusConfig, Source
from stages.common.data.split_files import load_examples
from stages.common.data.step_outputs import read_losses
from stages.common.errors import InputError
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.label_word_scores import label_scores
from stages.common.prompts.config import InitConfig, PromptConfig
from stages.common.prompts.initialization import init_vectors
from stages.common.prompts.peft_format import load_prompt
from stages.common.seeds import torch_rng
from stages.common.training.config import TrainingConfig
from stages.prompt_pretraining import stage as prompt_pretraining
from stages.prompt_pretraining.config import PretrainingConfig
from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from tests.support.small_models import FAMILIES, backbone_config, film_task
from tests.support.stage_runs import SILENT, Kept, assert_a_seed_decides, logits_of, run, written

# --- prompts ------------------------------------------------------------------------------------------------------

PROMPT_LOOP = TrainingConfig(learning_rate=0.1, batch_size=4, steps=30, lr_scheduler="constant", weight_decay=0.0)


def tuned(folder: Path, name: str, **settings: Any) -> PromptTuningConfig:
    values = {"prompt": PromptConfig(num_virtual_tokens=5), "training": PROMPT_LOOP, "seed": 1} | settings
    task = film_task(name).only("review")
    return PromptTuningConfig(task=task, pattern="review", backbone=backbone_config(folder), **values)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_learns_and_is_loaded_as_it_was(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = tuned(backbone_folders[name], name)
    recorder = Kept()
    result = run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / "out", recorder)
    assert result.trainable_parameters == 5 * 32
    assert [row["vector"] for row in recorder.tables["nearest_words"]] == [1, 2, 3, 4, 5]
    assert set(recorder.figures) == {"prompt_norms", "confusion"}
    assert recorder.metrics["test/mcc"] == result.test.mcc
    assert read_losses(tmp_path / "out")[-1] == pytest.approx(result.final_loss, abs=1e-6)
    backbone = load_backbone(config.backbone, frozen=True)
    prompt = load_prompt(tmp_path / "out" / "prompt", backbone)
    classifier = ClozeClassifier.of(config.task, "review", backbone, config.backbone, prompt)
    test = load_examples(film_data / "test.jsonl")
    assert classifier.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)
    items = classifier.items(load_examples(film_data / "train.jsonl"))
    start = init_vectors(InitConfig(), 5, backbone, torch_rng(1, "start"))
    classifier.prompt = lambda: SoftInput(before=start)
    with torch.inference_mode():
        before = float(classifier.loss(items))
        classifier.prompt = prompt
        after = float(classifier.loss(items))
    assert after < min(before - 0.1, 0.6)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_peft_loads_a_saved_prompt_and_computes_the_same(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = tuned(backbone_folders[name], name)
    run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(backbone_folders[name], dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "out" / "prompt").eval()
    ours = ClozeClassifier.of(config.task, "review", load_backbone(config.backbone, frozen=True), config.backbone)
    test = load_examples(film_data / "test.jsonl")
    for item, expected in zip(test, logits_of(tmp_path / "out"), strict=True):
        ids = torch.tensor([ours.encoder(item).ids])
        with torch.inference_mode():
            last = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        found = label_scores(ours.verbalizer, last[:, [word[0] for word in ours.verbalizer.flat]])[0]
        assert found.numpy() == pytest.approx(expected, abs=1e-4)


def test_a_prompt_is_refused_by_a_backbone_of_another_width(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = tuned(backbone_folders["gpt2"], "gpt2", training=PROMPT_LOOP.model_copy(update={"steps": 1}))
    run(prompt_tuning, config, prompt_tuning.Inputs(data=film_data), tmp_path / "out")
    backbone = load_backbone(config.backbone, frozen=True)
    backbone.model.resize_token_embeddings(10)
    backbone.model.set_input_embeddings(torch.nn.Embedding(10, 16))
    with pytest.raises(InputError, match="width 32, the backbone takes 16"):
        load_prompt(tmp_path / "out" / "prompt", backbone)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_pretrained_on_raw_text_and_starts_a_task(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    lines = [" ".join(f"The {word} film number {line} was {word} again." for word in WORDS) for line in range(8)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    corpus = CorpusConfig(source=Source(asset=str(tmp_path / "corpus.txt")), num_examples=30, max_sentence_words=8)
    config = PretrainingConfig(
        backbone=backbone_config(backbone_folders[name]), corpus=corpus, num_virtual_tokens=4, num_held_out=9, seed=2,
        training=TrainingConfig(learning_rate=0.05, batch_size=5, steps=12),
    )  # fmt: skip
    result = run(prompt_pretraining, config, prompt_pretraining.Inputs(), tmp_path / "ppt")
    assert (result.num_documents, result.num_examples, result.trainable_parameters) == (8, 30, 4 * 32)
    assert result.held_out.num_examples == 9
    built = load_examples(tmp_path / "ppt" / "examples.jsonl")
    assert len(built) == 39
    assert {item.label for item in built} == {"yes", "maybe", "no"}

    started = tuned(
        backbone_folders[name], name, prompt=PromptConfig(init="ppt", num_virtual_tokens=99), training=tiny_step()
    )
    inputs = prompt_tuning.Inputs(data=film_data, pretrained=tmp_path / "ppt")
    run(prompt_tuning, started, inputs, tmp_path / "out")
    before, after = (prompt_vectors(tmp_path / step) for step in ("ppt", "out"))
    assert before.shape == after.shape == (4, 32)
    assert 0 < (before - after).abs().max() < 1e-5, "it starts where pretraining ended"


def prompt_vectors(out: Path) -> torch.Tensor:
    return load_file(out / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]


WORDS = ("warm", "clever", "dull", "bad")


def tiny_step() -> TrainingConfig:
    return TrainingConfig(learning_rate=1e-6, batch_size=4, steps=1)


@pytest.mark.parametrize("kind", ["normal", "uniform", "zero", "sample_vocab", "text", "mean"])
def test_prompts_start_as_they_are_told(kind: str, backbone_folders: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_config(backbone_folders["bert"]), frozen=True)
    table = backbone.model.get_input_embeddings().weight
    config = InitConfig(kind=kind, text="the film" if kind == "text" else "", scale=0.5, num_candidate_tokens=50)
    found = init_vectors(config, 40, backbone, torch_rng(0))
    again, other = (init_vectors(config, 40, backbone, torch_rng(seed)) for seed in (0, 1))
    assert found.shape == (40, 32)
    assert torch.equal(found, again)
    assert torch.equal(found, other) is (kind in ("zero", "text", "mean"))
    if kind == "normal":
        assert found.std().item() == pytest.approx(0.5, rel=0.1)
    elif kind == "uniform":
        assert 0.4 < found.abs().max() <= 0.5
        assert abs(found.mean()) < 0.05
    elif kind == "zero":
        assert found.abs().max() == 0
    elif kind == "mean":
        assert torch.allclose(found, table.mean(dim=0).expand(40, 32), atol=1e-6)
    elif kind == "text":
        ids = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
        assert torch.equal(found, table[ids].repeat(20, 1))
    else:
        rows = [(table == vector).all(dim=1).nonzero().item() for vector in found]
        assert len(set(rows)) == 40
        assert max(rows) < 50
        assert not set(rows) & set(backbone.tokenizer.all_special_ids)


def test_a_small_vocabulary_still_fills_a_long_prompt(backbone_folders: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_config(backbone_folders["bert"]), frozen=True)
    found = init_vectors(InitConfig(num_candidate_tokens=20), 100, backbone, torch_rng(0))
    assert found.shape == (100, 32)


# --- seeds --------------------------------------------------------------------------------------------------------

SHORT = TrainingConfig(learning_rate=0.01, batch_size=3, steps=3)


def prepare(stage: str, seed: int, folders: dict[str, Path], data: Path, corpus: Path) -> tuple[Any, Any, Any]:
    """Module, config and inputs of a short run."""
    if stage == "prompt_tuning":
        config = tuned(folders["gpt2"], "gpt2", seed=seed, training=SHORT)
        return prompt_tuning, config, prompt_tuning.Inputs(data=data)
    raw = CorpusConfig(source=Source(asset=str(corpus)), num_examples=9)
    backbone = backbone_config(folders["gpt2"])
    config = PretrainingConfig(
        backbone=backbone, corpus=raw, num_virtual_tokens=3, num_held_out=3, seed=seed, training=SHORT
    )
    return prompt_pretraining, config, prompt_pretraining.Inputs()


@pytest.mark.parametrize("stage", ["prompt_tuning", "prompt_pretraining"])
def test_a_seed_decides_everything(
    stage: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(" ".join(f"This is {word} text {line} here." for word in WORDS) for line in range(5)))

    def once(seed: int, name: str) -> dict[str, bytes]:
        run(*prepare(stage, seed, backbone_folders, film_data, corpus), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)
