"""The least time a forward pass can take: its floating-point operations over the machine's matrix-product rate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

__all__ = ["Gemm", "Rate", "Work", "work"]

_TOKENS: Final = 2048
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations over real tokens only: no padding, each pair at its own length."""

    full: int
    """Every layer for every token: what a plain forward pass computes."""
    reduced: int
    """The last layer's query, attention row, output and feed-forward for the one token that is scored."""


def work(config: dict[str, Any], lengths: Iterable[int]) -> Work:
    """Count the operations of scoring pairs.

    A multiply-add is two operations. Counted are the linear layers, both attention products and
    the head's one row; left out are embeddings, norms and activations, which no matrix product does.
    Causal attention counts each token with those up to it.

    Args:
        config: The model's config.json.
        lengths: Tokens of each pair, special tokens included.
    """
    sizes = _Sizes.of(config)
    full = reduced = 0
    for length in lengths:
        layer = length * (sizes.keys_values + sizes.rest) + sizes.attention(length)
        last = length * sizes.keys_values + sizes.rest + sizes.attention_row(length)
        full += sizes.layers * layer + sizes.head
        reduced += (sizes.layers - 1) * layer + last + sizes.head
    return Work(full, reduced)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Operations of one layer per token, and of the head per pair."""

    layers: int
    width: int
    """Query heads times their size."""
    keys_values: int
    rest: int
    """Query and output projections and the feed-forward layers."""
    head: int
    causal: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> _Sizes:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        size = config.get("head_dim") or hidden // heads
        causal = str((config.get("architectures") or [""])[0]).endswith("ForCausalLM")
        groups = config.get("num_key_value_heads") or heads
        feed_forward = (3 if causal else 2) * hidden * config["intermediate_size"]
        return cls(
            layers=config["num_hidden_layers"],
            width=heads * size,
            keys_values=2 * 2 * hidden * groups * size,
            rest=2 * (2 * hidden * heads * size + feed_forward),
            head=2 * hidden * (1 if causal else hidden + 1),
            causal=causal,
        )

    def attention(self, length: int) -> int:
        """Scores and weighted sums of all tokens of one pair."""
        pairs = length * (length + 1) // 2 if self.causal else length * length
        return 4 * self.width * pairs

    def attention_row(self, length: int) -> int:
        """The same for one token that sees all."""
        return 4 * self.width * length


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast matrix products are."""

    wall: float
    """Operations per second."""
    cpu: float
    """Operations per CPU second of all threads together."""

    def mean(self, other: Rate) -> Rate:
        """Return the rate half way to another."""
        return Rate((self.wall + other.wall) / 2, (self.cpu + other.cpu) / 2)


class Gemm:
    """Measures the rate of float32 matrix products, in the shapes of a model's own linear layers.

    Each probe multiplies 2,048 tokens by the weights of every linear layer's shape, three times
    each, and takes the fastest: the rate that the machine reaches at that moment at best, so
    that a share of the floor is never flattered by a slow product. Probes are made between the
    measurements, so that whatever slows the machine slows both alike.

    Args:
        config: The model's config.json.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        import torch

        hidden, width = config["hidden_size"], config["intermediate_size"]
        self._products: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = [
            (torch.randn(_TOKENS, inner), torch.randn(outer, inner).t(), torch.empty(_TOKENS, outer))
            for inner, outer in ((hidden, hidden), (hidden, width), (width, hidden))
        ]
        self.rate()

    def rate(self) -> Rate:
        """Measure once."""
        fastest, operations, seconds = 0.0, 0, 0.0
        for left, right, out in self._products:
            each = 2 * left.shape[0] * left.shape[1] * right.shape[1]
            walls, cpu = self._times(left, right, out)
            fastest = max(fastest, each / min(walls))
            operations, seconds = operations + each * len(walls), seconds + cpu
        return Rate(fastest, operations / seconds)

    @staticmethod
    def _times(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> tuple[list[float], float]:
        """Return the seconds of each try, and the CPU seconds of all."""
        import torch

        walls, before = [], time.process_time()
        for _ in range(_TRIES):
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            walls.append(time.perf_counter() - start)
        return walls, time.process_time() - before
