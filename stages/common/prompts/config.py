"""Config models of soft prompts, and checks of which settings fit together.

| method | where the vectors are | reparameterized by | source |
|---|---|---|---|
| prompt_tuning | before the text, or in soft blocks of the pattern | nothing | Lester et al., EMNLP 2021 |
| p_tuning | the same | a biLSTM with an MLP, or an MLP | Liu et al., 2021, https://arxiv.org/abs/2103.10385 |
| prefix_tuning | keys and values of every layer | an MLP | Li & Liang, ACL 2021 |
| p_tuning_v2 | keys and values of every layer | nothing, or an MLP | Liu et al., ACL 2022 |
| lora | none: adapters are trained alone | nothing | Hu et al., ICLR 2022 |
| idpg | as in prompt_tuning, other ones for each text | an MLP that reads the text | Wu et al., NAACL 2022 |
| attempt | as in prompt_tuning, other ones for each text | attention over trained prompts | Asai et al., EMNLP 2022 |

The reparameterization is used during training; only its result is saved. It is residual unless the initial vectors are
random: it adds to keys and values of real words, for example, which prefix tuning starts best from. Vectors may be of
low rank instead (a fixed initialization plus A·B), and methods whose vectors do not depend on the text may train
together with LoRA. The networks of idpg and attempt are saved: they compute the vectors of every new text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.config import Config, Name
from stages.common.errors import InputError
from stages.common.models.backbones.config import LoraConfig
from stages.common.models.cloze.config import ClozeConfig
from stages.common.patterns.syntax import Pattern
from stages.common.training.config import TrainingConfig

PromptTuningMethod = Literal["prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2", "lora", "idpg", "attempt"]
WORD_VECTORS = "table.words"
"""Parameter with the virtual tokens that are initialized from words. A curriculum freezes it at first."""
Head = Literal["verbalizer", "linear"]
Reparameterization = Literal["none", "mlp", "lstm"]
_DEFAULT: dict[PromptTuningMethod, Reparameterization] = {
    "prompt_tuning": "none",
    "p_tuning": "lstm",
    "prefix_tuning": "mlp",
    "p_tuning_v2": "none",
    "lora": "none",
    "idpg": "none",
    "attempt": "none",
}
_ALLOWED: dict[PromptTuningMethod, tuple[Reparameterization, ...]] = {
    "prompt_tuning": ("none",),
    "p_tuning": ("lstm", "mlp"),
    "prefix_tuning": ("mlp",),
    "p_tuning_v2": ("none", "mlp"),
    "lora": ("none",),
    "idpg": ("none",),
    "attempt": ("none",),
}
BOTTLENECK_SIZES: dict[PromptTuningMethod, int] = {"idpg": 256, "attempt": 100}
"""Hidden size of the network that reads a text, as in the papers."""
PLACES: tuple[Literal["encoder", "decoder", "cross"], ...] = ("encoder", "decoder", "cross")
OF_VECTORS = (
    "num_virtual_tokens", "init", "transfer", "reparameterization", "encoder_hidden_size", "rank", "hard_prompt_steps",
    "gates", "noise",
)  # fmt: skip
"""Keys of methods that train vectors."""
_OF_TEXT_METHODS: dict[str, tuple[PromptTuningMethod, ...]] = {
    "bottleneck_size": ("idpg", "attempt"),
    "text_encoder": ("idpg",),
    "sources": ("attempt",),
    "temperature": ("attempt",),
}
"""Key -> methods that it is for."""


def check_fit(config: PromptConfig, pattern: Pattern) -> None:
    """Checks that a method can be used with a pattern.

    Raises:
        InputError: the prompt is deep and the pattern has soft blocks, or nothing in the pattern suits a curriculum.
    """
    if config.is_deep and pattern.has_soft_blocks:
        raise InputError(
            f"pattern {pattern.name!r} has soft blocks, but {config.method} adds its vectors to every layer.",
            "Remove {soft:...}, or set method: prompt_tuning or p_tuning.",
        )
    if config.method == "lora" and pattern.has_soft_blocks:
        raise InputError(
            f"pattern {pattern.name!r} has soft blocks, but method: lora trains no vectors.",
            "Remove {soft:...}, or set method: prompt_tuning or p_tuning.",
        )
    if config.hard_prompt_steps and not any(block.words for block in pattern.soft_blocks):
        raise InputError(
            f"hard_prompt_steps freezes soft blocks that start from words, but pattern {pattern.name!r} has none.",
            "Add one, such as {soft:3:in summary}, or remove hard_prompt_steps.",
        )
    if config.hard_prompt_steps and not config.trains_more and all(block.words for block in pattern.soft_blocks):
        raise InputError(
            f"nothing is trained during hard_prompt_steps: all soft blocks of pattern {pattern.name!r} are initialized "
            "from words.",
            "Add lora, head: linear or a block without words, or remove hard_prompt_steps.",
        )


def check_fits_token_level(config: PromptConfig) -> None:
    """Checks that a method needs no pattern and no label words, which token-level tasks do not have.

    Raises:
        InputError: with the key of the setting.
    """
    needs_words = {
        "head": config.head == "verbalizer",
        "hard_prompt_steps": config.hard_prompt_steps > 0,
        "init": config.init != "ppt" and config.init.kind == "label_words",
    }
    for key, is_set in needs_words.items():
        if is_set:
            raise InputError(
                f"{key} needs a pattern or label words, but token-level tasks use a linear head without them.",
                f"Remove {key} from this method.",
                key=key,
            )


SERVING_FILE = "prompt_model.json"


class PromptServingConfig(ClozeConfig):
    """What is needed to predict with a saved prompt."""

    def save(self, folder: Path) -> None:
        """Writes the config to the folder of the prompt."""
        (folder / SERVING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


InitKind = Literal["normal", "uniform", "zero", "sample_vocab", "text", "label_words", "cls", "mean"]


class InitConfig(Config):
    """How the vectors of a new prompt are initialized.

    With kinds that use tokens (sample_vocab, text, label_words, cls), a prompt starts from their embeddings, and a deep
    prompt from the keys and values that the backbone computes for them. An mlp or lstm then adds what it has
    learned. With kind: normal or uniform it produces the vectors themselves, as in the papers.
    """

    kind: InitKind = "sample_vocab"
    """normal, uniform, zero, sample_vocab (embeddings of sampled tokens), text, label_words (of the task), cls (the
    first token of a text), mean (of all embeddings).
    """
    scale: float = Field(0.02, gt=0)
    """Standard deviation for normal, half of the width for uniform."""
    text: str = ""
    """Text whose token embeddings fill the prompt, repeated as needed. For kind: text."""
    num_candidate_tokens: int = Field(5000, ge=1)
    """For kind: sample_vocab, samples from this number of tokens with the lowest ids."""

    @model_validator(mode="after")
    def _kind_fits_text(self) -> InitConfig:
        if self.kind == "text" and not self.text:
            raise InputError("kind: text needs a text.", "Set text, or another kind.", key="text")
        if self.kind != "text" and self.text:
            raise InputError(
                f"text is for kind: text, not for {self.kind}.", "Set kind: text, or remove text.", key="text"
            )
        return self


class TransferConfig(Config):
    """A trained prompt of another task, for transfer as in SPoT (Vu et al., ACL 2022), or a source of a mixture."""

    task: Name
    """Name of the other task: one of prompts.tasks."""
    method: Name
    """Method of prompts.methods that trains its prompt."""


class PromptConfig(Config):
    """A method of soft prompt tuning and its settings."""

    method: PromptTuningMethod = "prompt_tuning"
    """prompt_tuning, p_tuning, prefix_tuning, p_tuning_v2, lora (adapters without a soft prompt), idpg (a network
    computes the prompt of each text), or attempt (each text has a mixture of trained prompts).
    """
    num_virtual_tokens: int = Field(16, ge=1)
    """Length of the prompt. A pretrained prompt and the soft blocks of a pattern define their own length."""
    init: InitConfig | Literal["ppt"] = InitConfig()
    """Initialization of the vectors, or ppt for the pretrained prompt."""
    transfer: TransferConfig | None = None
    """Trained prompt of another task that the vectors start from, instead of init. It defines their number."""
    reparameterization: Reparameterization | None = None
    """Module that produces the vectors during training: none, mlp or lstm. If not set, the default of the method."""
    encoder_hidden_size: int | None = Field(None, ge=1)
    """Hidden size of the mlp or lstm. If not set, the hidden size of the backbone."""
    rank: int | None = Field(None, ge=1)
    """Rank of a trained update A·B of the initial vectors. If not set, the vectors are trained directly."""
    hard_prompt_steps: int = Field(0, ge=0)
    """Curriculum: number of steps in which soft blocks that are initialized from words are frozen."""
    bottleneck_size: int | None = Field(None, ge=1)
    """Hidden size of the network of idpg and attempt. If not set, as in the papers: 256 for idpg, 100 for attempt."""
    text_encoder: Literal["backbone", "embeddings"] = "backbone"
    """What the network of idpg reads of a text: backbone (the mean of the last hidden states, which takes another pass
    without gradients) or embeddings (the mean of the input embeddings).
    """
    sources: tuple[TransferConfig | Literal["ppt"], ...] = ()
    """Trained prompts that attempt mixes, of other tasks or ppt (the pretrained prompt). They are not trained further,
    and have num_virtual_tokens vectors.
    """
    temperature: float | None = Field(None, gt=0)
    """Divides the scores of the prompts that attempt mixes: a lower one prefers fewer. If not set, as in the paper: e
    times the embedding size.
    """
    lora: LoraConfig | None = None
    """Adapters that are trained with the prompt. If not set, the backbone is unchanged."""
    gates: bool = False
    """If true, a gate is trained for each vector, and for each layer of a deep prompt: a factor between 0 and 2, from 1
    on.
    """
    noise: float = Field(0.0, ge=0)
    """Standard deviation of the noise that is added to the vectors in each training step, as a multiple of theirs."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    """Layers of prefix_tuning and p_tuning_v2 that have vectors, from 0 on. If not set, all."""
    layer_lengths: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    """Number of vectors of each layer, instead of num_virtual_tokens. If not set, the same for all."""
    prefix_at: tuple[Literal["encoder", "decoder", "cross"], ...] | None = Field(None, min_length=1)
    """Where the keys and values of prefix_tuning and p_tuning_v2 are in a seq2seq model: encoder, decoder, and cross
    (cross-attention). Prefix tuning of BART has all three. If not set: decoder, as in PEFT.
    """
    backbone_dropout: bool = False
    """If true, the frozen backbone computes with the dropout rates of its config during training, as in P-tuning v2. In
    the original PPT it computes without dropout. Many causal models have none.
    """
    head: Head | None = None
    """Scores labels with the verbalizer, or with a linear head that is trained with the prompt. If not set, verbalizer;
    for token-level tasks, linear.
    """

    @model_validator(mode="after")
    def _lora_has_no_vectors(self) -> PromptConfig:
        if self.method != "lora":
            return self
        if self.lora is None:
            raise InputError("method: lora needs the settings of its adapters.", "Add lora: {rank: 8}.", key="lora")
        for key in OF_VECTORS:
            if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default:
                raise InputError(
                    f"{key} is for vectors, but method: lora trains none.",
                    f"Remove {key}, or set another method and keep lora.",
                    key=key,
                )
        return self

    @model_validator(mode="after")
    def _transfer_fits(self) -> PromptConfig:
        if self.transfer is None:
            return self
        for key in ("init", "num_virtual_tokens"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise InputError(f"transfer defines {key}.", f"Remove {key}, or transfer.", key=key)
        if self.encoder != "none":
            raise InputError(
                f"transfer starts from vectors, but here an {self.encoder} produces them.",
                "Set method: prompt_tuning, or p_tuning_v2.",
                key="transfer",
            )
        return self

    @model_validator(mode="after")
    def _text_methods_fit(self) -> PromptConfig:
        for key, methods in _OF_TEXT_METHODS.items():
            if self.method not in methods and getattr(self, key) != type(self).model_fields[key].default:
                raise InputError(
                    f"{key} is for {' and '.join(methods)}, not for {self.method}.",
                    f"Remove {key}, or set method: {methods[0]}.",
                    key=key,
                )
        if not self.reads_text:
            return self
        for key in ("rank", "gates", "noise", "hard_prompt_steps"):
            if getattr(self, key):
                raise InputError(
                    f"{key} is for vectors that are the same for all texts; those of {self.method} are not.",
                    f"Remove {key}.",
                    key=key,
                )
        if self.lora is not None:
            raise InputError(
                f"{self.method} reads texts with the frozen backbone, which adapters would change.",
                "Remove lora.",
                key="lora",
            )
        if self.method == "attempt" and not self.sources:
            raise InputError(
                "attempt mixes trained prompts, and none is set.",
                "Set sources: [{task: OTHER_TASK, method: METHOD}], or [ppt].",
                key="sources",
            )
        if len(set(self.sources)) < len(self.sources):
            raise InputError("sources lists a prompt twice.", "Remove one of them.", key="sources")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> PromptConfig:
        if self.encoder not in _ALLOWED[self.method]:
            raise InputError(
                f"{self.method} cannot be reparameterized by {self.encoder}.",
                f"Use one of: {', '.join(_ALLOWED[self.method])}.",
                key="reparameterization",
            )
        if self.encoder != "none" and self.rank:
            raise InputError(
                f"rank is for vectors that are trained directly, but here an {self.encoder} produces them.",
                "Remove rank or reparameterization.",
                key="rank",
            )
        if self.init == "ppt" and (self.is_deep or self.encoder != "none"):
            raise InputError(
                f"{self.method} cannot be initialized from a pretrained prompt, which consists of plain input vectors.",
                "Set method: prompt_tuning, or another init.",
                key="init",
            )
        if self.hard_prompt_steps and (self.is_deep or self.encoder != "none" or self.rank):
            raise InputError(
                "hard_prompt_steps is for plain prompt tuning.",
                "Remove hard_prompt_steps, or set method: prompt_tuning without rank.",
                key="hard_prompt_steps",
            )
        if self.gates and self.hard_prompt_steps:
            raise InputError(
                "gates are trained from the first step, but hard_prompt_steps freezes their vectors.",
                "Remove gates or hard_prompt_steps.",
                key="gates",
            )
        for key in ("layers", "layer_lengths"):
            self._check_layers(key)
        if self.prefix_at is not None and not self.is_deep:
            raise InputError(
                f"prefix_at is for keys and values, which {self.method} does not train.",
                "Remove prefix_at, or set method: prefix_tuning or p_tuning_v2.",
                key="prefix_at",
            )
        if self.prefix_at is not None and len(set(self.prefix_at)) < len(self.prefix_at):
            raise InputError("prefix_at names a place twice.", "Remove one of them.", key="prefix_at")
        if self.is_deep and self.init != "ppt" and self.init.kind == "mean":
            raise InputError("a deep prompt cannot be initialized with a mean.", "Use another kind.", key="init.kind")
        return self

    def _check_layers(self, key: str) -> None:
        lengths: tuple[int, ...] | None = getattr(self, key)
        if lengths is None:
            return
        if not self.is_deep:
            raise InputError(
                f"{key} is for vectors of layers, which {self.method} does not train.",
                f"Remove {key}, or set method: prefix_tuning or p_tuning_v2.",
                key=key,
            )
        default = type(self).model_fields["num_virtual_tokens"].default
        others = {
            "rank": self.rank is not None,
            "transfer": self.transfer is not None,
            "num_virtual_tokens": key == "layer_lengths" and self.num_virtual_tokens != default,
            "layer_lengths": key == "layers" and self.layer_lengths is not None,
        }
        if other := next((name for name, is_set in others.items() if is_set), None):
            raise InputError(f"{key} and {other} are both set.", f"Remove {other}.", key=other)
        if key == "layers" and len(set(lengths)) < len(lengths):
            raise InputError("layers names a layer twice.", "Remove one of them.", key=key)
        if key == "layer_lengths" and not any(lengths):
            raise InputError("no layer has a vector.", "Set a length above 0.", key=key)

    @property
    def uses_ppt(self) -> bool:
        """Returns True if it starts from the pretrained prompt, or mixes it with others."""
        return self.init == "ppt" or "ppt" in self.sources

    @property
    def starts_from_prompt(self) -> bool:
        """Returns True if the vectors start from a trained or pretrained prompt."""
        return self.init == "ppt" or self.transfer is not None

    @property
    def prompt_length(self) -> int:
        """Vectors before a text, unless a pattern or a pretrained prompt defines their number."""
        if self.layer_lengths is not None:
            return max(self.layer_lengths)
        return 0 if self.method == "lora" else self.num_virtual_tokens

    @property
    def reads_text(self) -> bool:
        """Returns True if each text has its own vectors, which a network computes."""
        return self.method in BOTTLENECK_SIZES

    @property
    def bottleneck(self) -> int:
        """Hidden size of this network."""
        return self.bottleneck_size or BOTTLENECK_SIZES[self.method]

    def num_network_weights(self, width: int) -> int:
        """Returns the number of trained weights of this network for a backbone of this width; 0 for other methods."""
        if not self.reads_text:
            return 0
        if self.method == "idpg":
            return self.bottleneck * (width + 1 + self.num_virtual_tokens * width)
        return 2 * width * (self.bottleneck + 1)

    @property
    def is_deep(self) -> bool:
        """Returns True if the vectors are keys and values of every layer."""
        return self.method in ("prefix_tuning", "p_tuning_v2")

    @property
    def places(self) -> tuple[Literal["encoder", "decoder", "cross"], ...]:
        """Where a deep prompt is, in a fixed order."""
        return tuple(place for place in PLACES if place in (self.prefix_at or ("decoder",)))

    @property
    def is_residual(self) -> bool:
        """Returns True if an encoder adds to the initial vectors. Random vectors are the input of the encoder."""
        return self.init == "ppt" or self.init.kind not in ("normal", "uniform")

    @property
    def frozen_steps(self) -> dict[str, int]:
        """Parameter of the prompt -> number of steps in which it is frozen."""
        return {WORD_VECTORS: self.hard_prompt_steps} if self.hard_prompt_steps else {}

    @property
    def can_be_batched(self) -> bool:
        """Returns True if the prompt ends with the same values if it is trained in the same batches as others."""
        is_alike = not (self.hard_prompt_steps or self.backbone_dropout or self.noise)
        return is_alike and not self.trains_more and self.transfer is None and not self.sources

    @property
    def trains_more(self) -> bool:
        """Returns True if adapters or a head are trained with the vectors."""
        return self.lora is not None or self.head == "linear"

    @property
    def encoder(self) -> Reparameterization:
        """The module that produces the vectors during training."""
        return self.reparameterization or _DEFAULT[self.method]


class PromptTrainingConfig(Config):
    """Base of configs of one trained prompt."""

    prompt: PromptConfig
    """Method and settings of the prompt."""
    training: TrainingConfig
    """Length, learning rate and batch size."""
    seed: int = 0
    """Seed of the initialization and of the order of examples."""
