"""One of two workers that read a model twice, and swap both: `swapping_ranks.py RANK MODEL DISK FILE_OF_THE_GROUP`."""

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
from stages.common.models.meta_models import largest_weight


def main(rank: int, model: Path, disk: Path, group: Path) -> None:
    """Tells whether both models say what the whole one says."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    read = partial(AutoModelForCausalLM.from_pretrained, model, dtype=torch.float32)
    words = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = read()(words).logits
        engine = DistributedEngine(
            group.parent, "zero3_offload", HangDumper(group.with_name("stacks"), rank, 100), str(disk)
        )
        models = [engine.load_frozen(read, bf16=False, largest_weight=partial(largest_weight, model)) for _ in range(2)]
        is_same = all(torch.allclose(item(words).logits, expected, atol=1e-5) for item in models)
    dist.barrier()
    sys.stdout.write(f"{is_same}, folders while it ran: {len(list(disk.iterdir()))}\n")
    dist.barrier()
    engine.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
