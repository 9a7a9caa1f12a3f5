"""What a backbone must know about an architecture, and what does not work on it, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stages.common.errors import InputError

Use = Literal["score", "lora", "prompt", "deep"]
"""What a model is used for: to score label words, and to train LoRA weights, a prompt of input vectors, a deep one."""
USES: dict[Use, str] = {
    "score": "scoring label words",
    "lora": "LoRA",
    "prompt": "prompt tuning and P-tuning",
    "deep": "prefix tuning and P-tuning v2",
}
Positions = Literal["none", "from_zero", "after_pad"]
"""First position id of a text; after_pad: pad_token_id + 1; none: the model takes no position ids."""
Padding = Literal["left", "right", "none"]
"""Side on which padding does not change a text. none: a batch may hold texts of one length only."""
PositionLimit = Literal["all", "after_pad", "none"]
"""How many positions of the config a text can use. all: as many as it has; after_pad: the first pad_token_id + 1 are
never used; none: a text may be longer.
"""


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """How to run an architecture. The names of modules are those of transformers."""

    body: str = ""
    """Name of the module whose last hidden states the LM head reads."""
    positions: Positions = "from_zero"
    padding: Padding = "right"
    position_limit: PositionLimit = "all"
    reads_word_rows: bool = False
    """True if the LM head computes the logits of a few words from their rows of the output embeddings alone."""
    continues_cache: bool = False
    """True if the model can read on after cached keys and values, and the cache can be shortened again."""
    refused: Mapping[Use, str] = field(default_factory=dict)
    """What does not work -> the technical reason."""

    def check(self, use: Use, name: str) -> None:
        """Checks that the architecture `name` can be used.

        Raises:
            InputError: with the technical reason.
        """
        if use in self.refused:
            remedy = (
                "Use another backbone; docs/reference/models.md lists what works on which model."
                if use == "score"
                else "Use another method or backbone; docs/reference/models.md lists what works on which model."
            )
            raise InputError(f"{name} does not support {USES[use]}: {self.refused[use]}.", remedy)
