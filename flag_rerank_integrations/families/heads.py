"""Score heads of layered models: one number a pair, readable after many layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Heads"]


@dataclass(frozen=True, slots=True)
class Heads:
    """One linear map to a number for each readable layer, in float32."""

    layers: range
    """The layers that can be read: after that many layers have run."""
    weights: Tensor
    """Shape (layers, size); or (1, size) where one head serves every layer."""
    softcap: float | None = None
    """Scores x become softcap * tanh(x / softcap)."""

    def score(self, layer: int, hidden: Tensor) -> Tensor:
        """Return the scores of hidden states of shape (pairs, size), which were read after `layer` layers."""
        row = 0 if len(self.weights) == 1 else self.layers.index(layer)
        scores = hidden.float() @ self.weights[row]
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)
