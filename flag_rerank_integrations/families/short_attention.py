"""Attention of encoders on CPUs: plain products and a softmax, faster there than the fused kernel.

torch's fused kernel for CPUs walks through short sequences in small blocks and reaches a quarter
of the rate of matrix products. Pairs of usual length are done here by two batched products for
all heads; the tiniest and the longest ones stay with the kernel.
"""

from __future__ import annotations

from typing import Final

import torch
from torch.nn.functional import scaled_dot_product_attention

from flag_rerank_integrations.attention import AttentionRule, attend
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import PackedLayout

__all__ = ["attend_all"]

# Where the products were faster, for heads of 32 and of 64 (docs/decisions/own-layers.md).
_LENGTHS: Final = range(24, 449)


def attend_all(  # noqa: PLR0913, PLR0917 - the parameters of one attention call, and where it computes
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    rule: AttentionRule,
    workspace: Workspace,
) -> torch.Tensor:
    """Attend within each pair of a flat sequence; every token sees its whole pair.

    Args:
        query: Shape (tokens, heads, head size); overwritten.
        key: Likewise, not overwritten.
        value: Like `key`.
        layout: Where the pairs lie; none shares its beginning.
        rule: Its scaling is used.
        workspace: Where to compute.

    Returns:
        Outputs of shape (tokens, heads * head size), in the workspace.
    """
    if query.device.type != "cpu" or query.dtype != torch.float32 or layout.shares:
        return attend(query, key, value, layout, rule)
    layout.calls += 1
    tokens, heads, size = query.shape
    outputs = workspace.take("attended", (tokens, heads, size), query)
    query.mul_(size**-0.5 if rule.scaling is None else rule.scaling)
    for first, count, length in layout.runs:
        if length not in _LENGTHS:
            run = slice(first, first + count * length)
            _attend_run(query[run], key[run], value[run], outputs[run], count)
            continue
        for start in range(first, first + count * length, length):
            pair = slice(start, start + length)
            _attend_pair(query[pair], key[pair], value[pair], outputs[pair], workspace)
    return outputs.view(tokens, heads * size)


def _attend_run(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, place: torch.Tensor, count: int) -> None:
    """Attend within each of so many pairs of equal length; all tensors are (tokens, heads, head size)."""
    query, key, value, place = (
        tensor.view(count, -1, *tensor.shape[1:]).transpose(1, 2) for tensor in (query, key, value, place)
    )
    place.copy_(scaled_dot_product_attention(query, key, value, scale=1.0))


def _attend_pair(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, place: torch.Tensor, workspace: Workspace
) -> None:
    """Attend within one pair; all tensors are (length, heads, head size)."""
    length, heads, size = query.shape
    weights = workspace.take("weights", (heads, length, length), query)
    torch.bmm(query.transpose(0, 1), key.permute(1, 2, 0), out=weights)
    torch.softmax(weights, -1, out=weights)
    attended = workspace.take("attended pair", (heads, length, size), query)
    torch.bmm(weights, value.transpose(0, 1), out=attended)
    place.copy_(attended.transpose(0, 1))
