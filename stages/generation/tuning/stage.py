"""Tunes a soft prompt for text generation over a frozen causal or seq2seq model, as prefix tuning was introduced for.

Li & Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021: table-to-text and summarization.
Instead of a prompt, method: lora trains adapters alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.common.data.step_outputs import write_losses
from stages.common.prompts.initialization import new_prompt, pretrained_vectors, source_vectors
from stages.common.prompts.tuning import num_trainable_parameters, prompt_backbone, save_tuned_prompt, tune
from stages.common.protocols import Engine, Recorder
from stages.generation.examples import load_examples
from stages.generation.model import TextGenerator
from stages.generation.tuning.config import GenerationTuningConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage of generation; `pretrained`: files of prompt pretraining, for init: ppt;
    `sources`: files of the prompts that a mixture has.
    """

    data: Path
    pretrained: Path | None = None
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Facts about the training. Files: the prompt in `prompt/` (PEFT's format), with LoRA weights in `prompt/lora/` if
    they were trained; `losses.json`.
    """

    final_loss: float
    num_train: int
    num_cut_targets: int
    """Training targets that are longer than max_new_tokens."""
    trainable_parameters: int


def run(config: GenerationTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the prompt, and writes it to `out`."""
    train_set, dev_set = (load_examples(inputs.data / f"{name}.jsonl") for name in ("train", "dev"))
    with prompt_backbone(config.backbone, config.prompt, config.seed, engine) as submodel:
        backbone = submodel.backbone
        vectors = pretrained_vectors(config.prompt, backbone, inputs.pretrained)
        sources = source_vectors(inputs.sources, backbone)
        prompt = new_prompt(
            config.prompt, backbone, config.task.input_pattern, seed=config.seed, pretrained=vectors, sources=sources
        )
        model = TextGenerator(config.task, backbone, config.backbone, prompt)
        num_parameters = num_trainable_parameters(model)
        losses = tune(
            model, model.loss, train_set, dev_set, config.training, seed=config.seed, recorder=recorder, engine=engine,
            frozen_steps=config.prompt.frozen_steps, backbone_dropout=config.prompt.backbone_dropout,
        )  # fmt: skip
        write_losses(out, losses)
        method, adapter = config.prompt.method, submodel.adapter
        save_tuned_prompt(model, out / "prompt", recorder, method=method, adapter=adapter)
        num_cut = sum(item.is_cut for item in model.items(train_set))
    return Result(
        final_loss=losses[-1],
        num_train=len(train_set),
        num_cut_targets=num_cut,
        trainable_parameters=num_parameters,
    )
