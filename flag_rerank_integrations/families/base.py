"""What a model family must say of itself: how a pair becomes ids, and where its score is read.

A family holds no batching, device-choice or pool code: `Scorer` plans the batches and
calls `forward` on one batch at a time, always from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from flag_rerank_integrations.pairs import EncodedPair, Layout, Pair

if TYPE_CHECKING:
    import torch

__all__ = ["EncodedPair", "Family", "Floats", "LayeredFamily", "Layout", "Pair", "State"]

Floats = npt.NDArray[np.float32]
State: TypeAlias = "torch.Tensor"
"""The hidden states of one pair between two layers, one row a token."""


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

    def launch(self, batch: Sequence[EncodedPair]) -> Callable[[], Floats]:
        """Begin one batch, and return what waits for its logits; where nothing runs beside the host, they are there."""
        logits = self.forward(batch)
        return lambda: logits

    def fitting_tokens(self) -> int | None:
        """Return how many tokens a batch had best have at most on this device; None where it is not known."""
        return None

    def close(self) -> None:
        """Free the model's memory; safe to call twice."""
        ...


@runtime_checkable
class LayeredFamily(Family, Protocol):
    """A model whose score can be read after many of its layers."""

    layers: range
    """The layers that can be read; `forward` reads the last."""
    state_bytes: int
    """Bytes of a state for each of its tokens."""

    def forward_layers(self, batch: Sequence[EncodedPair], layers: Sequence[int]) -> Floats:
        """Run one batch once and read it at several layers; return logits of shape (len(batch), len(layers))."""
        ...

    def advance(
        self, batch: Sequence[EncodedPair], states: Sequence[State] | None, start: int, stop: int
    ) -> tuple[Floats, list[State]]:
        """Run one batch from layer `start` to layer `stop`; return its logits there, and its new states.

        Without states it starts anew, from layer 0. Behind the last layer that can be read there are no states.
        """
        ...

    def compact(self, states: Sequence[State]) -> list[State]:
        """Return copies of some states of a batch, so that the memory of the others is freed with them."""
        ...

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse layers that cannot be read.

        Raises:
            ConfigError: One is out of range; the message names the range.
        """
        ...
