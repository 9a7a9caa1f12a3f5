"""One of two workers that load a model twice and offload both: `offload_ranks.py RANK MODEL DISK GROUP_FILE`."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[3]))

from cluster.parallel.engine import DistributedEngine
from cluster.parallel.worker_signals import HangDumper
from stages.common.engine import map_sequentially
from stages.common.models.backbones.partitioned import sharding_units
from stages.common.models.meta_models import largest_weight


def main(rank: int, model: Path, disk: Path, group: Path) -> None:
    """Prints if both models give the logits of the model in memory."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    load_model = partial(AutoModelForCausalLM.from_pretrained, model, dtype=torch.float32)
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = load_model()(tokens).logits
        engine = DistributedEngine(
            group.parent,
            "zero3_offload",
            HangDumper(group.with_name("stacks"), rank, 100),
            map_batches=map_sequentially,
            nvme_path=str(disk),
            offload_owner="test",
        )
        models = [
            engine.load_frozen(
                load_model, bf16=False, largest_weight=partial(largest_weight, model), find_units=sharding_units
            )
            for _ in range(2)
        ]
        is_same = all(torch.allclose(item(tokens).logits, expected, atol=1e-5) for item in models)
    dist.barrier()
    sys.stdout.write(f"{is_same}, {len(list(disk.iterdir()))} folders\n")
    dist.barrier()
    engine.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
