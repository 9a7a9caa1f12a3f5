"""The settings that a search tries: methods of prompt tuning, lengths, initializations, learning rates and patterns.

The settings of the recipe are candidates, too. The order is random, but follows from the seed of the recipe alone: a
search with a larger budget starts with the trials of a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import PromptTaskConfig
from stages.common.config import Config
from stages.common.models.backbones.config import LoraConfig
from stages.common.prompts.config import InitConfig, PromptConfig, PromptTuningMethod
from stages.common.seeds import python_rng
from stages.common.training.config import TrainingConfig

LENGTHS = (4, 8, 16, 32)
"""Virtual tokens."""
RANKS = (4, 8, 16)
"""Of adapters, in place of a length."""
VECTOR_RATES = (0.001, 0.003, 0.01, 0.03)
"""Learning rates of vectors that are trained directly."""
NETWORK_RATES = (0.0001, 0.0003, 0.001, 0.003)
"""Learning rates of adapters, and of networks that produce vectors. They diverge at those of vectors."""
AnyConfig = TypeVar("AnyConfig", bound=Config)
WORDS, LABEL_WORDS = InitConfig(kind="sample_vocab"), InitConfig(kind="label_words")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting of prompt tuning.

    Args:
        name: Part of the names of its steps, and its name in the table.
        method: Its name in `prompts.methods`.
        pattern: Name of the pattern.
        prompt: Method of prompt tuning.
        training: How it trains, with the number of steps of the last rung.
        is_own: Whether the recipe has it.
    """

    name: str
    method: str
    pattern: str
    prompt: PromptConfig
    training: TrainingConfig
    is_own: bool = False

    @property
    def setting(self) -> tuple[str, PromptConfig, TrainingConfig]:
        """What makes two candidates the same."""
        return self.pattern, self.prompt, self.training


def searched_task(config: PipelineConfig) -> PromptTaskConfig:
    """Returns the downstream task of a recipe that `check_searchable` accepts."""
    assert config.prompts is not None
    return config.prompts.tasks[0]


def own_candidates(config: PipelineConfig, num_labeled: int) -> list[Candidate]:
    """Returns the settings of the recipe. A number of epochs becomes that of steps on all labeled examples.

    Args:
        config: The recipe.
        num_labeled: Number of labeled examples of the task.
    """
    assert config.prompts is not None
    own = []
    for name, method in config.prompts.methods.items():
        training = method.training or config.prompts.training
        training = changed(training, steps=training.num_steps(num_labeled), epochs=None)
        prompt = changed(PromptConfig(), **{key: item for key, item in set_fields(method).items() if key != "training"})
        own.append(Candidate(f"recipe.{name}", name, searched_task(config).pattern, prompt, training, is_own=True))
    return own


def proposals(config: PipelineConfig, num_steps: int) -> list[Candidate]:
    """Returns all other settings in the order in which they are tried. One after another has another method.

    Args:
        config: The recipe. Batch size, schedule and early stopping are those of `prompts.training`.
        num_steps: Training steps of the last rung.
    """
    assert config.prompts is not None
    base = changed(config.prompts.training, steps=num_steps, epochs=None)
    by_method: dict[str, list[Candidate]] = {}
    for (label, prompt, rate), pattern in product(_settings(config), _patterns(config)):
        if config.prompt_task(searched_task(config))[0].pattern(pattern).has_soft_blocks and prompt.prompt_length:
            label = label.replace(f"-{prompt.num_virtual_tokens}-", "-")  # the blocks define the number of vectors
            prompt = changed(prompt, num_virtual_tokens=None)
        name = f"{label}-{rate:g}-{pattern}"
        training = changed(base, learning_rate=rate, learning_rates=None)
        of_method = by_method.setdefault(prompt.method, [])
        if name not in {item.name for item in of_method}:
            of_method.append(Candidate(name, prompt.method, pattern, prompt, training))
    for method, items in by_method.items():
        python_rng(config.seed, "prompt_search", method).shuffle(items)
    turns = max(len(items) for items in by_method.values())
    return [items[turn] for turn in range(turns) for items in by_method.values() if turn < len(items)]


def changed(config: AnyConfig, **changes: Any) -> AnyConfig:
    """Returns a config with other fields. Those that are None are no longer set."""
    fields = set_fields(config) | changes
    return type(config).model_validate({name: value for name, value in fields.items() if value is not None})


def set_fields(config: Config) -> dict[str, Any]:
    """Returns the fields of a config that are set, as a recipe has them."""
    return config.model_dump(mode="json", exclude_unset=True)


def _settings(config: PipelineConfig) -> Iterator[tuple[str, PromptConfig, float]]:
    """Yields name, method and learning rate."""
    direct: dict[PromptTuningMethod, tuple[InitConfig, ...]] = {
        "prompt_tuning": (WORDS, LABEL_WORDS),
        "p_tuning_v2": (WORDS, LABEL_WORDS),
    }
    for method, inits in direct.items():
        for length, init, rate in product(LENGTHS, inits, VECTOR_RATES):
            prompt = PromptConfig(method=method, num_virtual_tokens=length, init=init)
            yield f"{method}-{length}-{init.kind}", prompt, rate
    networks: tuple[PromptTuningMethod, ...] = ("p_tuning", "prefix_tuning", "idpg")
    for method, length, rate in product(networks, LENGTHS, NETWORK_RATES):
        prompt = PromptConfig(method=method, num_virtual_tokens=length, init=WORDS)
        yield f"{method}-{length}-{WORDS.kind}", prompt, rate
    for rank, rate in product(RANKS, NETWORK_RATES):
        yield f"lora-{rank}", PromptConfig(method="lora", lora=LoraConfig(rank=rank)), rate
    if config.ppt is not None:
        for rate in VECTOR_RATES:
            yield "prompt_tuning-ppt", PromptConfig(method="prompt_tuning", init="ppt"), rate
        length = config.ppt.num_virtual_tokens
        for rate in NETWORK_RATES:
            yield "attempt-ppt", PromptConfig(method="attempt", num_virtual_tokens=length, sources=("ppt",)), rate


def _patterns(config: PipelineConfig) -> list[str]:
    """Returns the pattern of the task, and the others that could replace it."""
    item = searched_task(config)
    if item.as_choice:  # the choice is made from this pattern
        return [item.pattern]
    task, _ = config.prompt_task(item)
    replaced = set(config.searched_patterns) if item.task is None else set()
    others = [name for name in task.patterns if not task.pattern(name).has_soft_blocks and name not in replaced]
    return list(dict.fromkeys([item.pattern, *others]))
