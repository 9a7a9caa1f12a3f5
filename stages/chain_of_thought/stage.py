"""The stage of chain of thought: the model writes a rationale, and the answer in it is the label.

Zero-shot: Kojima et al., "Large Language Models are Zero-Shot Reasoners", NeurIPS 2022. With demonstrations: Wei et
al., "Chain-of-Thought Prompting Elicits Reasoning in Large Language Models", NeurIPS 2022. Several rationales and a
majority vote: Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models", ICLR 2023.
Nothing is trained, and no label of an example is read before the scores are computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stages.chain_of_thought.answers import Answer, AnswerParser, Majority, majority
from stages.chain_of_thought.config import ChainOfThoughtConfig
from stages.chain_of_thought.prompts import Prompts
from stages.chain_of_thought.scores import score_answers
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.metrics.classification import EvaluationResult
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.text_generation import GREEDY, Generator, Sampling, TextStart, end_ids_of
from stages.common.problems import problem_of
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import torch_rng

RATIONALES_FILE = "rationales.jsonl"
MAX_LOGGED = 100
"""Rows of the table of answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores on the test set. Files: `rationales.jsonl` (uid, fields, rationales with their answers, votes, label)."""

    num_unanswered: int
    """Test examples without an answer in any rationale. They count as wrong."""
    num_ties: int
    """Test examples with several labels that have the most votes. The one that was named first counts."""
    num_rationales: int
    """Rationales of all test examples."""
    num_cut: int
    """Rationales that end at max_rationale_tokens."""
    demonstrations_per_text: float
    """Mean number of demonstrations that fit before a question."""


@dataclass(frozen=True, slots=True)
class Rationale:
    """What the model wrote about an example. `completion`: what followed the answer trigger, in a pass of its own."""

    text: str
    completion: str | None
    answer: Answer
    is_cut: bool


def run(config: ChainOfThoughtConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Answers the test set."""
    test_set = load_examples(inputs.data / "test.jsonl")
    with borrow_backbone(config.backbone, engine) as backbone:
        if backbone.family != "causal":
            raise InputError(
                f"chain of thought needs a causal model, but the backbone is {backbone.family}.",
                "Use a causal backbone, or remove chain_of_thought.",
                key="backbone.asset",
            )
        prompts = Prompts(config, backbone.tokenizer, backbone.max_positions)
        written = _Writer(config, backbone, prompts, recorder, engine).write(test_set)
    decisions = [majority([item.answer.label for item in rationales]) for rationales in written]
    _write_rationales(out / RATIONALES_FILE, test_set, written, decisions)
    problem = problem_of(config.labels, config.problem_type)
    test = score_answers([item.label for item in decisions], test_set, problem)
    num_unanswered = sum(item.label is None for item in decisions)
    num_cut = sum(item.is_cut for rationales in written for item in rationales)
    for name in ("accuracy", "macro_f1", "mae", "qwk", "mcc", "exact_match"):
        if (value := getattr(test, name)) is not None:
            recorder.log_metric(f"test/{name}", value)
    recorder.log_metric("test/unanswered", num_unanswered / len(test_set))
    recorder.log_metric("rationales/fraction_cut", num_cut / (len(test_set) * config.num_rationales))
    recorder.log_table("answers", _table(test_set, written, decisions)[:MAX_LOGGED])
    return Result(
        test=test,
        num_labeled=config.num_demonstrations,
        num_unlabeled=0,
        trainable_parameters=0,
        num_unanswered=num_unanswered,
        num_ties=sum(item.is_tie for item in decisions),
        num_rationales=len(test_set) * config.num_rationales,
        num_cut=num_cut,
        demonstrations_per_text=round(prompts.num_read / prompts.num_texts, 2),
    )


class _Writer:
    """Writes the rationales of examples, and finds the answers in them."""

    def __init__(
        self, config: ChainOfThoughtConfig, backbone: Backbone, prompts: Prompts, recorder: Recorder, engine: Engine
    ) -> None:
        self._config = config
        self._prompts = prompts
        self._recorder = recorder
        self._tokenizer = backbone.tokenizer
        self._generate = Generator(backbone, engine, end_ids=end_ids_of(backbone))
        self._find = AnswerParser(config.answers, config.answer_trigger, config.answer_pattern)

    def write(self, examples: Sequence[Example]) -> list[list[Rationale]]:
        """Returns `num_rationales` rationales of each example."""
        config = self._config
        prompts = [
            TextStart.of_ids(ids, self._randoms(example, number))
            for example in examples
            for ids in [self._prompts.rationale_prompt(example)]
            for number in range(config.num_rationales)
        ]
        sampling = Sampling(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
        written = self._generate(
            prompts,
            config.max_rationale_tokens,
            partial(self._log_progress, "rationales"),
            decoding=sampling if config.is_sampled else GREEDY,
            stop=config.ends,
        )
        texts = [self._text(item.ids) for item in written]
        completions = self._completions(prompts, texts) if config.has_answer_pass else [None] * len(texts)
        rationales = [
            Rationale(text, completion, self._answer(text, completion), item.is_cut)
            for text, completion, item in zip(texts, completions, written, strict=True)
        ]
        count = config.num_rationales
        return [rationales[start : start + count] for start in range(0, len(rationales), count)]

    def _randoms(self, example: Example, number: int) -> torch.Tensor | None:
        config = self._config
        if not config.is_sampled:
            return None
        generator = torch_rng(config.seed, "rationale", example.uid, number)
        return torch.rand(config.max_rationale_tokens, generator=generator, dtype=torch.float64)

    def _completions(self, prompts: Sequence[TextStart], texts: Sequence[str]) -> list[str | None]:
        """Returns what the model writes after the answer trigger. The most probable tokens are taken."""
        questions = [
            TextStart.of_ids(self._prompts.answer_prompt(prompt.encoded.ids, text))
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        answers = self._generate(questions, self._config.max_answer_tokens, partial(self._log_progress, "answers"))
        return [self._decoded(item.ids).strip() for item in answers]

    def _answer(self, text: str, completion: str | None) -> Answer:
        if completion is None or self._config.answer_pattern is None:
            return self._find(text, completion)
        return self._find(text, f"{self._config.answer_trigger.strip()} {completion}")

    def _text(self, ids: tuple[int, ...]) -> str:
        """Returns a rationale up to a text that ends it, without white space around it."""
        text = self._decoded(ids)
        ends = [index for end in self._config.ends if (index := text.find(end)) >= 0]
        return text[: min(ends, default=None)].strip()

    def _decoded(self, ids: tuple[int, ...]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _log_progress(self, phase: str, done: int, total: int) -> None:
        self._recorder.log_progress(done, total, phase=phase)


def _write_rationales(
    path: Path, examples: Sequence[Example], written: Sequence[Sequence[Rationale]], decisions: Sequence[Majority]
) -> None:
    """Writes one JSON object per example. It has no gold label, so it is the same whatever the labels are."""
    with path.open("w", encoding="utf-8") as file:
        for example, rationales, decision in zip(examples, written, decisions, strict=True):
            row = {
                "uid": example.uid,
                "fields": dict(example.fields),
                "rationales": [asdict(item) for item in rationales],
                "votes": dict(decision.votes),
                "is_tie": decision.is_tie,
                "label": decision.label,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _table(
    examples: Sequence[Example], written: Sequence[Sequence[Rationale]], decisions: Sequence[Majority]
) -> list[dict[str, Any]]:
    """Returns one row per example with its first rationale."""
    return [
        {
            **example.fields,
            "rationale": rationales[0].text,
            "answer": rationales[0].answer.text,
            "votes": json.dumps(dict(decision.votes), ensure_ascii=False),
            "predicted": decision.label,
            "label": example.label,
        }
        for example, rationales, decision in zip(examples, written, decisions, strict=True)
    ]
