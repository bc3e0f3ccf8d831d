"""Attention of decoders on CPUs: plain products and a softmax over what a block of tokens sees.

torch's fused kernel walks through every head alone. Where query heads share a key head their
rows are one matrix here, and a block of tokens is not multiplied with those behind it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch

from flag_rerank_integrations.attention import AttentionRule
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import PackedLayout

__all__ = ["attend_behind"]

_BLOCK: Final = 128
_KEPT_MASKS: Final = 64


def attend_behind(  # noqa: PLR0913, PLR0917 - the parameters of one attention call, and where it computes
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    rule: AttentionRule,
    space: Workspace,
) -> torch.Tensor:
    """Attend within each pair of a flat sequence; every token sees itself and what lies before it.

    Args:
        query: Shape (key heads, tokens, heads / key heads, head size).
        key: Shape (key heads, tokens, head size).
        value: Like `key`.
        layout: Where the pairs lie.
        rule: Causal.
        space: Where to compute.

    Returns:
        Outputs of shape (tokens, heads * head size), in the workspace.
    """
    layout.calls += 1
    groups, tokens, repeats, size = query.shape
    outputs = space.take("attended", (tokens, groups, repeats, size), query)
    for start, length, head in zip(layout.starts, layout.lengths, layout.heads, strict=False):
        own = slice(start, start + length)
        keys, values = key[:, own], value[:, own]
        if head is not None:
            keys = torch.cat([key[:, head[0] : sum(head)], keys], dim=1)
            values = torch.cat([value[:, head[0] : sum(head)], values], dim=1)
        for first in range(start, start + length, _BLOCK):
            block = slice(first, min(first + _BLOCK, start + length))
            seen = block.stop - start + keys.shape[1] - length
            _attend_block(query[:, block], keys[:, :seen], values[:, :seen], outputs[block], rule, space)
    return outputs.view(tokens, -1)


def _attend_block(  # noqa: PLR0913, PLR0917 - as above
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    place: torch.Tensor,
    rule: AttentionRule,
    space: Workspace,
) -> None:
    """Attend from some tokens, the last of those seen, to all seen.

    Args:
        query: Shape (key heads, rows, repeats, head size).
        key: Shape (key heads, seen, head size).
        value: Like `key`.
        place: Where the outputs belong, shape (rows, key heads, repeats, head size).
        rule: See `AttentionRule`.
        space: Where to compute.
    """
    groups, rows, repeats, size = query.shape
    seen = key.shape[1]
    scaling = size**-0.5 if rule.scaling is None else rule.scaling
    weights = space.take("weights", (groups, rows * repeats, seen), query)
    queries = query.reshape(groups, rows * repeats, size)
    torch.baddbmm(weights, queries, key.transpose(1, 2), beta=0, alpha=scaling, out=weights)
    if rule.softcap is not None:
        weights.div_(rule.softcap).tanh_().mul_(rule.softcap)
    windowed = rule.window is not None and rule.window < seen
    mask = _hidden(rows, seen, rule.window) if windowed else _hidden(rows, rows, None)
    weights.view(groups, rows, repeats, seen)[..., seen - mask.shape[1] :].add_(mask[:, None])
    torch.softmax(weights, -1, out=weights)
    attended = space.take("attended block", (groups, rows * repeats, size), query)
    torch.bmm(weights, value, out=attended)
    place.copy_(attended.view(groups, rows, repeats, size).transpose(0, 1))


@lru_cache(_KEPT_MASKS)
def _hidden(rows: int, seen: int, window: int | None) -> torch.Tensor:
    """Return what is added to the products of the last tokens with all seen: -inf for those not to be seen."""
    with torch.inference_mode(mode=False):
        distance = torch.arange(seen - rows, seen)[:, None] - torch.arange(seen)
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        return torch.zeros(rows, seen).masked_fill_(hidden, float("-inf"))
