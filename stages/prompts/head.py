"""A linear head in the place of label words: it reads the last hidden state at the mask.

P-tuning v2 (Liu et al., ACL 2022, section 3.3) gives up the verbalizer for it; the backbone stays frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stages.errors import InputError

_FILE = "head.safetensors"


class LinearHead(torch.nn.Module):
    """[B, D] -> [B, C], in float32; states are brought to unit variance first, whatever the backbone's scale."""

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.linear = torch.nn.Linear(width, num_labels)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Scores of labels, [B, C]."""
        made: Tensor = self.linear(self.norm(states.float()))
        return made


def save_head(head: LinearHead, labels: Sequence[str], folder: Path) -> None:
    """Writes the head to `folder`, with the labels that its rows stand for."""
    from safetensors.torch import save_file

    weights = {name: item.detach().cpu().contiguous() for name, item in head.state_dict().items()}
    save_file(weights, folder / _FILE, metadata={"labels": "\n".join(labels)})


def load_head(folder: Path, width: int, labels: Sequence[str]) -> LinearHead | None:
    """The head in `folder`, or None if there is none.

    Raises:
        InputError: it was made for a backbone of another width, or for other labels.
    """
    from safetensors import safe_open

    if not (folder / _FILE).exists():
        return None
    with safe_open(folder / _FILE, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = (file.metadata() or {}).get("labels", "").split("\n")
    if weights["linear.weight"].shape != (len(labels), width) or known != list(labels):
        raise InputError(
            f"the head in {folder} reads states of width {weights['linear.weight'].shape[1]} and tells {known} apart; "
            f"the backbone has {width}, the task {list(labels)}.",
            "Use it with the backbone and task that it was trained on.",
        )
    head = LinearHead(width, len(labels))
    head.load_state_dict(weights)
    return head
