"""What a model family must say of itself: how a pair becomes ids, and where its score is read.

A family holds no batching, device-choice or pool code: `Scorer` plans the batches and
calls `forward` on one batch at a time, always from one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flag_rerank_integrations.pairs import EncodedPair, Layout, Pair

__all__ = ["EncodedPair", "Family", "Floats", "Layout", "Pair"]

Floats = npt.NDArray[np.float32]


class Family(Protocol):
    """One loaded model on one device."""

    name: str
    """The family's name, as in `RerankConfig.family`."""
    layout: Layout
    """How the planner may put pairs together."""
    max_length: int
    """Most tokens of one pair, special tokens included."""
    load_seconds: dict[str, float]
    """Seconds by step of the load."""

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Tokenize pairs, each distinct text once, and cut them to fit; same order."""
        ...

    def forward(self, batch: Sequence[EncodedPair]) -> Floats:
        """Run one batch; return its logits, shape (len(batch),), in the batch's order."""
        ...

    def close(self) -> None:
        """Free the model's memory; safe to call twice."""
        ...
