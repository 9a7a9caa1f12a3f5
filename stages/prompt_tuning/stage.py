"""The prompt-tuning stage: tunes a soft prompt for a task on the labeled examples, over a frozen backbone.

Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021; hybrid with a hard pattern as in
PPT (Gu et al., ACL 2022). The other methods are those of stages/common/prompts/config.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.common.data.step_outputs import write_losses
from stages.common.examples import load_examples
from stages.common.metrics.classification import EvaluationResult
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.problems import problem_of
from stages.common.prompts.config import PromptServingConfig
from stages.common.prompts.inspection import log_mixture
from stages.common.prompts.peft_format import load_trained_prompt
from stages.common.prompts.soft_prompt import Prompt
from stages.common.prompts.tuning import prompt_backbone, save_tuned_prompt
from stages.common.protocols import Engine, Recorder
from stages.common.training.bf16_margins import log_bf16_margins
from stages.common.training.evaluation import evaluate_on_test
from stages.prompt_tuning.config import PromptTuningConfig
from stages.prompt_tuning.training import tune_prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `pretrained`: files of prompt pretraining, for init: ppt; `sources`: files of
    the prompts that a mixture has; `batched`: files of batched prompt tuning, if the prompt was trained there.
    """

    data: Path
    pretrained: Path | None = None
    sources: tuple[Path, ...] = ()
    batched: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores with the trained prompt. Files: the prompt in `prompt/` (PEFT's format, where it has one), with LoRA
    weights in `prompt/lora/` and a linear head in `prompt/head.safetensors` if they were trained; its task, pattern
    and backbone in `prompt_model.json`; `test_logits.jsonl`; `losses.json`.
    """

    final_loss: float


def run(config: PromptTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the prompt, evaluates it, and writes it to `out`."""
    labels = config.task.labels
    train_set = load_examples(inputs.data / "train.jsonl")
    with prompt_backbone(config.backbone, config.prompt, config.seed, engine) as submodel:
        if inputs.batched is None:
            dev_set = load_examples(inputs.data / "dev.jsonl")
            classifier, losses, num_parameters = tune_prompt(
                config, submodel.backbone, train_set, dev_set,
                pretrained=inputs.pretrained, sources=inputs.sources, recorder=recorder, engine=engine,
            )  # fmt: skip
        else:
            trained = load_trained_prompt(inputs.batched, config.name, submodel.backbone)
            classifier = ClozeClassifier.of(
                config.task, config.pattern, submodel.backbone, config.backbone, trained.prompt, engine=engine
            )
            losses, num_parameters = [trained.final_loss], trained.num_parameters
        write_losses(out, losses)
        method, adapter = config.prompt.method, submodel.adapter
        save_tuned_prompt(classifier, out / "prompt", recorder, method=method, adapter=adapter, outputs=labels)
        PromptServingConfig(task=config.task, pattern=config.pattern, backbone=config.backbone).save(out)
        _log_mixture(config, classifier, inputs.data, recorder)
        test = evaluate_on_test(classifier, problem_of(labels, config.task.problem_type), inputs.data, out, recorder)
        log_bf16_margins(classifier, out, labels, recorder)
    return Result(
        test=test,
        final_loss=losses[-1],
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=num_parameters,
    )


def _log_mixture(config: PromptTuningConfig, classifier: ClozeClassifier, data: Path, recorder: Recorder) -> None:
    """Records how much a mixture uses each of its sources for the texts of the test set."""
    if not config.prompt.sources:
        return
    names = [item if item == "ppt" else f"{item.task}/{item.method}" for item in config.prompt.sources]
    texts = [item for example in load_examples(data / "test.jsonl") for item in classifier.encode(example)]
    assert classifier.prompt is None or isinstance(classifier.prompt, Prompt)
    log_mixture(classifier.prompt, texts, names, recorder)
