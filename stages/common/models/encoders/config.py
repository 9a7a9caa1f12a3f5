"""Config models of text encoders, and of the student that is trained on one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Config
from stages.common.models.config import Pooling, Precision


def check_training(student: StudentConfig, loop: object | None) -> None:
    """Refuses a loop that nothing follows, and training without one.

    Raises:
        ValueError: names both fields.
    """
    if (loop is None) != (student.tune == "head"):
        raise ValueError("student.tune: head takes no loop, and full needs one. Mend student.tune or loop.")


class EncoderConfig(Config):
    """A pretrained model, and how it makes one vector of a text."""

    asset: str = Field(json_schema_extra={"identity": False})
    """Reference of the encoder: a folder of a transformers model, or a GGUF file."""
    max_length: int = Field(128, ge=8)
    """Tokens of a text (or pair of texts) at the most."""
    precision: Precision = "auto"
    """What it computes in while it, or a head on it, learns; weights stay float32."""
    pooling: Pooling = "mean"
    """The vector of a text: mean over its tokens, cls (its first token), or last (its last token, for causal models).
    """


class StudentConfig(EncoderConfig):
    """The encoder of the final classifier, and what of it is trained."""

    tune: Literal["full", "head"] = "full"
    """What is trained: full (all weights), or head (a linear head on the frozen encoder)."""
    head_regularization_c: float = Field(1.0, gt=0)
    """C of scikit-learn's LogisticRegression, for tune: head; higher fits closer."""
