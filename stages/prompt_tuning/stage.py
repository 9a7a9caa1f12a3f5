"""The prompt-tuning stage: tunes a soft prompt for a task on the labeled examples, over a frozen backbone.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; hybrid with a hard pattern as in
PPT (Gu et al., ACL 2022). The other methods are those of stages/common/prompts/config.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stages.common.data.split_files import load_examples
from stages.common.data.step_outputs import write_logits, write_losses
from stages.common.metrics.classification import EvaluationResult
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_cache import cached_loss
from stages.common.models.linear_heads import LinearHead, save_head
from stages.common.prompts.config import PromptServingConfig
from stages.common.prompts.initialization import initialize_prompt
from stages.common.prompts.inspection import log_inspection
from stages.common.prompts.peft_format import load_trained_prompt, save_prompt, tidy
from stages.common.prompts.soft_prompt import Prompt
from stages.common.prompts.submodels import SubModel, new_submodel
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import log_test_scores
from stages.common.training.loop import train
from stages.prompt_tuning.config import PromptTuningConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `pretrained`: files of the prompt-pretraining stage, if the prompt starts
    there; `together`: files of the stage that trained it with others, if one did.
    """

    data: Path
    pretrained: Path | None = None
    batched: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format), with LoRA weights in
    `prompt/lora/` and a linear head in `prompt/head.safetensors` if there are any; what it serves in `prompt_model.json`;
    `test_logits.jsonl`; `losses.json`.
    """

    final_loss: float


def run(config: PromptTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the prompt, tests it, and writes it to `out`."""

    train_set = load_examples(inputs.data / "train.jsonl")
    test_set = load_examples(inputs.data / "test.jsonl")
    lora = config.prompt.lora
    with new_submodel(
        config.backbone, "lora" if lora else "none", lora or LoraConfig(), config.seed, engine
    ) as submodel:
        backbone = submodel.backbone
        if inputs.batched is None:
            classifier, losses, trainable = _trained(config, inputs, submodel, recorder, engine)
            write_losses(out, losses)
        else:
            prompt, last, trainable = load_trained_prompt(inputs.batched, config.name, backbone)
            losses = [last]
            classifier = ClozeClassifier.of(
                config.task, config.pattern, backbone, config.backbone, prompt, engine=engine
            )
        assert isinstance(classifier.prompt, Prompt)
        save_prompt(classifier.prompt, backbone, out / "prompt", config.prompt.method)
        log_inspection(classifier.prompt, backbone, recorder)
        if classifier.head is not None:
            save_head(classifier.head, config.task.labels, out / "prompt")
        if lora:
            submodel.adapter.save_pretrained(out / "prompt" / "lora")
            tidy(out / "prompt" / "lora")
        PromptServingConfig(task=config.task, pattern=config.pattern, backbone=config.backbone).save(out)
        logits = classifier.predict(test_set, recorder, "test set")
    write_logits(out / "test_logits.jsonl", test_set, logits, config.task.labels)
    return Result(
        test=log_test_scores(logits, test_set, config.task.labels, recorder),
        final_loss=losses[-1],
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=trainable,
    )


def _trained(
    config: PromptTuningConfig, inputs: Inputs, submodel: SubModel, recorder: Recorder, engine: Engine
) -> tuple[ClozeClassifier, list[float], int]:
    """The classifier with its trained prompt, the loss of every step, and how many parameters were trained."""

    backbone = submodel.backbone
    prompt = initialize_prompt(config.prompt, config.task, config.pattern, backbone, config.seed, inputs.pretrained)
    head = None
    if config.prompt.head == "linear":
        head = LinearHead(backbone.hidden_size, len(config.task.labels)).to(backbone.device)
    classifier = ClozeClassifier.of(
        config.task, config.pattern, backbone, config.backbone, prompt, head=head, engine=engine
    )
    parameters = {**dict(prompt.named_parameters()), **submodel.parameters}
    parameters |= {f"head.{name}": item for name, item in head.named_parameters()} if head else {}
    train_set = load_examples(inputs.data / "train.jsonl")
    dev_set = load_examples(inputs.data / "dev.jsonl") if config.training.early_stopping else []
    validate = partial(classifier.validate, dev_set, recorder) if dev_set else None
    if submodel.adapter is not None:
        submodel.backbone.model.train()
    losses = train(
        classifier.items(train_set), cached_loss(classifier), parameters, config.training,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
        frozen_steps=config.prompt.frozen_steps,
    )  # fmt: skip
    return classifier, losses, sum(item.numel() for item in parameters.values())
