"""A model whose architecture is in its own folder: BERT with scaled logits, as `trust_remote_code` of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

MODELING = '''\
"""BERT whose logits are scaled."""

from transformers import BertForMaskedLM

from .configuration_scaled import ScaledConfig


class ScaledForMaskedLM(BertForMaskedLM):
    config_class = ScaledConfig

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None, **more
    ):
        output = super().forward(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, **more,
        )
        output.logits = output.logits * self.config.logit_scale
        return output
'''
CONFIGURATION = '''\
"""The config of BERT with a scale."""

from transformers import BertConfig


class ScaledConfig(BertConfig):
    model_type = "scaled_bert"
    logit_scale: float = 1.0
'''
AUTO_MAP = {
    "AutoConfig": "configuration_scaled.ScaledConfig",
    "AutoModelForMaskedLM": "modeling_scaled.ScaledForMaskedLM",
}


def write_scaled_bert(bert: Path, folder: Path, scale: float = 3.0) -> Path:
    """Copies a BERT with LM head to `folder` and makes it a model with code."""
    shutil.copytree(bert, folder)
    (folder / "modeling_scaled.py").write_text(MODELING)
    (folder / "configuration_scaled.py").write_text(CONFIGURATION)
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "scaled_bert", "architectures": ["ScaledForMaskedLM"], "logit_scale": scale}
    (folder / "config.json").write_text(json.dumps(config | own | {"auto_map": AUTO_MAP}))
    return folder
