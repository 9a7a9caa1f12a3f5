"""`clozeline recommend`: method, prompt length, learning rate and parallelism for a task, each with reason and source.

The rules use the task, the size of the backbone (from its config.json) and the available memory. They are rules of
thumb for a first experiment, not measurements of this task. Bytes come from `cluster/parallel/memory.py`.
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
from pipelines.preflight.checks import OnStart, fetch
from pipelines.preflight.memory import machine_bytes, shape_of
from pipelines.preflight.models import bare_tokenizer
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import load_config
from stages.common.assets.cache import is_cached
from stages.common.config import asset_refs
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.folders import backbone_folder
from stages.common.models.batching import wants_bf16
from stages.common.models.traits_cache import folder_max_positions
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import FieldRef, PatternText, Soft
from stages.splits.config import SplitsConfig
from stages.splits.stage import sample_splits

SHARE_COVERED = 0.95
"""Fraction of the texts that the recommended length does not truncate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProfile:
    """The profile that the rules use."""

    num_labeled: int
    num_tokens: int | None
    """Length of 95% of the texts with the longest pattern; None if the data are not on this machine."""
    shape: ModelShape
    num_positions: int | None
    memory: int
    """Bytes of memory per worker."""
    num_cores: int
    computes_in_bf16: bool

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the backbone."""
        return self.shape.num_parameters


def gather_task_profile(config: PipelineConfig, memory: int | None, on_start: OnStart) -> TaskProfile:
    """Collects the profile about a recipe on this machine.

    Args:
        config: The recipe. Its backbone is downloaded if needed, except from a hub, where it may be too large.
        memory: Bytes of memory per worker; None: the memory of this machine.
        on_start: Called before each download.

    Raises:
        InputError: the backbone is on a hub but not on this machine, or cannot be downloaded or read.
    """
    backbone = config.language_model
    ref = backbone.asset
    if ref.startswith("hf:") and not is_cached(ref):
        raise InputError(
            f"the backbone {ref} is not on this machine.",
            "Set a folder with its config.json and tokenizer.json: -o backbone.asset=FOLDER.",
            key="backbone.asset",
        )
    refs = {f"backbone.{key}": item for key, item in asset_refs(backbone).items()}
    fetch(refs, on_start, backbones={"backbone": backbone})
    folder, trust = backbone_folder(backbone), backbone.trust_remote_code
    num_labeled, texts = _texts(config)
    return TaskProfile(
        num_labeled=num_labeled,
        num_tokens=covering_length(config.task, texts, bare_tokenizer(backbone)) if texts else None,
        shape=shape_of(folder, trust_remote_code=trust),
        num_positions=folder_max_positions(folder, trust_remote_code=trust),
        memory=memory or available_memory(),
        num_cores=os.cpu_count() or 1,
        computes_in_bf16=wants_bf16(backbone.precision),
    )


def available_memory() -> int:
    """Returns the bytes of the first GPU, else of this machine or of the memory limit of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return machine_bytes() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _texts(config: PipelineConfig) -> tuple[int, list[Example]]:
    """Returns the number of labeled examples, and texts to measure; no texts if the data are not on this machine."""
    task = config.task
    if not all(is_cached(source.asset) for source in config.data.sources.values()):
        return config.data.shots * len(task.labels), []
    try:
        splits = sample_splits(SplitsConfig.of(task, data=config.data, fields=task.fields, seed=0))
    except (InputError, OSError):
        return config.data.shots * len(task.labels), []
    return len(splits.train), [*splits.train, *splits.unlabeled][:2000]


def covering_length(task: Task, texts: Sequence[Example], tokenizer: Any) -> int:
    """Returns the tokens that most texts need with the longest pattern."""
    longest = 0
    for name in task.patterns:
        lengths = sorted(len(tokenizer.encode(_filled(task, name, item)).ids) for item in texts)
        soft = sum(block.num_virtual_tokens for block in task.pattern(name).soft_blocks)
        longest = max(longest, lengths[int(SHARE_COVERED * (len(lengths) - 1))] + soft)
    return longest + 2


def _filled(task: Task, pattern: str, example: Example) -> str:
    """Returns the text in a pattern, with a word instead of the mask."""
    question = task.questions(example)[0]
    text = ""
    for part in task.pattern(pattern).parts:
        if isinstance(part, FieldRef):
            text += part.value(question.fields)
        elif isinstance(part, PatternText):
            text += part.text
        elif not isinstance(part, Soft):
            text += " word"
    return text


SHARE_USED = 0.8
"""Fraction of the memory that the rules use."""
PET, LORA = "Schick & Schütze, EACL 2021", "Hu et al., ICLR 2022"
PPT, LESTER, V2 = "Gu et al., ACL 2022", "Lester et al., EMNLP 2021, figure 1", "Liu et al. (P-tuning v2), ACL 2022"
ZERO = "Rajbhandari et al. (ZeRO), SC 2020"
MEASURED = "measured: docs/explanation/results.md"
ARITHMETIC = "arithmetic: cluster/parallel/memory.py"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A value for a setting, with its reason and source."""

    setting: str
    """A key of the recipe, or a description with spaces if no key sets it."""
    value: Any
    reason: str
    source: str

    @property
    def is_key(self) -> bool:
        """True if `setting` is a key of the recipe."""
        return " " not in self.setting


def recommend_settings(profile: TaskProfile) -> list[Recommendation]:
    """Returns the recommendations for a recipe, the most important first."""
    length = _max_length(profile)
    tune = _tune(profile, length[0].value if length else 128)
    prompts = _prompts(profile) if profile.num_labeled else []
    return [*length, *tune, *prompts, *_parallel(profile, length[0].value if length else 128, tune[0].value)]


def _max_length(profile: TaskProfile) -> list[Recommendation]:
    if profile.num_tokens is None:
        return []
    length = max(16, -(-profile.num_tokens // 8) * 8)
    limit = (profile.num_positions or length + 100) - _num_virtual_tokens(profile)
    reason = f"95% of the texts have at most {profile.num_tokens} tokens with the longest pattern"
    if length > limit:
        reason += f"; with the prompt the backbone has {limit} positions"
    return [Recommendation("backbone.max_length", min(length, limit), reason, "measured: texts of the recipe")]


def _tune(profile: TaskProfile, length: int) -> list[Recommendation]:
    """Full training for small backbones, adapters for larger ones, prompts for the largest."""
    if not profile.num_labeled:
        reason = "no labeled data: use zero-shot patterns, or sub-models that label data for each other"
        return [Recommendation("sub-models", "pet.tune: none, or pet.ipet", reason, PET)]
    size = f"{profile.num_parameters / 1e6:,.0f}M parameters"
    frozen = _frozen(profile)
    usable = SHARE_USED * profile.memory
    if profile.num_parameters < 50e6 and _full(profile) < usable:
        reason = f"{size}: full training needs {_full(profile) / GIB:.1f} GiB"
        found = [Recommendation("pet.tune", "full", reason, PET)]
        rate = Recommendation("pet.training.learning_rate", 1e-5, "full training", PET)
    elif profile.num_parameters < 10e9:
        reason = f"{size}: soft labels as good as with full training, in 1/285 of the bytes"
        found = [Recommendation("pet.tune", "lora", reason, f"{MEASURED}; {LORA}")]
        rate = Recommendation(
            "pet.training.learning_rate", 1e-3, "adapters of rank 8 on query and value layers", MEASURED
        )
    else:
        reason = f"{size}: kilobytes per sub-model, and as good as full training at this size"
        found = [Recommendation("pet.tune", "prompt", reason, LESTER)]
        rate = Recommendation("pet.training.learning_rate", _prompt_rate(profile)[0], *_prompt_rate(profile)[1:])
    batch = max(1, min(8, profile.num_labeled))
    fits = max(1, int((usable - frozen) // max(1, _activations(profile, length)))) if usable > frozen else 1
    found += [
        rate,
        Recommendation(
            "pet.training.batch_size", batch, f"{profile.num_labeled} labeled examples", f"{PET}; {MEASURED}"
        ),
    ]
    if fits < batch:
        need = _activations(profile, length) / GIB
        found.append(
            Recommendation(
                "pet.training.micro_batch_size", fits, f"an example needs {need:.2f} GiB for gradients", ARITHMETIC
            )
        )
    return found


def _prompts(profile: TaskProfile) -> list[Recommendation]:
    """Returns method, length and learning rate of soft prompts."""
    billions = profile.num_parameters / 1e9
    if billions >= 10:
        method, source = "prompt_tuning", LESTER
        reason = f"{billions:.0f} billion parameters: virtual tokens are as good as full training at this size"
    elif billions >= 0.3:
        method, source = "p_tuning_v2", V2
        reason = f"{billions:.1f} billion parameters: below 10 billion, deep prompts are better than virtual tokens"
    else:
        method, source = "prompt_tuning", MEASURED
        reason = (
            f"{billions * 1000:.0f}M parameters: with a hard pattern and init ppt; random init was 5 to 9 points worse"
        )
    init = "ppt" if method == "prompt_tuning" else "sample_vocab"
    count = _num_virtual_tokens(profile)
    found = [
        Recommendation("prompts: method", f"{method}, init {init}", reason, source),
        Recommendation(
            "ppt.num_virtual_tokens", count, _prompt_length_reason(profile), PPT if billions >= 10 else MEASURED
        ),
    ]
    rate, why, source = _prompt_rate(profile)
    return [*found, Recommendation("prompts.training.learning_rate", rate, why, source)]


def _num_virtual_tokens(profile: TaskProfile) -> int:
    return 100 if profile.num_parameters >= 10e9 else 20 if profile.num_parameters >= 1e9 else 10


def _prompt_length_reason(profile: TaskProfile) -> str:
    return {100: "as in PPT with 11 billion parameters", 20: "between the lengths for small and large backbones"}.get(
        _num_virtual_tokens(profile),
        "small backbones: 6 to 20; longer prompts train more slowly and truncate more text",
    )


def _prompt_rate(profile: TaskProfile) -> tuple[float, str, str]:
    if profile.num_parameters >= 10e9:
        return 5e-3, "enough for a pretrained prompt", PPT
    return 3e-3, "as in demo; hundreds of times the rate of a backbone", MEASURED


def _parallel(profile: TaskProfile, length: int, tune: str) -> list[Recommendation]:
    """Returns the number of sub-models at a time, or the workers for a backbone that does not fit."""
    usable = SHARE_USED * profile.memory
    weights = _full(profile) if tune == "full" else _frozen(profile)
    need = weights + 8 * _activations(profile, length)
    have = f"{profile.memory / GIB:.0f} GiB"
    if weights > usable:
        workers = -(-weights // int(usable / 2))  # half of the memory is for activations and the gathered layer
        reason = f"the weights need {weights / GIB:.0f} GiB, a worker has {have}: each worker stores a part"
        return [
            item
            for section in (("pet", "ppt", "prompts") if profile.num_labeled else ("pet", "ppt"))
            for item in (
                Recommendation(f"{section}.strategy", "zero3", reason, ZERO),
                Recommendation(
                    f"{section}.workers", int(workers), "half of the memory is for activations and one layer", ZERO
                ),
            )
        ]
    at_once = max(1, min(profile.num_cores, int(usable // need)))
    reason = f"one needs about {need / GIB:.1f} GiB of {have}; {profile.num_cores} cores"
    found = [Recommendation("sub-models at a time (--max-parallel)", at_once, reason, ARITHMETIC)]
    if at_once < profile.num_cores:
        cpus = float(profile.num_cores // at_once)
        found.append(
            Recommendation("pet.cpus", cpus, f"{at_once} at a time share {profile.num_cores} cores", ARITHMETIC)
        )
    return found


def _full(profile: TaskProfile) -> int:
    """Returns the bytes of weights, gradients and optimizer state."""
    return profile.num_parameters * FLOAT * (2 + MOMENTS)


def _frozen(profile: TaskProfile) -> int:
    return profile.num_parameters * _weight_bytes(profile)


def _weight_bytes(profile: TaskProfile) -> int:
    return FLOAT // 2 if profile.computes_in_bf16 else FLOAT


def _activations(profile: TaskProfile, length: int) -> int:
    """Returns the bytes that one example needs for its gradients."""
    one = Workload(
        num_trained=0,
        trains_backbone=False,
        has_adapters=True,
        batch_size=1,
        eval_batch_tokens=0,
        length=length,
        weight_bytes=_weight_bytes(profile),
        fused=False,
    )
    return activations(profile.shape, one, 1)


def recommendation_table(recommendations: Sequence[Recommendation]) -> Table:
    """Returns the recommendations as a table for the terminal."""
    table = Table("setting", "value", "reason", "source", box=None)
    for item in recommendations:
        table.add_row(item.setting, escape(str(item.value)), item.reason, item.source)
    return table


def write_recommended(config: PipelineConfig, recommendations: Sequence[Recommendation], path: Path) -> None:
    """Writes the recipe with overrides and recommendations, without the comments of the original.

    Raises:
        InputError: the recommendations do not fit the recipe, or `path` exists or cannot be written.
    """
    values = config.model_dump(mode="json", exclude_unset=True)
    lines = [f"# {config.name} with recommended settings. Changes and reasons:"]
    for item in recommendations:
        *sections, key = item.setting.split(".")
        inner: Any = values
        for name in sections:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if item.is_key and isinstance(inner, dict):
            lines.append(
                f"#   {item.setting}: {item.value} (was {inner.get(key, 'not set')}): {item.reason} [{item.source}]"
            )
            inner[key] = item.value
    write_values(values, lines, path)


def write_values(values: dict[str, Any], comments: Sequence[str], path: Path) -> None:
    """Writes the values of a recipe, with lines of comments before them.

    Raises:
        InputError: the values are no recipe, or `path` exists or cannot be written.
    """
    try:
        load_config(values)
    except (ValidationError, InputError) as error:
        raise InputError(f"the recommendations do not fit this recipe ({error}).", "Copy those that fit.") from error
    text = "\n".join(comments) + "\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} exists.", "Set --output to a new file.") from error
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}).", "Set --output to another file.") from error
