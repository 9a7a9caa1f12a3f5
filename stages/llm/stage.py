"""The LLM stage: requests the label of each text from a language model at an HTTP endpoint, as an ensemble member.

The model sees an instruction with all labels and a few labeled demonstrations ("in-context learning", Brown et al.,
"Language Models are Few-Shot Learners", NeurIPS 2020), and answers with a label. An answer has no probabilities, so the
label that it names gets `CONFIDENCE`, which the ensemble scales by the accuracy on the labeled examples; an answer that
names no label counts for all labels alike. Letters in names of arrays: n examples, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.examples import Example, load_examples
from stages.common.problems import problem_of
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import Member, held_out_scores, write_member_logits
from stages.llm.client import ChatClient
from stages.llm.config import LlmConfig
from stages.llm.costs import Estimate
from stages.llm.questions import ANSWER_TOKENS, Questions, find_label

CONFIDENCE = 0.9
"""Probability of the label that an answer names, before the ensemble scales it."""
MAX_UNRECOGNIZED = 50
"""Rows of the table of answers without a label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the language model. Its held-out logits are those of the labeled examples.

    Files: those of a member (stages/common/training/evaluation.py).
    """

    num_unrecognized: int
    """Answers that name no label, or several."""


def run(config: LlmConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Labels labeled set, test set and unlabeled set, and writes all files to `out`.

    Raises:
        InputError: the requests are above a limit, or the endpoint refuses them or fails in all attempts.
    """
    del engine
    sets = {name: load_examples(inputs.data / f"{name}.jsonl") for name in ("train", "unlabeled", "test")}
    train_set, problem = sets["train"], problem_of(config.labels, config.problem_type)
    classifier = LlmClassifier(config, train_set)
    classifier.check_limits([item for examples in sets.values() for item in examples])
    held_out = classifier.predict(train_set, recorder, "labeled examples") if train_set else None
    test = write_member_logits(classifier, problem, inputs.data, out, recorder, held_out)
    classifier.record(recorder)
    return Result(
        test=test,
        **held_out_scores(held_out, train_set, problem),
        num_labeled=min(len(train_set), config.shots * len(config.labels)),
        num_unlabeled=0,
        trainable_parameters=0,
        num_unrecognized=len(classifier.unrecognized),
    )


class LlmClassifier:
    """Predicts labels by questions to the endpoint. `train_set`: [n] labeled examples, for demonstrations."""

    def __init__(self, config: LlmConfig, train_set: Sequence[Example]) -> None:
        self.config = config
        self.unrecognized: dict[str, str] = {}
        """Text of the question -> answer that names no label."""
        self._questions = Questions(config, train_set)
        self._client = ChatClient(config)

    def check_limits(self, examples: Sequence[Example]) -> None:
        """Checks the limits before the first request.

        Raises:
            InputError: there are too many requests, or they cost too much.
        """
        requests = [self._questions.request(item) for item in examples]
        Estimate.of(requests, self.config, ANSWER_TOKENS).check(self.config)

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`."""
        requests = [self._questions.request(item) for item in examples]
        answers = self._client.answer_all(requests, partial(recorder.log_progress, phase=phase))
        num_labels = len(self.config.labels)
        logits_nC = np.full((len(examples), num_labels), np.log((1 - CONFIDENCE) / (num_labels - 1)))
        for index, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            label = find_label(answer, self.config.labels)
            if label is None:
                self.unrecognized[request["messages"][-1]["content"]] = answer
                logits_nC[index] = -np.log(num_labels)
            else:
                logits_nC[index, label] = np.log(CONFIDENCE)
        return logits_nC

    def record(self, recorder: Recorder) -> None:
        """Records the requests that were sent, their tokens and cost, and the answers without a label."""
        usage = self._client.usage
        recorder.log_metric("llm/requests", usage.num_requests)
        recorder.log_metric("llm/input_tokens", usage.num_input_tokens)
        recorder.log_metric("llm/output_tokens", usage.num_output_tokens)
        cost = usage.cost(self.config)
        if cost is not None:
            recorder.log_metric("llm/cost", cost)
        recorder.log_metric("llm/unrecognized", len(self.unrecognized))
        rows = [{"text": text, "answer": answer} for text, answer in self.unrecognized.items()]
        if rows:
            recorder.log_table("unrecognized", rows[:MAX_UNRECOGNIZED])
