"""Attention of encoders on CPUs: plain products and exponentials, faster there than torch's fused kernel.

The kernel walks through short sequences in small blocks and reaches a quarter of the rate of matrix
products. Here each pair is done by two batched products, for as many heads together as stay in the
cache from one to the other. Between them stands a softmax without its first pass and its last: it
would subtract each row's largest product, lest an exponential overflow, and divide every weight by
the row's sum. Products of trained models stay far below that, and outputs are fewer than weights, so
exponentials are taken of the products as they are, and the outputs are divided. The sums tell where
it was not so; such pairs are computed again with the shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch

from flag_rerank_integrations.attention import AttentionRule, attend
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import PackedLayout

__all__ = ["attend_all"]

_PRODUCTS_AT_A_TIME: Final = 2**19
# A row whose sum lies between these has lost nothing: no weight overflowed, nor does one times a value of up to 1e8,
# and the largest is so large that what float32 cannot hold, below 1e-38, is less than its last digit.
_LEAST_SUM: Final = 1e-20
_LARGEST_SUM: Final = 1e30
# torch computes powers of two equally fast whatever comes out; its exponential, which is MKL's, takes fifty times
# as long where that is 0 or denormal.
_LOG2_E: Final = math.log2(math.e)


def attend_all(  # noqa: PLR0913, PLR0917 - the parameters of one attention call, and where it computes
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    rule: AttentionRule,
    space: Workspace,
) -> torch.Tensor:
    """Attend within each pair of a flat sequence; every token sees its whole pair.

    Args:
        query: Shape (tokens, heads, head size).
        key: Likewise.
        value: Likewise.
        layout: Where the pairs lie; none shares its beginning.
        rule: Its scaling is used.
        space: Where to compute.

    Returns:
        Outputs of shape (tokens, heads * head size), in the workspace.
    """
    if query.device.type != "cpu" or query.dtype != torch.float32 or layout.shares:
        return attend(query, key, value, layout, rule)
    layout.calls += 1
    tokens, heads, size = query.shape
    outputs = space.take("attended", (tokens, heads, size), query)
    sums = space.take("sums", (tokens, heads), query)
    attention = _Attention(query, key, value, outputs, size**-0.5 if rule.scaling is None else rule.scaling, space)
    pairs = [slice(start, end) for start, end in pairwise(layout.starts)]
    for pair in pairs:
        attention.within(pair, sums[pair])
    if not _in_range(sums):
        for pair in pairs:
            if not _in_range(sums[pair]):
                attention.within(pair, sums[pair], shifted=True)
    return outputs.view(tokens, heads * size)


@dataclass(frozen=True, slots=True)
class _Attention:
    """One layer's attention; all tensors are (tokens, heads, head size)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    outputs: torch.Tensor
    scaling: float
    space: Workspace

    def within(self, pair: slice, sums: torch.Tensor, *, shifted: bool = False) -> None:
        """Attend within one pair.

        Args:
            pair: Its tokens.
            sums: Where the sums of its rows' exponentials go, so many as tokens times heads, in an order of their own.
            shifted: Whether to subtract each row's largest product first.
        """
        query, key, value, place = (
            tensor[pair].transpose(0, 1) for tensor in (self.query, self.key, self.value, self.outputs)
        )
        heads, length, _ = query.shape
        sums = sums.view(heads, length)
        at_a_time = max(1, _PRODUCTS_AT_A_TIME // length**2)
        for first in range(0, heads, at_a_time):
            some = slice(first, min(first + at_a_time, heads))
            products = self._products(query[some], key[some])
            if shifted:
                products.sub_(products.amax(-1, keepdim=True))
            torch.sum(products.exp2_(), -1, out=sums[some])
            means = self.space.take("means", (len(products), length, value.shape[2]), products)
            torch.bmm(products, value[some], out=means)
            torch.div(means, sums[some].unsqueeze(-1), out=place[some])

    def _products(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return what the power of two is to be taken of, (heads, length, length)."""
        heads, length, _ = query.shape
        products = self.space.take("products", (heads, length, length), query)
        factor = self.scaling * _LOG2_E
        return torch.baddbmm(products, query, key.transpose(1, 2), beta=0, alpha=factor, out=products)


def _in_range(sums: torch.Tensor) -> bool:
    least, largest = torch.aminmax(sums)
    return least.item() > _LEAST_SUM and largest.item() < _LARGEST_SUM
