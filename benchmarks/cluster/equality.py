"""The same prompt from one worker, from two that share batches (ddp), and from two that share the model (zero3).

    python benchmarks/cluster/equality.py [bert] [llama]

Prints a table: for each model and strategy the largest difference to one worker's prompt and to its logits of the test
set, and the seconds of the step, with the start of its workers. Ends with 1 if something differs by more than
TOLERANCE. The models: BERT-tiny as it was published, and a Llama of 4 layers with random weights, both in float32.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.run.ray_session import session
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.step import Resources, Step, Strategy
from cluster.store.location import open_store
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.prompt_tuning.config import PromptTuningConfig
from stages.splits.config import SplitsConfig

TOLERANCE = 1e-4
"""Numbers of a prompt are around 1, logits around 10; sums of other workers are added in another order."""
LOOP = TrainingConfig(learning_rate=0.01, batch_size=8, steps=20)
WAYS: tuple[tuple[Strategy, int], ...] = (("single", 1), ("ddp", 2), ("zero3", 2))
LLAMA = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}


@dataclass(frozen=True, slots=True)
class Way:
    """What one strategy came to: the prompt's numbers, the test set's logits, seconds of the step."""

    vectors: Any
    logits: Any
    seconds: float


def main() -> int:
    """Measures and prints."""
    worst = 0.0
    print("| model | strategy | workers | prompt | logits | seconds |\n|---|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, session(num_cpus=2):
        smoke = read_recipe(find_recipe("smoke"), PipelineConfig)
        exact = smoke.backbone.model_copy(update={"precision": "fp32"})
        assert smoke.task is not None
        inside = smoke.task.only("review")
        ends = inside.model_copy(update={"patterns": {"review": "{text} It was{mask}"}})
        llama = exact.model_copy(update={"asset": str(small_llama(Path(folder) / "llama"))})
        models = {"bert": ("BERT-tiny", exact, inside), "llama": ("Llama, 4 layers", llama, ends)}
        for name, backbone, read in (models[key] for key in sys.argv[1:] or models):
            ways = [tuned(Path(folder), name, smoke, read, backbone, *way) for way in WAYS]
            for (strategy, workers), way in zip(WAYS, ways, strict=True):
                differences = [largest(ways[0].vectors, way.vectors), largest(ways[0].logits, way.logits)]
                worst = max(worst, *differences)
                shown = ["", ""] if strategy == "single" else [f"{value:.1e}" for value in differences]
                print(f"| {name} | {strategy} | {workers} | {' | '.join(shown)} | {way.seconds:.1f} |", flush=True)
    print(f"\n{os.cpu_count()} CPUs, load {os.getloadavg()[2]:.1f} meanwhile")
    return int(worst > TOLERANCE)


def tuned(
    folder: Path, name: str, smoke: PipelineConfig, task: Task, backbone: Any, strategy: Strategy, workers: int
) -> Way:
    """Tunes a prompt on the smoke recipe's texts, in a store of its own."""
    from safetensors.numpy import load_file

    from stages.common.data.step_outputs import read_logits

    assert smoke.data is not None
    reads = SplitsConfig(data=smoke.data, labels=task.labels, fields=("text",), seed=1)
    config = PromptTuningConfig(
        task=task, pattern="review", backbone=backbone, prompt=PromptConfig(num_virtual_tokens=8), training=LOOP, seed=3
    )
    data = Step(name="data", run="stages.splits.stage:run", config=reads)
    resources = Resources(workers=workers, strategy=strategy)
    step = Step(
        name="prompt", run="stages.prompt_tuning.stage:run", config=config, inputs={"data": data}, resources=resources
    )
    store = open_store(folder / f"{name}-{strategy}")
    outcome = execute([step], store, RunOptions())
    if not outcome.ok:
        raise SystemExit("\n".join(str(error) for error in outcome.errors.values()))
    files = store.files("prompt", outcome.manifests["prompt"].fingerprint)
    vectors = load_file(files / "prompt" / "adapter_model.safetensors")["prompt_embeddings"]
    logits = read_logits(files / "test_logits.jsonl", task.labels).logits
    return Way(vectors, logits, outcome.manifests["prompt"].seconds)


def largest(one: Any, other: Any) -> float:
    """The largest difference of two arrays of one shape."""
    return float(abs(one - other).max())


def small_llama(folder: Path) -> Path:
    """A Llama with random weights and a tokenizer of bytes, saved."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(["bad", "terrible", "good", "great", "was", "It"])
    torch.manual_seed(7)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=160, **LLAMA, **ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer(words: Sequence[str]) -> Any:
    """Byte-level BPE whose merges make these words, with a space before, one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

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
