"""The PET stage: one sub-model, that is one pattern trained with one seed on the few labelled examples.

Schick & Schütze, "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference", EACL
2021. With `tune: none` nothing is trained, and the stage measures the pattern zero-shot, or with demonstrations before
each text. In a later generation of iPET (section 3.4) the training set grows by texts that other sub-models labelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, model_validator

from stages.ensembles.generations import GrowthConfig
from stages.ensembles.members import Member
from stages.models.backbones import BackboneConfig
from stages.models.submodels import LoraConfig, SubModel, Tune
from stages.patterns.cloze import ClozeClassifier, LabelledCloze, Loss
from stages.patterns.mlm import MlmConfig
from stages.prompts.methods import PromptConfig
from stages.protocols import Engine, Recorder
from stages.tasks import Example, Task
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    from torch import Tensor


class Config(BaseModel, frozen=True, extra="forbid"):
    """One sub-model."""

    task: Task = Field(description="Labels, patterns and label words.")
    pattern: str = Field(description="Name of the pattern to train.")
    backbone: BackboneConfig = Field(description="The language model.")
    tune: Tune = Field(
        description="What is trained: full (all weights), lora (adapters), prompt (a soft prompt), none (zero-shot)."
    )
    lora: LoraConfig = Field(LoraConfig(), description="Adapters, for tune: lora.")
    prompt: PromptConfig = Field(PromptConfig(), description="Soft prompt, for tune: prompt.")
    loop: LoopConfig | None = Field(description="Length and rates of the training; none for tune: none.")
    loss: Loss = Field("auto", description="cross_entropy, hinge, or auto: hinge where a word has several tokens.")
    mlm: MlmConfig | None = Field(None, description="The auxiliary loss on unlabelled text; masked models only.")
    growth: GrowthConfig | None = Field(None, description="A later generation of iPET; none: labelled examples alone.")
    shots: int = Field(0, ge=0, description="Demonstrations a class before each text, for tune: none.")
    labels_pile: bool = Field(True, description="Also label the unlabelled pile, as members of the ensemble do.")
    seed: int = Field(description="Seed of order, dropout, new weights and drawings.")
    name: str = Field("", description="Name of its prompt among those that were trained together, if it was.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        if (self.loop is None) != (self.tune == "none"):
            raise ValueError("tune: none takes no loop, and every other tune needs one. Mend tune or loop.")
        if self.tune == "none" and (self.mlm or self.growth):
            raise ValueError("tune: none takes neither mlm nor ipet, which train. Mend tune, or take them out.")
        if self.shots and self.tune != "none":
            raise ValueError("demonstrations are for tune: none. Mend tune or shots.")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `words`: files of the verbalizer search, if the task has no words of its own;
    `teachers`: files of the sub-models of the generation before; `pretrained`: files of the prompt-pretraining stage,
    if the prompt starts there; `together`: files of the stage that trained the prompt with others, if one did.
    """

    data: Path
    words: Path | None = None
    teachers: tuple[Path, ...] = ()
    pretrained: Path | None = None
    together: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the sub-model. `train_accuracy_before` is the ensemble's accuracy weight; `num_drawn` counts the texts
    that other sub-models labelled.

    Files: the sub-model (see stages/models/submodels.py), those of a member (see stages/ensembles/members.py),
    `losses.json` and, in a later generation, `drawn.jsonl`.
    """

    final_loss: float | None
    num_drawn: int = 0


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the sub-model, labels test set and pile, and writes all of it to `out`."""
    from stages.ensembles.members import label_everything, measure
    from stages.models.submodels import fresh
    from stages.patterns.verbalizers import found_words
    from stages.prompts.prompt import started
    from stages.prompts.showing import show
    from stages.prompts_together import taken
    from stages.texts.data import load_examples
    from stages.training.curves import write_losses

    task = config.task if inputs.words is None else config.task.with_words(found_words(inputs.words))
    train_set = load_examples(inputs.data / "train.jsonl")
    drawn = _drawn(config, inputs, train_set, out, recorder)
    with fresh(config.backbone, config.tune, config.lora, config.seed, engine) as submodel:
        backbone = submodel.backbone
        if config.tune == "prompt":
            submodel.prompt = started(config.prompt, task, config.pattern, backbone, config.seed, inputs.pretrained)
        classifier = ClozeClassifier.of(
            task, config.pattern, backbone, config.backbone, submodel.prompt, loss_kind=config.loss, engine=engine
        )
        if config.shots:
            _prime(config, classifier, train_set, recorder)
        num_trained = sum(parameter.numel() for parameter in submodel.parameters.values())
        before = _accuracy(classifier, train_set, recorder, "labelled set before training")
        if inputs.together is None:
            losses = _train(config, inputs, classifier, submodel, [*train_set, *drawn], recorder, engine)
        else:
            submodel.prompt, last, _ = taken(inputs.together, config.name, backbone)
            classifier.prompt, losses = submodel.prompt, [last]
        write_losses(out, losses)
        show(submodel.prompt, backbone, recorder)
        submodel.save(config.pattern, out)
        if losses:
            recorder.metric("train/accuracy", _accuracy(classifier, train_set, recorder, "labelled set"))
        finish = label_everything if config.labels_pile else measure
        test = finish(classifier, task.labels, inputs.data, out, recorder)
    recorder.metric("train/accuracy_before", before)
    return Result(
        test=test,
        train_accuracy_before=before,
        final_loss=losses[-1] if losses else None,
        num_labelled=len(train_set) if losses else config.shots * len(task.labels),
        num_unlabelled=len(drawn),
        num_drawn=len(drawn),
        trainable_parameters=num_trained,
    )


def _drawn(config: Config, inputs: Inputs, train_set: list[Example], out: Path, recorder: Recorder) -> list[Example]:
    """The texts of a later generation, labelled by the teachers."""
    if config.growth is None:
        return []
    from stages.ensembles.generations import draw
    from stages.texts.data import load_examples, write_examples

    pile = load_examples(inputs.data / "unlabeled.jsonl")
    drawn = draw(config.growth, train_set, pile, inputs.teachers, config.task.labels, config.seed)
    write_examples(out / "drawn.jsonl", drawn)
    num_wanted = sum(config.growth.targets(config.task.labels, train_set).values())
    recorder.metric("drawn/missing", num_wanted - len(drawn))
    recorder.table("drawn", [{**item.fields, "label": item.label} for item in drawn[:100]])
    return drawn


def _prime(config: Config, classifier: ClozeClassifier, train_set: list[Example], recorder: Recorder) -> None:
    from stages.patterns.priming import choose, prime

    demonstrations = choose(train_set, config.task.labels, config.shots, config.seed)
    recorder.table("demonstrations", [{**item.fields, "label": item.label} for item in demonstrations])
    prime(classifier, demonstrations)


def _accuracy(classifier: ClozeClassifier, examples: list[Example], recorder: Recorder, phase: str) -> float:
    if not examples:
        return 0.0
    return classifier.evaluate(examples, recorder, phase)[0].accuracy


def _train(
    config: Config,
    inputs: Inputs,
    classifier: ClozeClassifier,
    submodel: SubModel,
    examples: list[Example],
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains; returns the loss of every step."""
    if config.loop is None:
        return []
    from stages.patterns.mlm import with_mlm
    from stages.prompts.cached_text import cached_loss
    from stages.texts.data import load_examples
    from stages.training.loop import train

    dev_set = load_examples(inputs.data / "dev.jsonl") if config.loop.early_stopping else []
    validate: Callable[[], tuple[float, float]] | None = None
    if dev_set:
        validate = lambda: classifier.validate(dev_set, recorder)  # noqa: E731
    loss_of: Callable[[list[LabelledCloze]], Tensor] = cached_loss(classifier)
    if config.mlm is not None:
        pile = load_examples(inputs.data / "unlabeled.jsonl")
        loss_of = with_mlm(classifier, pile, config.mlm)
    if submodel.prompt is None:
        submodel.backbone.model.train()
    return train(
        classifier.items(examples), loss_of, submodel.parameters, config.loop,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
        held=config.prompt.held if submodel.prompt is not None else {},
    )  # fmt: skip
