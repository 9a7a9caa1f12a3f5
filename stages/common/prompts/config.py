"""Config models of soft prompts, and checks of which settings fit together.

| method | where the vectors are | reparameterized by | source |
|---|---|---|---|
| prompt_tuning | before the text, or in soft blocks of the pattern | nothing | Lester et al., EMNLP 2021 |
| p_tuning | the same | a biLSTM with an MLP, or an MLP | Liu et al., 2021, https://arxiv.org/abs/2103.10385 |
| prefix_tuning | keys and values of every layer | an MLP | Li & Liang, ACL 2021 |
| p_tuning_v2 | keys and values of every layer | nothing, or an MLP | Liu et al., ACL 2022 |

The reparameterization is used during training; only its result is saved. Vectors may be of low rank instead (a fixed
initialization plus A·B), and every method may train together with LoRA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig, LoraConfig
from stages.common.patterns.config import Task
from stages.common.patterns.syntax import Pattern

PromptTuningMethod = Literal["prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2"]
WORD_VECTORS = "table.words"
"""Parameter of a prompt's vectors that start from words, which a curriculum holds for a while."""
Head = Literal["verbalizer", "linear"]
Reparameterization = Literal["none", "mlp", "lstm"]
_USUAL: dict[PromptTuningMethod, Reparameterization] = {
    "prompt_tuning": "none",
    "p_tuning": "lstm",
    "prefix_tuning": "mlp",
    "p_tuning_v2": "none",
}
_ALLOWED: dict[PromptTuningMethod, tuple[Reparameterization, ...]] = {
    "prompt_tuning": ("none",),
    "p_tuning": ("lstm", "mlp"),
    "prefix_tuning": ("mlp",),
    "p_tuning_v2": ("none", "mlp"),
}


def check_fit(config: PromptConfig, pattern: Pattern) -> None:
    """Refuses a method on a pattern that it cannot be used with.

    Raises:
        InputError: a deep prompt and soft blocks; or a curriculum, and no block that starts from words.
    """
    if config.is_deep and pattern.has_soft_blocks:
        raise InputError(
            f"pattern {pattern.name!r} has soft blocks, and {config.method} puts its vectors into every layer.",
            "Take {soft:...} out, or take method: prompt_tuning or p_tuning.",
        )
    if config.hard_prompt_steps and not any(block.words for block in pattern.soft_blocks):
        raise InputError(
            f"hard_prompt_steps hold soft blocks that start from words, and pattern {pattern.name!r} has none.",
            "Write one, as {soft:3:in summary}, or take hard_prompt_steps out.",
        )
    if config.hard_prompt_steps and not config.trains_more and all(block.words for block in pattern.soft_blocks):
        raise InputError(
            f"nothing trains in the hard_prompt_steps: all soft blocks of pattern {pattern.name!r} start from words.",
            "Add lora, head: linear or a block without words; or take hard_prompt_steps out.",
        )


def check_annotates(config: PromptConfig) -> None:
    """Refuses what needs a pattern or label words, for tasks that have neither: token labels and spans.

    Raises:
        InputError: names the key.
    """
    needs = {
        "head": config.head == "verbalizer",
        "hard_prompt_steps": config.hard_prompt_steps > 0,
        "init": config.init != "ppt" and config.init.kind == "label_words",
    }
    for key, is_set in needs.items():
        if is_set:
            raise InputError(
                "token labels and spans are read by a linear head, without pattern and label words.",
                f"Take {key} out of this method.",
                key=key,
            )


SERVING_FILE = "prompt_model.json"


class PromptServingConfig(Config):
    """What a trained prompt serves."""

    task: Task
    """Labels, pattern and label words."""
    pattern: str
    """Name of the pattern."""
    backbone: BackboneConfig
    """The frozen language model."""

    def save(self, folder: Path) -> None:
        """Writes it beside the prompt."""
        (folder / SERVING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


InitKind = Literal["normal", "uniform", "zero", "sample_vocab", "text", "label_words", "cls", "mean"]


class InitConfig(Config):
    """How the vectors of a new prompt are drawn.

    Kinds that name tokens (vocabulary, words, label_words, cls) give a prompt their embeddings, and a deep prompt the
    keys and values that the backbone computes for them.
    """

    kind: InitKind = "sample_vocab"
    """normal, uniform, zero, vocabulary (embeddings of real tokens), words, label_words (the task's), cls (the token
    that starts a text), mean (of all embeddings).
    """
    scale: float = Field(0.02, gt=0)
    """Standard deviation of normal, half width of uniform."""
    text: str = ""
    """Text whose token embeddings fill the prompt, repeated; for kind: words."""
    num_candidate_tokens: int = Field(5000, ge=1)
    """vocabulary: draw among this many lowest token ids."""

    @model_validator(mode="after")
    def _words_given(self) -> InitConfig:
        if (self.kind == "text") != bool(self.text):
            raise ValueError("words and kind: words belong together. Give both, or neither.")
        return self


class PromptConfig(Config):
    """A method of soft prompting with its settings."""

    method: PromptTuningMethod = "prompt_tuning"
    """prompt_tuning, p_tuning, prefix_tuning or p_tuning_v2."""
    num_virtual_tokens: int = Field(16, ge=1)
    """Vectors of the prompt; a pretrained prompt and soft blocks of a pattern have their own."""
    init: InitConfig | Literal["ppt"] = InitConfig()
    """Where the vectors start: a kind of start, or ppt for the pretrained prompt."""
    reparameterization: Reparameterization | None = None
    """What makes the vectors in training: none, mlp or lstm; left out: the method's usual one."""
    encoder_hidden_size: int | None = Field(None, ge=1)
    """Width inside the mlp or lstm; none: that of the backbone."""
    rank: int | None = Field(None, ge=1)
    """Trains A·B of this rank on top of the start; none: all of it."""
    hard_prompt_steps: int = Field(0, ge=0)
    """Curriculum: for so many steps, soft blocks that start from words stay these words, while the rest trains."""
    lora: LoraConfig | None = None
    """Adapters that train with the prompt; none: the prompt alone."""
    head: Head | None = None
    """What tells labels apart: words (the verbalizer), or linear (a head that trains with it); none: words, and for
    token labels and spans linear.
    """

    @model_validator(mode="after")
    def _parts_fit(self) -> PromptConfig:
        if self.encoder not in _ALLOWED[self.method]:
            raise ValueError(
                f"{self.method} is not reparameterised by {self.encoder}. Take one of: "
                f"{', '.join(_ALLOWED[self.method])}."
            )
        if self.encoder != "none" and self.rank:
            raise ValueError(f"rank is for vectors that no {self.encoder} makes. Take rank or reparameterise out.")
        if self.init == "ppt" and (self.is_deep or self.encoder != "none"):
            raise ValueError(
                f"{self.method} does not start from ppt, which are plain input vectors. Take method: prompt_tuning, or "
                "another start."
            )
        if self.hard_prompt_steps and (self.is_deep or self.encoder != "none" or self.rank):
            raise ValueError(
                "hard_prompt_steps are for plain prompt tuning. Take hard_prompt_steps out, or mend method and rank."
            )
        if self.is_deep and self.init != "ppt" and self.init.kind == "mean" and self.encoder == "none":
            raise ValueError("a deep prompt has no mean to start from. Take another kind of start.")
        return self

    @property
    def is_deep(self) -> bool:
        """Whether the vectors are keys and values of every layer."""
        return self.method in ("prefix_tuning", "p_tuning_v2")

    @property
    def frozen_steps(self) -> dict[str, int]:
        """Parameter of the prompt -> steps in which it stays as it is."""
        return {WORD_VECTORS: self.hard_prompt_steps} if self.hard_prompt_steps else {}

    @property
    def trains_more(self) -> bool:
        """Whether something trains with the vectors."""
        return self.lora is not None or self.head == "linear"

    @property
    def encoder(self) -> Reparameterization:
        """What makes the vectors in training."""
        return self.reparameterization or _USUAL[self.method]
