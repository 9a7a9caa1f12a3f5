"""The knowledge-probing stage: tests which facts a frozen language model predicts.

LAMA (Petroni et al., "Language Models as Knowledge Bases?", EMNLP 2019, https://arxiv.org/abs/1909.01066) uses
templates of words. P-tuning (Liu et al., 2021, https://arxiv.org/abs/2103.10385) and OptiPrompt (Zhong et al.,
"Factual Probing Is [MASK]", NAACL 2021, https://arxiv.org/abs/2104.05240) train vectors per relation on other facts of
it. Vectors also learn which answers are frequent, so papers compare them with what they reach on a random model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from stages.common.data.step_outputs import write_losses
from stages.common.errors import InputError
from stages.common.metrics.classification import EvaluationResult, Score
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import borrow_backbone
from stages.common.models.batching import wants_bf16
from stages.common.prompts.config import InitConfig, PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import derive_seed
from stages.common.training.batched import Batches, TrainingJob, train_batched
from stages.knowledge_probing.config import FactPromptConfig, ProbingConfig
from stages.knowledge_probing.facts import Fact, load_facts
from stages.knowledge_probing.model import Ranked, RelationModel
from stages.knowledge_probing.relations import check_relations, read_templates
from stages.knowledge_probing.templates import relation_pattern

PREDICTIONS_FILE = "test_answers.jsonl"
VECTORS_FILE = "vectors.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage of facts."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class FactScore(Score):
    """Fractions of facts whose right answer is among the most likely ones.

    `accuracy` is P@1 over facts, `macro_f1` is the mean of P@1 over relations, as in LAMA.
    """

    precision_at_10: float
    """P@10 over facts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores of all relations. Files: `test_answers.jsonl` (rank and most likely answers of each fact), `losses.json`,
    and `vectors.safetensors` (relation -> its vectors), if there are some.
    """

    test: FactScore
    num_relations: int
    num_skipped: int
    """Test facts that are not ranked: no right answer is a single token, for candidates: vocabulary, or is in the
    vocabulary.
    """


def run(config: ProbingConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the vectors, if there are some, ranks the answers to the test facts, and writes all files to `out`.

    Raises:
        InputError: a relation has no template, or no facts to train its vectors on; or no answer can be ranked.
    """
    sets = {name: load_facts(inputs.data / f"{name}.jsonl") for name in ("train", "test")}
    templates = read_templates(config)
    relations = {item.relation for item in sets["test"]}
    check_relations(templates, relations)
    facts = {
        name: {key: [item for item in sets[name] if item.relation == key] for key in sorted(relations)} for name in sets
    }
    with borrow_backbone(config.backbone, engine) as backbone:
        models = {
            name: _relation(config, name, templates[name], backbone, [*facts["train"][name], *facts["test"][name]])
            for name in sorted(relations)
        }
        if config.prompt.is_trained:
            losses = _train(config, models, facts["train"], recorder, engine)
            write_losses(out, losses)
            vectors = {name: model.prompt.vectors.cpu().contiguous() for name, model in models.items() if model.prompt}
            save_file(vectors, out / VECTORS_FILE)
        ranked = {}
        for number, (name, model) in enumerate(models.items()):
            recorder.log_progress(number, len(models), phase="relations")
            ranked[name] = model.rank(facts["test"][name])
    _write(out / PREDICTIONS_FILE, facts["test"], ranked)
    test = _score(ranked, recorder)
    prompts = [model.prompt for model in models.values() if model.prompt is not None]
    return Result(
        test=test,
        num_labeled=sum(map(len, facts["train"].values())) if config.prompt.is_trained else 0,
        num_unlabeled=0,
        trainable_parameters=sum(item.numel() for prompt in prompts for item in prompt.parameters()),
        num_relations=len(models),
        num_skipped=sum(item.rank is None for items in ranked.values() for item in items),
    )


def _relation(
    config: ProbingConfig, name: str, template: str, backbone: Backbone, facts: Sequence[Fact]
) -> RelationModel:
    """Returns a relation, with new vectors if its method has some."""
    pattern = relation_pattern(name, template, config.prompt, backbone.tokenizer, backbone.family)
    prompt = None
    if config.prompt.is_trained:
        seed = derive_seed(config.seed, "vectors", name)
        prompt = new_prompt(_prompt_config(config.prompt), backbone, pattern, seed=seed)
    return RelationModel(
        pattern,
        backbone,
        max_length=config.backbone.max_length,
        candidates=config.candidates,
        answers=list(dict.fromkeys(text for item in facts for text in item.answers)),
        prompt=prompt,
        is_autocast=backbone.model.dtype == torch.float32 and wants_bf16(config.backbone.precision),
    )


def _prompt_config(prompt: FactPromptConfig) -> PromptConfig:
    """Returns the settings of the vectors. Those of blocks with words start from the words."""
    init = InitConfig(kind="normal")
    if prompt.method == "p_tuning":
        return PromptConfig(method="p_tuning", init=init, encoder_hidden_size=prompt.encoder_hidden_size)
    return PromptConfig(init=init)


def _train(
    config: ProbingConfig,
    models: Mapping[str, RelationModel],
    facts: Mapping[str, Sequence[Fact]],
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains the vectors of all relations at once; returns the mean loss of every step."""
    assert config.training is not None, "the recipe has training settings for methods with vectors"
    jobs = []
    for name, model in models.items():
        items = model.items(facts[name])
        if not items:
            raise InputError(
                f"the relation {name!r} has no facts to train its vectors on"
                + (", whose answer is a single token." if config.candidates == "vocabulary" else "."),
                "Add facts to the training set, or set method: template.",
            )
        assert model.prompt is not None
        seed = derive_seed(config.seed, "order", name)
        jobs.append(TrainingJob(name, items, dict(model.prompt.named_parameters()), config.training, seed))
    of_jobs = list(models.values())

    def compute_losses(batches: Batches) -> list[torch.Tensor]:
        return [of_jobs[number].loss(items) for number, items in batches]

    by_job = train_batched(jobs, compute_losses, recorder, engine)
    longest = max(map(len, by_job))
    steps = [[losses[step] for losses in by_job if step < len(losses)] for step in range(longest)]
    return [sum(values) / len(values) for values in steps]


def _score(ranked: Mapping[str, Sequence[Ranked]], recorder: Recorder) -> FactScore:
    """Returns the score of the facts whose answer was ranked, and logs it per relation.

    Raises:
        InputError: none was ranked.
    """
    ranks = {name: [item.rank for item in items if item.rank is not None] for name, items in ranked.items()}
    known = {name: values for name, values in ranks.items() if values}
    if not known:
        raise InputError(
            "no test fact has an answer that is a token of the vocabulary.",
            "Set candidates: relation, or use other facts.",
            key="knowledge_probing.candidates",
        )
    rows = [
        {
            "relation": name,
            "facts": len(values),
            "skipped": len(ranked[name]) - len(values),
            "P@1": round(_precision(values, 1), 4),
            "P@10": round(_precision(values, 10), 4),
        }
        for name, values in known.items()
    ]
    recorder.log_table("relations", rows)
    every = [value for values in known.values() for value in values]
    test = FactScore(
        accuracy=round(_precision(every, 1), 6),
        macro_f1=round(sum(_precision(values, 1) for values in known.values()) / len(known), 6),
        mcc=None,
        ece=None,
        exact_match=None,
        num_examples=len(every),
        precision_at_10=round(_precision(every, 10), 6),
    )
    recorder.log_metric("test/accuracy", test.accuracy)
    recorder.log_metric("test/macro_f1", test.macro_f1)
    recorder.log_metric("test/precision_at_10", test.precision_at_10)
    return test


def _precision(ranks: Sequence[int], k: int) -> float:
    return sum(rank <= k for rank in ranks) / len(ranks)


def _write(path: Path, facts: Mapping[str, Sequence[Fact]], ranked: Mapping[str, Sequence[Ranked]]) -> None:
    """Writes one JSON object per fact."""
    with path.open("w", encoding="utf-8") as file:
        for name, items in facts.items():
            for item, result in zip(items, ranked[name], strict=True):
                row = {
                    "uid": item.uid,
                    "subject": item.subject,
                    "relation": item.relation,
                    "right": item.answers,
                    "rank": result.rank,
                }
                file.write(json.dumps({**row, "answers": result.answers}, ensure_ascii=False) + "\n")
