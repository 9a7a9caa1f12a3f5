"""Config models of text encoders, and of the student that is trained on one."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from stages.common.models.config import Pooling, Precision


def check_training(student: StudentConfig, loop: object | None) -> None:
    """Refuses a loop that nothing follows, and training without one.

    Raises:
        ValueError: names both fields.
    """
    if (loop is None) != (student.tune == "head"):
        raise ValueError("student.tune: head takes no loop, and full needs one. Mend student.tune or loop.")


class EncoderConfig(BaseModel, frozen=True, extra="forbid"):
    """A pretrained model, and how it makes one vector of a text."""

    asset: str = Field(
        description="Reference of the encoder: a folder of a transformers model, or a GGUF file.",
        json_schema_extra={"identity": False},
    )
    max_length: int = Field(128, ge=8, description="Tokens of a text (or pair of texts) at the most.")
    precision: Precision = Field(
        "auto",
        description="What it computes in while it, or a head on it, learns; weights stay float32.",
    )
    pooling: Pooling = Field(
        "mean",
        description="The vector of a text: mean over its tokens, cls (its first token), or last (its last token, for "
        "causal models).",
    )


class StudentConfig(EncoderConfig, frozen=True):
    """The encoder of the final classifier, and what of it is trained."""

    tune: Literal["full", "head"] = Field(
        "full", description="What is trained: full (all weights), or head (a linear head on the frozen encoder)."
    )
    head_strength: float = Field(
        1.0, gt=0, description="C of scikit-learn's LogisticRegression, for tune: head; higher fits closer."
    )
