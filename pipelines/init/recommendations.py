"""`clozeline recommend`: method, prompt length, learning rate and parallelism for a task, each with reason and
source.

The rules use the task, the size of the backbone (from its config.json alone) and the available memory. They are rules
of thumb, not measurements of this task: they say where to start. Bytes come from `cluster/parallel/memory.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from cluster.parallel.memory import FLOAT, GIB, MOMENTS, ModelShape, Workload, activations
from pipelines.preflight.assets import OnStart, fetch
from pipelines.preflight.memory import machine_bytes
from pipelines.preflight.model_shapes import shape_of
from pipelines.preflight.models import bare_tokenizer
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import load_config
from stages.common.assets.cache import is_cached
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.batching import wants_bf16
from stages.common.models.model_files import family_of, max_positions, model_folder
from stages.common.patterns.config import Family, Task
from stages.common.patterns.syntax import FieldRef, PatternText, Soft
from stages.splits.config import SplitsConfig
from stages.splits.stage import sample_splits

SHARE_COVERED = 0.95
"""Share of the texts that a recommended length leaves whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProfile:
    """Numbers that decide. `tokens`: length under the longest pattern that 95% of the texts keep within, None if they
    cannot be read here; `memory`: bytes of a worker's device, `cores`: of this machine.
    """

    num_classes: int
    num_labeled: int
    tokens: int | None
    family: Family
    shape: ModelShape
    positions: int | None
    memory: int
    cores: int
    computes_in_bf16: bool

    @property
    def num_parameters(self) -> int:
        """Of the backbone."""
        return self.shape.num_parameters


def gather_task_profile(config: PipelineConfig, memory: int | None, on_start: OnStart) -> TaskProfile:
    """Facts of a recipe on this machine.

    Args:
        config: The recipe. Its backbone is fetched first, but for one of a hub, which may be too large to have here.
        memory: Bytes at hand; None: what this machine has.
        on_start: Told before anything is fetched.

    Raises:
        InputError: the backbone is on a hub and not on this machine, or cannot be fetched or read.
    """

    ref = config.backbone.asset
    if ref.startswith("hf:") and not is_cached(ref):
        raise InputError(
            f"the backbone {ref} is not on this machine.",
            "Name a folder with its config.json and tokenizer.json: -o backbone.asset=FOLDER.",
            key="backbone.asset",
        )
    fetch({"backbone.asset": ref}, on_start)
    folder = model_folder(config.backbone.asset)
    labelled, texts = _texts(config)
    return TaskProfile(
        num_classes=len(config.task.labels),
        num_labeled=labelled,
        tokens=covering_length(config.task, texts, bare_tokenizer(config.backbone)) if texts else None,
        family=family_of(folder),
        shape=shape_of(folder),
        positions=max_positions(folder),
        memory=memory or available_memory(),
        cores=os.cpu_count() or 1,
        computes_in_bf16=wants_bf16(config.backbone.precision),
    )


def available_memory() -> int:
    """Bytes of the first GPU, else of this machine or the part of it that this process may use."""

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return machine_bytes() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _texts(config: PipelineConfig) -> tuple[int, list[Example]]:
    """How many labelled examples there are, and texts to measure; none where the data are not at hand."""
    task = config.task
    if not all(is_cached(source.asset) for source in config.data.sources.values()):
        return config.data.shots * len(task.labels), []
    try:
        drawn = sample_splits(SplitsConfig(data=config.data, labels=task.labels, fields=task.fields, seed=0))
    except (InputError, OSError):
        return config.data.shots * len(task.labels), []
    return len(drawn.train), [*drawn.train, *drawn.unlabeled][:2000]


def covering_length(task: Task, texts: Sequence[Example], tokenizer: Any) -> int:
    """Tokens that leave most of the texts whole under the longest pattern."""
    longest = 0
    for name in task.patterns:
        lengths = sorted(len(tokenizer.encode(_filled(task, name, item)).ids) for item in texts)
        soft = sum(block.num_vectors for block in task.pattern(name).soft_blocks)
        longest = max(longest, lengths[int(SHARE_COVERED * (len(lengths) - 1))] + soft)
    return longest + 2


def _filled(task: Task, pattern: str, example: Example) -> str:
    """The text under a pattern, a word in the place of the mask."""
    question = task.questions(example)[0]
    made = ""
    for part in task.pattern(pattern).parts:
        if isinstance(part, FieldRef):
            made += part.value(question.fields)
        elif isinstance(part, PatternText):
            made += part.text
        elif not isinstance(part, Soft):
            made += " word"
    return made


SHARE_USED = 0.8
"""Share of the memory that is planned with."""
PET, LORA = "Schick & Schütze, EACL 2021", "Hu et al., ICLR 2022"
PPT, LESTER, V2 = "Gu et al., ACL 2022", "Lester et al., EMNLP 2021, figure 1", "Liu et al. (P-tuning v2), ACL 2022"
ZERO = "Rajbhandari et al. (ZeRO), SC 2020"
HERE = "measured: docs/results.md"
ARITHMETIC = "arithmetic: cluster/parallel/memory.py"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to set, and why. `setting` is a dotted place in the recipe, or words where there is none to write."""

    setting: str
    value: Any
    reason: str
    source: str

    @property
    def can_be_written(self) -> bool:
        """Whether `setting` is a key of recipes."""
        return " " not in self.setting


def recommend_settings(facts: TaskProfile) -> list[Recommendation]:
    """Advice for a recipe, the most important first."""
    length = _max_length(facts)
    tune = _tune(facts, length[0].value if length else 128)
    prompts = _prompts(facts) if facts.num_labeled else []
    return [*length, *tune, *prompts, *_parallel(facts, length[0].value if length else 128, tune[0].value)]


def _max_length(facts: TaskProfile) -> list[Recommendation]:
    if facts.tokens is None:
        return []
    wanted = max(16, -(-facts.tokens // 8) * 8)
    room = (facts.positions or wanted + 100) - _num_vectors(facts)
    reason = f"95% of the texts have {facts.tokens} tokens or fewer under the longest pattern"
    if wanted > room:
        reason += f"; with the prompt the backbone has room for {room}"
    return [Recommendation("backbone.max_length", min(wanted, room), reason, "measured: the recipe's own texts")]


def _tune(facts: TaskProfile, length: int) -> list[Recommendation]:
    """What sub-models train: everything where that is cheap, else adapters; prompts on the largest backbones."""
    if not facts.num_labeled:
        reason = "there are no labels: zero-shot, or sub-models that teach each other"
        return [Recommendation("sub-models", "pet.tune: none, or pet.ipet", reason, PET)]
    size = f"{facts.num_parameters / 1e6:,.0f}M parameters"
    frozen = _frozen(facts)
    usable = SHARE_USED * facts.memory
    if facts.num_parameters < 50e6 and _full(facts) < usable:
        found = [Recommendation("pet.tune", "full", f"{size}: all of it trains in {_full(facts) / GIB:.1f} GiB", PET)]
        rate = Recommendation("pet.training.learning_rate", 1e-5, "all weights move", PET)
    elif facts.num_parameters < 10e9:
        reason = f"{size}: as good soft labels as full training, at 1/285 of the bytes"
        found = [Recommendation("pet.tune", "lora", reason, f"{HERE}; {LORA}")]
        rate = Recommendation("pet.training.learning_rate", 1e-3, "adapters of rank 8 on query and value", HERE)
    else:
        reason = f"{size}: kilobytes a sub-model, and at that size as good as training all of it"
        found = [Recommendation("pet.tune", "prompt", reason, LESTER)]
        rate = Recommendation("pet.training.learning_rate", _prompt_rate(facts)[0], *_prompt_rate(facts)[1:])
    batch = max(1, min(8, facts.num_labeled))
    fits = max(1, int((usable - frozen) // max(1, _activations(facts, length)))) if usable > frozen else 1
    found += [
        rate,
        Recommendation("pet.training.batch_size", batch, f"{facts.num_labeled} labelled examples", f"{PET}; {HERE}"),
    ]
    if fits < batch:
        need = _activations(facts, length) / GIB
        found.append(
            Recommendation(
                "pet.training.micro_batch_size", fits, f"a text keeps {need:.2f} GiB for its gradients", ARITHMETIC
            )
        )
    return found


def _prompts(facts: TaskProfile) -> list[Recommendation]:
    """Method, length and rate of soft prompts."""
    billions = facts.num_parameters / 1e9
    if billions >= 10:
        method, source = "prompt_tuning", LESTER
        reason = f"{billions:.0f} billion parameters: input vectors reach full training there"
    elif billions >= 0.3:
        method, source = "p_tuning_v2", V2
        reason = f"{billions:.1f} billion parameters: input vectors stay behind below 10 billion, deep prompts do not"
    else:
        method, source = "prompt_tuning", HERE
        reason = (
            f"{billions * 1000:.0f}M parameters: with a hard pattern, from ppt; a random start was 5 to 9 points worse"
        )
    start = "ppt" if method == "prompt_tuning" else {"kind": "sample_vocab"}
    count = _num_vectors(facts)
    found = [
        Recommendation(
            "prompts: method", f"{method}, start {start if isinstance(start, str) else 'sample_vocab'}", reason, source
        ),
        Recommendation("ppt.num_virtual_tokens", count, _why_so_many(facts), PPT if billions >= 10 else HERE),
    ]
    rate, why, source = _prompt_rate(facts)
    return [*found, Recommendation("prompts.training.learning_rate", rate, why, source)]


def _num_vectors(facts: TaskProfile) -> int:
    return 100 if facts.num_parameters >= 10e9 else 20 if facts.num_parameters >= 1e9 else 10


def _why_so_many(facts: TaskProfile) -> str:
    return {100: "the length of PPT on 11 billion parameters", 20: "between the two"}.get(
        _num_vectors(facts), "small backbones: 6 to 20 vectors; longer ones learn slower and shorten the text"
    )


def _prompt_rate(facts: TaskProfile) -> tuple[float, str, str]:
    if facts.num_parameters >= 10e9:
        return 5e-3, "a pretrained prompt needs no more", PPT
    return 3e-3, "the demo's; hundreds of times a backbone's own rate", HERE


def _parallel(facts: TaskProfile, length: int, tune: str) -> list[Recommendation]:
    """How many sub-models at once, or how a backbone that does not fit is spread."""
    usable = SHARE_USED * facts.memory
    weights = _full(facts) if tune == "full" else _frozen(facts)
    need = weights + 8 * _activations(facts, length)
    have = f"{facts.memory / GIB:.0f} GiB"
    if weights > usable:
        workers = -(-weights // int(usable / 2))  # half of each for activations and the layer that is gathered
        reason = f"the weights take {weights / GIB:.0f} GiB, a worker has {have}: each keeps a part"
        return [
            advice
            for section in (("pet", "ppt", "prompts") if facts.num_labeled else ("pet", "ppt"))
            for advice in (
                Recommendation(f"{section}.strategy", "zero3", reason, ZERO),
                Recommendation(
                    f"{section}.workers", int(workers), "half of each is for activations and one layer", ZERO
                ),
            )
        ]
    at_once = max(1, min(facts.cores, int(usable // need)))
    reason = f"one takes about {need / GIB:.1f} GiB of {have}; {facts.cores} cores"
    found = [Recommendation("sub-models at once (--max-parallel)", at_once, reason, ARITHMETIC)]
    if at_once < facts.cores:
        cpus = float(facts.cores // at_once)
        found.append(Recommendation("pet.cpus", cpus, f"{at_once} at once share {facts.cores} cores", ARITHMETIC))
    return found


def _full(facts: TaskProfile) -> int:
    """Weights, gradients and moments."""
    return facts.num_parameters * FLOAT * (2 + MOMENTS)


def _frozen(facts: TaskProfile) -> int:
    return facts.num_parameters * _weight_bytes(facts)


def _weight_bytes(facts: TaskProfile) -> int:
    return FLOAT // 2 if facts.computes_in_bf16 else FLOAT


def _activations(facts: TaskProfile, length: int) -> int:
    """Bytes that one example keeps for its gradients."""
    one = Workload(
        num_trained=0,
        trains_backbone=False,
        has_adapters=True,
        batch_size=1,
        eval_batch_tokens=0,
        length=length,
        weight_bytes=_weight_bytes(facts),
        fused=False,
    )
    return activations(facts.shape, one, 1)


def recommendation_table(advice: Sequence[Recommendation]) -> Table:
    """The advice, for a terminal."""
    made = Table("setting", "value", "reason", "source", box=None)
    for item in advice:
        made.add_row(item.setting, escape(str(item.value)), item.reason, item.source)
    return made


def write_recommended(config: PipelineConfig, advice: Sequence[Recommendation], target: Path) -> None:
    """Writes the recipe with the advice in it, overrides of the command line included; its comments are not kept.

    Raises:
        InputError: the advice does not fit the recipe, or `target` exists or cannot be written.
    """
    values = config.model_dump(mode="json", exclude_unset=True)
    lines = [f"# {config.name} as recommended; what was changed, and why:"]
    for item in advice:
        *sections, key = item.setting.split(".")
        inner: Any = values
        for name in sections:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if item.can_be_written and isinstance(inner, dict):
            lines.append(
                f"#   {item.setting}: {item.value} (was {inner.get(key, 'left out')}): {item.reason} [{item.source}]"
            )
            inner[key] = item.value
    try:
        load_config(values)
    except (ValidationError, InputError) as error:
        raise InputError(f"the advice does not fit this recipe ({error}).", "Take over by hand what fits.") from error
    text = "\n".join(lines) + "\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{target} exists.", "Name a new file for --apply.") from error
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}).", "Name another file for --apply.") from error
