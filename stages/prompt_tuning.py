"""The prompt-tuning stage: a soft prompt learns a downstream task on the few labelled examples, over a frozen backbone.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; hybrid with a hard pattern as in
PPT (Gu et al., ACL 2022); the other methods are those of stages/prompts/methods.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from stages.measures.metrics import Measured
from stages.models.backbones import BackboneConfig
from stages.prompts.methods import PromptConfig
from stages.protocols import Engine, Recorder
from stages.tasks import Task
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    from stages.models.submodels import SubModel
    from stages.patterns.cloze import ClozeClassifier


class Config(BaseModel, frozen=True, extra="forbid"):
    """A task, its hard pattern, and the prompt."""

    task: Task = Field(description="Labels, patterns and label words.")
    pattern: str = Field(description="Name of the hard pattern.")
    backbone: BackboneConfig = Field(description="The frozen language model.")
    prompt: PromptConfig = Field(description="Method and settings of the prompt.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    seed: int = Field(description="Seed of start and order.")
    name: str = Field("", description="Name of the prompt among those that were trained together, if it was.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `pretrained`: files of the prompt-pretraining stage, if the prompt starts
    there; `together`: files of the stage that trained it with others, if one did.
    """

    data: Path
    pretrained: Path | None = None
    together: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format), with LoRA weights in
    `prompt/lora/` and a linear head in `prompt/head.safetensors` if there are any; what it serves in `prompted.json`;
    `test_logits.jsonl`; `losses.json`.
    """

    final_loss: float


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the prompt, tests it, and writes it to `out`."""
    from stages.ensembles.members import record_scores
    from stages.models.adapters import tidy
    from stages.models.submodels import LoraConfig, fresh
    from stages.patterns.cloze import ClozeClassifier
    from stages.prompts.head import save_head
    from stages.prompts.peft_format import save_prompt
    from stages.prompts.serving import Prompted
    from stages.prompts.showing import show
    from stages.prompts_together import taken
    from stages.texts.data import load_examples
    from stages.texts.logits import write_logits
    from stages.training.curves import write_losses

    train_set = load_examples(inputs.data / "train.jsonl")
    test_set = load_examples(inputs.data / "test.jsonl")
    lora = config.prompt.lora
    with fresh(config.backbone, "lora" if lora else "none", lora or LoraConfig(), config.seed, engine) as submodel:
        backbone = submodel.backbone
        if inputs.together is None:
            classifier, losses, trainable = _trained(config, inputs, submodel, recorder, engine)
            write_losses(out, losses)
        else:
            prompt, last, trainable = taken(inputs.together, config.name, backbone)
            losses = [last]
            classifier = ClozeClassifier.of(
                config.task, config.pattern, backbone, config.backbone, prompt, engine=engine
            )
        save_prompt(classifier.prompt, backbone, out / "prompt", config.prompt.method)
        show(classifier.prompt, backbone, recorder)
        if classifier.head is not None:
            save_head(classifier.head, config.task.labels, out / "prompt")
        if lora:
            submodel.adapter.save_pretrained(out / "prompt" / "lora")
            tidy(out / "prompt" / "lora")
        Prompted(task=config.task, pattern=config.pattern, backbone=config.backbone).save(out)
        logits = classifier.predict(test_set, recorder, "test set")
    write_logits(out / "test_logits.jsonl", test_set, logits, config.task.labels)
    return Result(
        test=record_scores(logits, test_set, config.task.labels, recorder),
        final_loss=losses[-1],
        num_labelled=len(train_set),
        num_unlabelled=0,
        trainable_parameters=trainable,
    )


def _trained(
    config: Config, inputs: Inputs, submodel: SubModel, recorder: Recorder, engine: Engine
) -> tuple[ClozeClassifier, list[float], int]:
    """The classifier with its trained prompt, the loss of every step, and how many parameters were trained."""
    from stages.patterns.cloze import ClozeClassifier
    from stages.prompts.cached_text import cached_loss
    from stages.prompts.head import LinearHead
    from stages.prompts.prompt import started
    from stages.texts.data import load_examples
    from stages.training.loop import train

    backbone = submodel.backbone
    prompt = started(config.prompt, config.task, config.pattern, backbone, config.seed, inputs.pretrained)
    head = None
    if config.prompt.head == "linear":
        head = LinearHead(backbone.state_width, len(config.task.labels)).to(backbone.device)
    classifier = ClozeClassifier.of(
        config.task, config.pattern, backbone, config.backbone, prompt, head=head, engine=engine
    )
    parameters = {**dict(prompt.named_parameters()), **submodel.parameters}
    parameters |= {f"head.{name}": item for name, item in head.named_parameters()} if head else {}
    train_set = load_examples(inputs.data / "train.jsonl")
    dev_set = load_examples(inputs.data / "dev.jsonl") if config.loop.early_stopping else []
    validate: Callable[[], tuple[float, float]] | None = None
    if dev_set:
        validate = lambda: classifier.validate(dev_set, recorder)  # noqa: E731
    if submodel.adapter is not None:
        submodel.backbone.model.train()
    losses = train(
        classifier.items(train_set), cached_loss(classifier), parameters, config.loop,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
        held=config.prompt.held,
    )  # fmt: skip
    return classifier, losses, sum(item.numel() for item in parameters.values())
