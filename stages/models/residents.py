"""The frozen backbone that is resident in this process: loaded once, lent to one step after the other.

Worker processes serve many steps, and most of them want the same backbone. Sub-models with adapters put theirs on,
train, label, and take them off again; the weights below were never touched. On GPUs Ray ends a worker with its step, so
that there each step loads its backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stages.models.backbones import Backbone, BackboneConfig, load
from stages.models.batching import read_tokens
from stages.protocols import Engine, LocalEngine
from stages.texts.assets import identity

_resident: dict[tuple[str, str], Backbone] = {}
"""At most one: a second backbone takes the place of the first."""


@contextmanager
def borrowed(config: BackboneConfig, engine: Engine | None = None) -> Iterator[Backbone]:
    """Lends the frozen backbone of `config`; whoever borrows it gives it back as it was.

    After an error it is loaded anew, since nobody knows in which state it was left.

    Args:
        config: The model.
        engine: May spread it over the workers; None: one process.

    Raises:
        AssetError: the reference cannot be reached or holds no model.
    """
    key = (identity(config.asset), config.precision)
    backbone = _resident.pop(key, None)
    if backbone is None:
        _resident.clear()  # before loading: two large models may not fit
        backbone = load(config, frozen=True, engine=engine or LocalEngine())
    backbone.read_tokens = read_tokens(config.read_tokens, on_gpu=backbone.is_on_gpu)
    yield backbone
    _resident[key] = backbone.freeze()
