"""Compares a prompt from one worker with two workers that share batches (ddp, zero2) or the model (fsdp, zero3).

    python benchmarks/cluster/equality.py [bert] [llama]      --quick: only bert, ddp and a few steps

Prints a table: for each model and strategy, the largest difference from the prompt and test logits of one worker, and
the seconds of the step, including the start of its workers. Exits with 1 if a difference is larger than TOLERANCE. The
models are BERT-tiny as published and a Llama of 4 layers with random weights, both in float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.machine import machine
from cluster.run.ray_session import session
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step, Strategy
from cluster.store.location import open_store
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.data.step_outputs import read_logits
from stages.common.engine import ENGINE
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_tuning.config import PromptTuningConfig
from stages.splits.config import SplitsConfig

TOLERANCE = 1e-4
"""Values of a prompt are around 1, logits around 10. Several workers add the terms of a sum in another order."""

TRAINING = TrainingConfig(learning_rate=0.01, batch_size=8, steps=20)
STRATEGIES: tuple[tuple[Strategy, int], ...] = (("single", 1), ("ddp", 2), ("fsdp", 2), ("zero2", 2), ("zero3", 2))
"""Strategy and number of workers; the first is the reference."""

LLAMA = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the task that it is tuned on."""

    name: str
    backbone: BackboneConfig
    task: Task


@dataclass(frozen=True, slots=True)
class TunedPrompt:
    """Result of one strategy: the prompt, the logits of the test set, and the seconds of the step."""

    vectors: NDArray[np.float32]
    logits: NDArray[np.float64]
    seconds: float


def main() -> int:
    """Tunes all prompts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[[], "bert", "llama"], help="models to compare; default: both")
    parser.add_argument("--quick", action="store_true", help="only bert, ddp and four steps, to try the benchmark")
    options = parser.parse_args()
    names = options.models or (["bert"] if options.quick else ["bert", "llama"])
    strategies = STRATEGIES[:2] if options.quick else STRATEGIES
    training = TRAINING.model_copy(update={"steps": 4}) if options.quick else TRAINING
    worst = 0.0
    print(f"{machine()}\n")
    print("| model | strategy | workers | prompt | logits | seconds |\n|---|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, session(num_cpus=2):
        smoke = read_recipe(find_recipe("smoke"), PipelineConfig)
        for case in (case for case in cases(smoke, Path(folder)) if case.name in names):
            prompts = [tune_prompt(Path(folder), smoke, case, training, *strategy) for strategy in strategies]
            for (strategy, workers), prompt in zip(strategies, prompts, strict=True):
                differences = [
                    max_difference(prompts[0].vectors, prompt.vectors),
                    max_difference(prompts[0].logits, prompt.logits),
                ]
                worst = max(worst, *differences)
                cells = ["", ""] if strategy == "single" else [f"{value:.1e}" for value in differences]
                print(
                    f"| {case.name} | {strategy} | {workers} | {' | '.join(cells)} | {prompt.seconds:.1f} |", flush=True
                )
    print(f"\nlargest difference {worst:.1e}, limit {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


def cases(smoke: PipelineConfig, folder: Path) -> list[Case]:
    """Returns BERT-tiny with a mask inside the pattern, and a small Llama with a mask at its end."""
    assert smoke.task is not None
    assert smoke.backbone is not None
    backbone = smoke.backbone.model_copy(update={"precision": "fp32"})
    task = smoke.task.only("review")
    llama = backbone.model_copy(update={"asset": str(save_small_llama(folder / "llama"))})
    mask_at_end = task.model_copy(update={"patterns": {"review": "{text} It was{mask}"}})
    return [Case("bert", backbone, task), Case("llama", llama, mask_at_end)]


def tune_prompt(
    folder: Path, smoke: PipelineConfig, case: Case, training: TrainingConfig, strategy: Strategy, workers: int
) -> TunedPrompt:
    """Tunes a prompt on the data of the smoke recipe, in a separate store."""
    assert smoke.data is not None
    splits = SplitsConfig(data=smoke.data, labels=case.task.labels, fields=("text",), seed=1)
    config = PromptTuningConfig(
        task=case.task,
        pattern="review",
        backbone=case.backbone,
        prompt=PromptConfig(num_virtual_tokens=8),
        training=training,
        seed=3,
    )
    data = Step(name="data", run="stages.splits.stage:run", config=splits)
    resources = Resources(workers=workers, strategy=strategy)
    step = Step(
        name="prompt", run="stages.prompt_tuning.stage:run", config=config, inputs={"data": data}, resources=resources
    )
    store = open_store(folder / f"{case.name}-{strategy}")
    result = execute([step], store, RunOptions(engine=ENGINE))
    if not result.ok:
        raise SystemExit("\n".join(str(error) for error in result.errors.values()))
    files = store.files("prompt", result.manifests["prompt"].fingerprint)
    vectors = load_file(files / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]
    logits = read_logits(files / "test_logits.jsonl", case.task.labels).logits
    return TunedPrompt(vectors, logits, result.manifests["prompt"].seconds)


def max_difference(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Returns the largest absolute difference of two arrays of the same shape."""
    return float(abs(one - other).max())


def save_small_llama(folder: Path) -> Path:
    """Saves a Llama with random weights and a byte-level tokenizer."""
    tokenizer = byte_tokenizer(["bad", "terrible", "good", "great", "was", "It"])
    torch.manual_seed(7)
    special_ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=160, **LLAMA, **special_ids)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer that reads each of these words, after a space, as one token."""
    specials = ["<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, min_frequency=1, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f" {word}" for word in words for _ in range(9)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
