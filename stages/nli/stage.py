"""The NLI stage: labels texts by the hypotheses that they entail; nothing is trained.

Yin et al., "Benchmarking Zero-shot Text Classification", EMNLP 2019 (https://arxiv.org/abs/1909.00161): the text is the
premise, and each label is a hypothesis, such as "This text is about sports.". The logit of a label is the entailment
logit of its hypothesis; with several labels per example, entailment is compared with contradiction, as in the zero-shot
pipeline of transformers. Letters in names of arrays: n examples, C labels, E outputs of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from stages.common.config import MULTI_LABEL
from stages.common.errors import AssetError, InputError
from stages.common.examples import Example, load_examples
from stages.common.models.batching import batches_by_length, default_device
from stages.common.models.config import eval_batch_tokens
from stages.common.models.model_files import check_encoder_folder, model_folder
from stages.common.models.nli_labels import nli_labels
from stages.common.models.tokenizers import load_tokenizer
from stages.common.plain_text import PlainText
from stages.common.problems import problem_of
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import Member, held_out_scores, write_member_logits
from stages.common.training.throughput import log_texts_per_second
from stages.nli.config import NliConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the model. Its held-out logits are those of the labeled examples, from which it did not learn.

    Files: those of a member (stages/common/training/evaluation.py).
    """


def run(config: NliConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Labels labeled set, test set and unlabeled set, and writes all files to `out`.

    Raises:
        AssetError: the model is unreachable, or has no label for entailment.
    """
    del engine
    classifier = NliClassifier(config)
    problem = problem_of(config.labels, config.problem_type)
    train_set = load_examples(inputs.data / "train.jsonl")
    held_out = classifier.predict(train_set, recorder, "labeled examples") if train_set else None
    test = write_member_logits(classifier, problem, inputs.data, out, recorder, held_out)
    log_texts_per_second(classifier, load_examples(inputs.data / "test.jsonl"), recorder)
    return Result(
        test=test,
        **held_out_scores(held_out, train_set, problem),
        num_labeled=0,
        num_unlabeled=0,
        trainable_parameters=0,
    )


class NliClassifier:
    """(text, hypothesis) pairs -> model -> [n, C] logits."""

    def __init__(self, config: NliConfig) -> None:
        self.config = config
        folder = model_folder(config.asset)
        check_encoder_folder(folder)
        self.outputs = nli_labels(folder)
        if config.problem_type == MULTI_LABEL and self.outputs.contradiction is None:
            raise AssetError(
                f"{folder.name} has no label for contradiction, with which entailment of each label is compared.",
                "Use a model with the labels entailment and contradiction.",
            )
        self.tokenizer = load_tokenizer(folder)
        pairs = self.tokenizer([("", hypothesis) for hypothesis in config.hypotheses(config.labels)])["input_ids"]
        if max(map(len, pairs)) >= config.max_length:
            raise InputError(
                f"a hypothesis has {max(map(len, pairs))} tokens, so {config.max_length} leave no space for a text.",
                "Raise max_length, or shorten hypothesis.",
                key="max_length",
            )
        self._plain = PlainText(self.tokenizer)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        self.model.to(default_device()).eval()

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`. Each pair of text and hypothesis is a row of a batch."""
        hypotheses = self.config.hypotheses(self.config.labels)
        premises = [self._plain("\n".join(item.fields[name] for name in self.config.fields)) for item in examples]
        pairs = [(premise, hypothesis) for premise in premises for hypothesis in hypotheses]
        lengths = [min(1 + sum(map(len, pair)) // 4, self.config.max_length) for pair in pairs]
        logits = torch.zeros(len(pairs), dtype=torch.float64)
        num_done = 0
        for rows in batches_by_length(lengths, eval_batch_tokens(on_gpu=self.model.device.type != "cpu")):
            logits[rows] = self._entailment([pairs[row] for row in rows])
            num_done += len(rows)
            recorder.log_progress(num_done, len(pairs), phase=phase)
        of_examples: NDArray[np.float64] = logits.reshape(len(examples), len(hypotheses)).numpy()
        return of_examples

    def _entailment(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Returns the logit of entailment of each pair of text and hypothesis."""
        batch = self.tokenizer(
            *(list(column) for column in zip(*pairs, strict=True)),
            padding=True,
            truncation="only_first",
            max_length=self.config.max_length,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.inference_mode():
            logits_BE: Tensor = self.model(**batch).logits.double().cpu()
        entailment = logits_BE[:, self.outputs.entailment]
        if self.config.problem_type == MULTI_LABEL:
            assert self.outputs.contradiction is not None
            return entailment - logits_BE[:, self.outputs.contradiction]
        return entailment
