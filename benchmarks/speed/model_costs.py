"""Measures the costs that `clozeline init` estimates the time of a recipe with.

    python benchmarks/speed/model_costs.py [--quick] [--threads 2] [--turns 3] [--models MiniLM,SmolLM2]

Prints the table COSTS of pipelines/default_models.py: seconds per 1,000 tokens in bfloat16 if the CPU computes in it.
The ratios compare them with the values that are in the table now.
Encoders are trained with all weights, language models with the adapters of the default recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModel

from benchmarks.machine import machine
from benchmarks.speed.timing import time_in_turns
from pipelines.default_models import COSTS, SMOLLM2, ModelAsset
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.batching import autocast, wants_bf16
from stages.common.models.model_files import model_folder

BATCH_SIZE, LENGTH = 16, 48
NUM_BATCHES = 4
QUICK_MODELS = "MiniLM,SmolLM2"


def jobs_of(model: ModelAsset, num_batches: int) -> dict[str, Callable[[], Any]]:
    """Returns the jobs `reading` and `training` of a model, on batches of random tokens."""
    bf16, is_causal = wants_bf16("auto"), model is SMOLLM2
    if is_causal:
        frozen = load_backbone(BackboneConfig(asset=model.asset), frozen=True).model
        network = get_peft_model(frozen, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    else:
        network = AutoModel.from_pretrained(model_folder(model.asset))
    parameters = [item for item in network.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    tokens_BL = torch.randint(100, 10_000, (BATCH_SIZE, LENGTH))

    body = network.get_base_model().model if is_causal else network
    """Classification needs only a few rows of the LM head."""

    def states() -> Tensor:
        with autocast(bf16):
            result: Tensor = body(tokens_BL).last_hidden_state
        return result.float()

    def read() -> None:
        network.eval()
        with torch.inference_mode():
            for _ in range(num_batches):
                states()

    def train() -> None:
        network.train()
        for _ in range(num_batches):
            states().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return {"reading": read, "training": train}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="threads of torch (2; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="one batch of two small models, to try the benchmark")
    parser.add_argument("--turns", type=int, help="number of turns of each measurement (3; with --quick 1)")
    parser.add_argument("--models", help="parts of names on the hub, separated by commas; default: all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or (1 if options.quick else 2))
    print(machine())
    num_batches = 1 if options.quick else NUM_BATCHES
    thousands = num_batches * BATCH_SIZE * LENGTH / 1000
    parts = (options.models or (QUICK_MODELS if options.quick else "")).split(",")
    for model, cost in COSTS.items():
        if any(part in model.hub for part in parts):
            seconds = time_in_turns(jobs_of(model, num_batches), options.turns or (1 if options.quick else 3))
            reading, training = (median(seconds[name]) / thousands for name in ("reading", "training"))
            ratios = f"ratios {reading / cost.reading:.2f}, {training / cost.training:.2f}"
            print(f"{model.hub}: Cost(reading={reading:.3f}, training={training:.3f}); {ratios}", flush=True)


if __name__ == "__main__":
    main()
