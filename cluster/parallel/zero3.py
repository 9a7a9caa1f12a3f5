"""ZeRO-3 of DeepSpeed for a frozen model: each worker keeps a part of every weight.

All workers gather the weights of a layer while it computes (Rajbhandari et al., SC 2020,
https://arxiv.org/abs/1910.02054).

Trained parts (prompts, adapters, heads) are small, so every worker keeps all of them. DeepSpeed's optimizers are not
needed, and a checkpoint is the same for any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from cluster.errors import OffloadError
from cluster.parallel.config import NUM_BUFFERS, ZeroSettings
from cluster.parallel.nvme_offload import INSTALL_TOOLS, check_aio_toolchain


def deepspeed_config(settings: ZeroSettings) -> dict[str, Any]:
    """Returns the configuration of DeepSpeed as JSON values."""
    zero: dict[str, Any] = {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,  # partition small weights, too
        # Prefetching a layer for a pass that never comes is an error, and this code calls encoder, decoder, embedding
        # and body of a model one by one.
        "stage3_prefetch_bucket_size": 0,
        # By default DeepSpeed keeps a billion gathered weights for their next use: entire models, on every worker.
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
    }
    pin_memory = torch.cuda.is_available()
    if settings.offload:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pin_memory}
    if settings.disk:
        zero["offload_param"] = {
            "device": "nvme",
            "nvme_path": str(settings.disk.folder),
            "buffer_count": NUM_BUFFERS,
            "buffer_size": settings.disk.buffer_size,
            "pin_memory": pin_memory,
            "max_in_cpu": 0,
        }
    return {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": settings.bf16}, "zero_optimization": zero}


def build_aio() -> None:
    """Loads DeepSpeed's op for disks, which takes minutes the first time.

    Raises:
        OffloadError: it cannot be built.
    """
    check_aio_toolchain()
    from deepspeed.ops.op_builder import AsyncIOBuilder  # noqa: PLC0415  (reads DS_ACCELERATOR when imported)

    try:
        AsyncIOBuilder().load(verbose=False)
    except Exception as error:  # torch and DeepSpeed raise no specific class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OffloadError(
            f"DeepSpeed's async_io cannot be built on {os.uname().nodename} ({reason}).", INSTALL_TOOLS
        ) from error


class PartitionedModel:
    """A frozen model whose weights are partitioned among all workers of the process group."""

    def __init__(self, load_model: Callable[[], Any], settings: ZeroSettings) -> None:
        """
        Args:
            load_model: Loads a model of transformers; its weights are partitioned while they are read.
            settings: Precision, and where the weights are stored.

        Raises:
            OffloadError: the weights belong on a disk, but DeepSpeed's op for disks cannot be built.
        """
        _select_accelerator()
        if settings.disk:
            build_aio()
        import deepspeed  # noqa: PLC0415  (reads DS_ACCELERATOR when imported)
        from transformers.integrations import HfDeepSpeedConfig  # noqa: PLC0415  (imports deepspeed)

        config = deepspeed_config(settings)
        deepspeed.init_distributed(dist_init_required=False)
        marker = HfDeepSpeedConfig(config)  # transformers partitions weights while this object exists
        self.model = load_model()
        del marker
        self.model.requires_grad_(False)
        self._engine, *_ = deepspeed.initialize(model=self.model, config=config)
        # DeepSpeed records the order of layers, which grows without limit unless the end of each pass is reported.
        self.model.base_model.register_forward_hook(self._after_forward)

    def end_pass(self) -> None:
        """Reports the end of a pass to DeepSpeed."""
        self._engine.optimizer.get_param_coordinator().reset_step()

    def close(self) -> None:
        """Ends the threads that read weights from a disk, which may abort the process when it exits."""
        # Adapters have no swapper.
        swappers = (getattr(weight, "nvme_swapper", None) for weight in self.model.parameters())
        for swapper in {id(item): item for item in swappers if item is not None}.values():
            del swapper.aio_read_handle, swapper.aio_write_handle

    def _after_forward(self, *_: Any) -> None:
        if not torch.is_grad_enabled():
            self.end_pass()


def _select_accelerator() -> None:
    """Selects the CPU if this worker has no GPU. DeepSpeed would select by what is installed."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
