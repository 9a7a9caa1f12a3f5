"""The stage that evaluates an instruction-tuned model zero-shot: one pattern of a task that it was not tuned on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.common.examples import load_examples
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.search_results import searched_task
from stages.common.problems import problem_of
from stages.common.prompts.loader import ModelLoader
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import Member, evaluate_on_test, held_out_scores
from stages.instruction_tuning.held_out.config import HeldOutConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `tuned`: files of instruction tuning; `verbalizer` and `pattern_search`: files
    of the searches, if the recipe has them.
    """

    data: Path
    tuned: Path
    verbalizer: Path | None = None
    pattern_search: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the pattern. Its held-out scores are those of the labeled examples, from which it did not learn.

    Files: `test_logits.jsonl`.
    """


def run(config: HeldOutConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Evaluates the pattern on labeled set and test set, and writes the logits of the test set to `out`."""
    backbone = ModelLoader().load_submodel(inputs.tuned).backbone
    task = searched_task(config.task, verbalizer=inputs.verbalizer, pattern_search=inputs.pattern_search)
    classifier = ClozeClassifier.of(task, config.pattern, backbone, config.backbone, engine=engine)
    problem = problem_of(task.labels, task.problem_type)
    train_set = load_examples(inputs.data / "train.jsonl")
    held_out = classifier.predict(train_set, recorder, "labeled examples") if train_set else None
    return Result(
        test=evaluate_on_test(classifier, problem, inputs.data, out, recorder),
        **held_out_scores(held_out, train_set, problem),
        num_labeled=0,
        num_unlabeled=0,
        trainable_parameters=0,
    )
