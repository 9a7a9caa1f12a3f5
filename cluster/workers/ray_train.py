"""What Ray Train is told beyond its own words, so that a wish to end reaches a step's many workers.

Imports ray: only `cluster.workers.training` imports it, when a step with many workers runs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend

from cluster.workers.wish import ask_at_sigterm


class _Backend(_TorchBackend):
    """Torch's process group, and an ear for SIGTERM: stages run in threads, where Python installs no handlers."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(ask_at_sigterm, backend_config.work)


@dataclass
class GroupConfig(TorchConfig):
    """The process group of a step. `work`: its folder."""

    work: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See `BackendConfig`."""
        return _Backend


class Trainer(TorchTrainer):
    """A trainer that leaves SIGINT to those who guard its process.

    Args:
        on_start: Called when the controller of the workers is there, with a function that ends it and them.
    """

    def __init__(self, *arguments: Any, on_start: Callable[[Callable[[], None]], None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_start = on_start

    def _register_sigint_handler(self, controller: Any) -> None:
        super()._register_sigint_handler(controller)
        handler = signal.getsignal(signal.SIGINT)

        def abort() -> None:
            # Ray's handler exits when all is ended, and here somebody still wants to say why
            with suppress(SystemExit):
                if callable(handler):
                    handler(signal.SIGINT, None)

        self._on_start(abort)
