"""Config models of knowledge probing: relations, and how their prompts are made."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config, OptionalAssetRef
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.training.config import TrainingConfig

SUBJECT, RELATION = "subject", "relation"
"""Fields of a fact."""
FactMethod = Literal["template", "p_tuning", "optiprompt"]
"""How a relation becomes a prompt."""
Candidates = Literal["vocabulary", "relation"]
"""What an answer is compared with."""


class FactPromptConfig(Config):
    """How relations become prompts. Trained vectors belong to one relation, and the language model is frozen."""

    method: FactMethod = "template"
    """template (the words of the relation; nothing is trained), p_tuning (vectors between subject and answer, which an
    LSTM produces during training), or optiprompt (vectors instead of the words).
    """
    init: Literal["template", "random"] | None = None
    """For optiprompt, the first values of the vectors: template (the words of the relation, the default), or random."""
    num_virtual_tokens: int | None = Field(None, ge=1)
    """Vectors per gap for p_tuning (default: 3), vectors for optiprompt with init: random (default: 5)."""
    encoder_hidden_size: int | None = Field(None, ge=1)
    """Hidden size of the LSTM of p_tuning. If not set, the width of the embeddings."""

    @model_validator(mode="after")
    def _settings_are_used(self) -> Self:
        is_random = self.method == "optiprompt" and self.init == "random"
        unused = {
            "init": self.init is not None and self.method != "optiprompt",
            "num_virtual_tokens": self.num_virtual_tokens is not None and self.method != "p_tuning" and not is_random,
            "encoder_hidden_size": self.encoder_hidden_size is not None and self.method != "p_tuning",
        }
        for key, is_unused in unused.items():
            if is_unused:
                with_init = f" with init: {self.init or 'template'}" if self.method == "optiprompt" else ""
                raise InputError(f"{key} has no effect for {self.method}{with_init}.", f"Remove {key}.", key=key)
        return self

    @property
    def is_trained(self) -> bool:
        """Returns True if the prompt has vectors."""
        return self.method != "template"


class ProbingSettings(Config):
    """Settings of knowledge probing that a recipe defines."""

    relations: OptionalAssetRef = None
    """Reference of a file of JSON lines with `relation` and `template`, as in LAMA. Set this or `templates`."""
    templates: dict[str, str] = Field({})
    """Relation -> its template, with [X] for the subject and [Y] for the answer: "[X] was born in [Y]."."""
    candidates: Candidates = "vocabulary"
    """vocabulary (an answer is one token, and is compared with all others, as in LAMA), or relation (answers have any
    number of tokens, and are compared with all answers of their relation by the mean log-likelihood per token).
    """

    @model_validator(mode="after")
    def _has_templates(self) -> Self:
        if (self.relations is None) == (not self.templates):
            raise InputError(
                "templates come either from a file or from the recipe.",
                "Set one of them: relations: relations.jsonl, or templates: {born: '[X] was born in [Y].'}.",
                key="relations",
            )
        for name, text in self.templates.items():
            check_template(name, text, key=f"templates.{name}")
        return self


def check_template(name: str, text: str, *, key: str = "", where: str = "") -> None:
    """Checks that a template has a subject and an answer.

    Raises:
        InputError: [X] or [Y] does not occur once.
    """
    for part in ("[X]", "[Y]"):
        if text.count(part) != 1:
            raise InputError(
                f"the template of {name!r} has {text.count(part)} times {part}: {text!r}.",
                "Write [X] and [Y] once each.",
                key=key,
                where=where,
            )


class ProbingConfig(ProbingSettings):
    """One method on all relations."""

    backbone: BackboneConfig
    """The frozen language model."""
    prompt: FactPromptConfig
    """How relations become prompts."""
    training: TrainingConfig | None = None
    """Length, learning rate and batch size per relation. None for templates."""
    seed: int = 0
    """Seed of the vectors and of the order of facts."""
