"""ZeRO-3 of DeepSpeed for a frozen model: each worker keeps a part of every weight.

All workers gather the weights of a layer while it computes (Rajbhandari et al., SC 2020,
https://arxiv.org/abs/1910.02054).

Trained parts (prompts, adapters, heads) are small, so every worker keeps them whole. DeepSpeed's optimizers are not
needed, and a checkpoint is the same for any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cluster.errors import OffloadError
from cluster.parallel.config import ZeroSettings, has_gpu
from cluster.parallel.nvme_offload import TOOLS, check_aio_toolchain


def build_aio() -> None:
    """Loads DeepSpeed's op for disks, which takes minutes the first time.

    Raises:
        SwapError: it cannot be built.
    """
    check_aio_toolchain()
    from deepspeed.ops.op_builder import AsyncIOBuilder

    try:
        AsyncIOBuilder().load(verbose=False)
    except Exception as error:  # torch and DeepSpeed raise nothing more exact
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OffloadError(
            f"DeepSpeed's async_io cannot be built on {os.uname().nodename} ({reason}).", TOOLS
        ) from error


class PartitionedModel:
    """A frozen model whose weights lie on all workers of the process group."""

    def __init__(self, make: Callable[[], Any], settings: ZeroSettings) -> None:
        """
        Args:
            make: Reads a model of transformers; its weights are split while they are read.
            settings: Precision and place.

        Raises:
            SwapError: weights shall lie on a disk, and DeepSpeed's op for it cannot be built.
        """
        _choose_accelerator()
        if settings.disk:
            build_aio()
        import deepspeed
        from transformers.integrations import HfDeepSpeedConfig

        config = settings.config()
        deepspeed.init_distributed(dist_init_required=False)
        reading = HfDeepSpeedConfig(config)  # transformers asks whether one is alive
        self.model = make()
        del reading
        self.model.requires_grad_(False)
        engine, *_ = deepspeed.initialize(model=self.model, config=config)
        self._engine = engine
        # the order of layers that DeepSpeed notes down would grow without end, were it not told where a pass ends
        self.model.base_model.register_forward_hook(self._pass_over)

    def end_pass(self) -> None:
        """The next pass begins anew."""
        self._engine.optimizer.get_param_coordinator().reset_step()

    def close(self) -> None:
        """Ends the threads that read weights from a disk: left alone, they may abort the process when it ends."""
        found = (getattr(weight, "nvme_swapper", None) for weight in self.model.parameters())  # adapters have none
        for swapper in {id(item): item for item in found if item is not None}.values():
            del swapper.aio_read_handle, swapper.aio_write_handle

    def _pass_over(self, *_: Any) -> None:
        import torch

        if not torch.is_grad_enabled():
            self.end_pass()


def _choose_accelerator() -> None:
    """DeepSpeed chooses by what is installed; here decides what this worker was given."""
    if not has_gpu():
        os.environ["DS_ACCELERATOR"] = "cpu"
