"""Attention of each pair's first token alone, without keys and values of the others.

A head of a last layer is asked one question for a pair. The product of its query and a key, q (K x),
is the product of (q K) and x, and a weighted mean of values, w (x V), is (w x) V: the weights of keys
and values can be multiplied with one row of a pair in place of all. What a layer computes for a token
is then a product with as many rows as it has heads, not with as many as the model is wide.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from flag_rerank_integrations.attention import AttentionRule
from flag_rerank_integrations.packing import PackedLayout

__all__ = ["attend_from_first"]


def attend_from_first(
    query: torch.Tensor, hidden: torch.Tensor, key_value: torch.nn.Linear, layout: PackedLayout, rule: AttentionRule
) -> torch.Tensor:
    """Attend from one token of each pair to all tokens of its pair.

    The bias of the keys adds the same to all products of a query, so it has no part in the weights.

    Args:
        query: Shape (pairs, heads, head size).
        hidden: What keys and values would be made from, shape (tokens, width).
        key_value: Makes both, the keys first.
        layout: Where the pairs lie; none shares its beginning.
        rule: Its scaling is used.

    Returns:
        Outputs of shape (pairs, heads * head size).
    """
    layout.calls += 1
    pairs, heads, size = query.shape
    key, value = key_value.weight.view(2, heads, size, -1)
    scaling = size**-0.5 if rule.scaling is None else rule.scaling
    asked = torch.bmm(query.transpose(0, 1) * scaling, key).transpose(0, 1).contiguous()
    means = torch.empty_like(asked)
    for pair, (start, end) in enumerate(pairwise(layout.starts)):
        seen = hidden[start:end]
        torch.mm(torch.mm(asked[pair], seen.t()).softmax(-1), seen, out=means[pair])
    outputs = torch.bmm(means.transpose(0, 1), value.transpose(1, 2)).transpose(0, 1).reshape(pairs, heads * size)
    return outputs if key_value.bias is None else outputs.add_(key_value.bias[heads * size :])
