"""Attention by its formula, one query at a time."""

from __future__ import annotations

import math

import torch

__all__ = ["expected_attention"]


def expected_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, causal: bool, window: int | None, cap: float | None
) -> torch.Tensor:
    """One pair, one head at a time: softmax(cap(q k / sqrt d)) v over the visible positions."""
    heads, length, size = query.shape
    group = heads // key.shape[0]
    output = torch.zeros_like(query)
    for head in range(heads):
        for i in range(length):
            seen = [j for j in range(length) if (j <= i or not causal) and (window is None or abs(i - j) < window)]
            products = key[head // group, seen] @ query[head, i] / math.sqrt(size)
            if cap is not None:
                products = cap * torch.tanh(products / cap)
            output[head, i] = products.softmax(0) @ value[head // group, seen]
    return output
