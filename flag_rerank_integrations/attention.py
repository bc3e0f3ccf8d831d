"""Padding-free attention: many pairs end to end in one flat sequence, none seeing another.

Registered once with transformers' public `AttentionInterface`. A model that is switched to
it runs its linear layers over real tokens only; attention runs pair by pair, where pairs of
equal length that lie side by side share one call, and on CUDA in one call for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from flag_rerank_integrations.packing import PackedLayout, current_layout, packed

__all__ = ["PACKED", "AttentionRule", "PackedLayout", "attend", "attend_once", "current_layout", "packed"]

PACKED: Final = "flag_rerank_packed"


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """Who sees whom within a pair, and how products become weights."""

    causal: bool = False
    """Whether a token sees only those before it and itself."""
    scaling: float | None = None
    """Factor of the dot products; None is 1 / sqrt(head size)."""
    window: int | None = None
    """A token sees those less than this many tokens away; None is no window."""
    softcap: float | None = None
    """Dot products x become softcap * tanh(x / softcap), as in Gemma 2."""

    def within(self, length: int) -> AttentionRule:
        """Drop a window that pairs of this length never reach."""
        if self.window is None or self.window < length:
            return self
        return AttentionRule(self.causal, self.scaling, None, self.softcap)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, rule: AttentionRule
) -> torch.Tensor:
    """Attend within each pair of a flat sequence.

    Args:
        query: Shape (tokens, heads, head size).
        key: Shape (tokens, key heads, head size); each key head serves heads / key heads queries.
        value: Like `key`.
        layout: Where the pairs lie.
        rule: Who sees whom.

    Returns:
        Outputs of shape (tokens, heads * head size).
    """
    layout.calls += 1
    if _has_varlen(query, rule):
        return _varlen(query, key, value, layout, layout.starts_on(query.device), layout.longest, rule)
    outputs = []
    for (first, count, length), head in zip(layout.runs, layout.run_heads, strict=True):
        run = slice(first, first + count * length)
        keys, values = (_seen(tensor, run, count, head) for tensor in (key, value))
        outputs.append(_attend_run(_split(query[run], count), keys, values, rule.within(keys.shape[2])))
    return _joined(outputs)


def attend_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    rule: AttentionRule,
) -> torch.Tensor:
    """Attend from one token of each pair: with a causal rule its last one, else its first.

    Args:
        query: Shape (pairs, heads, head size).
        key: Shape (tokens, key heads, head size).
        value: Like `key`.
        layout: Where the pairs lie.
        rule: Who sees whom.

    Returns:
        Outputs of shape (pairs, heads * head size).
    """
    layout.calls += 1
    pairs = len(query)
    if _has_varlen(query, rule) and len(layout.lengths) == pairs and (rule.causal or rule.window is None):
        each = torch.arange(pairs + 1, dtype=torch.int32, device=query.device)
        return _varlen(query, key, value, layout, each, 1, rule)
    outputs, pair, segment = [], 0, 0
    for (first, count, length), head in zip(layout.runs, layout.run_heads, strict=True):
        segment += count
        if segment - count not in layout.answering:
            continue
        run = slice(first, first + count * length)
        keys, values = (_seen(tensor, run, count, head) for tensor in (key, value))
        if rule.window is not None and rule.window < keys.shape[2]:
            seen = slice(-rule.window, None) if rule.causal else slice(None, rule.window)
            keys, values = keys[:, :, seen], values[:, :, seen]
        queries = _split(query[pair : pair + count], count)
        # What the one token may not see is cut away: nothing is left to mask.
        outputs.append(_attend_run(queries, keys, values, AttentionRule(scaling=rule.scaling, softcap=rule.softcap)))
        pair += count
    return _joined(outputs)


def _seen(tensor: torch.Tensor, run: slice, count: int, head: tuple[int, int] | None) -> torch.Tensor:
    """Return the keys or values that each segment of a run sees, (count, heads, length, size)."""
    own = _split(tensor[run], count)
    if head is None:
        return own
    shared = _split(tensor[head[0] : sum(head)], 1).expand(count, -1, -1, -1)
    return torch.cat([shared, own], dim=2)


def packed_attention(  # noqa: PLR0913 - the signature transformers calls
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,  # noqa: ANN401 - transformers passes each model's own
) -> tuple[torch.Tensor, None]:
    """Attend within each pair, as transformers calls it; see `AttentionRule` for the options.

    Args:
        module: The attention layer; its `is_causal` decides where the argument is None.
        query: Shape (1, heads, tokens, head size).
        key: Shape (1, key heads, tokens, head size).
        value: Like `key`.
        attention_mask: Must be None: who sees whom follows from the layout.
        scaling: See `AttentionRule`.
        is_causal: See `AttentionRule`.
        sliding_window: See `AttentionRule`.
        softcap: See `AttentionRule`.
        **options: What the model passes besides; none of it may change attention.

    Returns:
        Outputs of shape (1, tokens, heads, head size), and None for the weights.

    Raises:
        RuntimeError: No layout is set, or something is asked for that would change attention
            and is not done here. The self-check at load takes this for "not packable".
    """
    layout = current_layout()
    if layout is None or attention_mask is not None or query.shape[2] != layout.starts[-1]:
        msg = "Packed attention needs a layout that covers the sequence, and no mask."
        raise RuntimeError(msg)
    _refuse_options(options)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    rule = AttentionRule(causal, scaling, sliding_window, softcap)
    flat_query, flat_key, flat_value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    output = attend(flat_query, flat_key, flat_value, layout, rule)
    return output.view(1, query.shape[2], query.shape[1], value.shape[3]), None


# What models pass along that does not change what attention computes.
_HARMLESS: Final = frozenset(
    {"dropout", "position_ids", "output_attentions", "output_hidden_states", "use_cache", "deterministic"}
)


def _refuse_options(options: dict[str, Any]) -> None:
    """Refuse anything unknown that is set, such as a position bias or attention sinks."""
    unknown = [name for name, value in options.items() if name not in _HARMLESS and value is not None]
    unknown = [name for name in unknown if not name.startswith(("cu_seq_lens", "max_length", "return_", "cache_"))]
    if unknown or options.get("dropout"):
        msg = f"Packed attention does not know: {', '.join(unknown) or 'dropout'}."
        raise RuntimeError(msg)


def _split(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """View one run of (tokens, heads, size) as (count, heads, length, size)."""
    return tensor.view(count, len(tensor) // count, *tensor.shape[1:]).transpose(1, 2)


def _joined(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Lay runs of (count, heads, length, size) end to end as (tokens, heads * size)."""
    flat = [output.transpose(1, 2).flatten(2).flatten(0, 1) for output in outputs]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _attend_run(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: AttentionRule) -> torch.Tensor:
    """Attend within pairs of equal length; all tensors are (pairs, heads, length, size)."""
    if rule.softcap is not None:
        return _attend_softcapped(query, key, value, rule, rule.softcap)
    length, seen = query.shape[2], key.shape[2]
    plain = rule.window is None and (length == seen or not rule.causal)
    mask = None if plain else _visible(length, seen, rule, query.device)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=rule.causal and mask is None and length > 1,
        scale=rule.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_softcapped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: AttentionRule, softcap: float
) -> torch.Tensor:
    """Attend with capped dot products, which no fused kernel of torch offers."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    products = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if rule.scaling is None else rule.scaling)
    products = softcap * torch.tanh(products / softcap)
    if rule.causal or rule.window is not None:
        products = products.masked_fill(~_visible(query.shape[2], key.shape[2], rule, query.device), float("-inf"))
    return products.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def _visible(length: int, seen: int, rule: AttentionRule, device: torch.device) -> torch.Tensor:
    """Return which of the last `length` tokens sees which of all `seen`, shape (length, seen)."""
    positions = torch.arange(seen, device=device)
    distance = positions[seen - length :, None] - positions[None, :]
    visible = distance >= 0 if rule.causal else torch.ones_like(distance, dtype=torch.bool)
    return visible if rule.window is None else visible & (distance.abs() < rule.window)


# FlashAttention-2, which torch carries, has kernels up to this head size, from this generation on.
_LARGEST_VARLEN_HEAD: Final = 256
_VARLEN_CAPABILITY: Final = (8, 0)


def _has_varlen(query: torch.Tensor, rule: AttentionRule) -> bool:
    """Tell whether torch's kernel for sequences of several lengths can do this call."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or rule.softcap is not None:
        return False
    return query.shape[-1] <= _LARGEST_VARLEN_HEAD and _device_has_varlen(query.device)


@cache
def _device_has_varlen(device: torch.device) -> bool:
    """Tell whether this torch has the kernel with the options we need, and the device can run it."""
    return {"scale", "window_size"} <= _varlen_options() and torch.cuda.get_device_capability(
        device
    ) >= _VARLEN_CAPABILITY


@cache
def _varlen_options() -> frozenset[str]:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(signature(varlen_attn).parameters)


def _varlen(  # noqa: PLR0913, PLR0917 - the parameters of one attention call
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    starts: torch.Tensor,
    longest: int,
    rule: AttentionRule,
) -> torch.Tensor:
    """Attend within all pairs in one call of `torch.nn.attention.varlen.varlen_attn`.

    Where queries are fewer than keys the kernel lines up their ends, as a shared head needs it.
    """
    from torch.nn.attention.varlen import varlen_attn

    if layout.shares:
        key, value = (tensor.index_select(0, layout.seen_on(key.device)) for tensor in (key, value))
    side = -1 if rule.window is None else rule.window - 1
    options: dict[str, Any] = {"scale": rule.scaling, "window_size": (side, 0 if rule.causal else side)}
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1 and "enable_gqa" in _varlen_options():
        options["enable_gqa"] = True
    elif repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    seen_starts = layout.seen_starts_on(key.device)
    output = varlen_attn(query, key, value, starts, seen_starts, longest, max(layout.seen_lengths), **options)
    assert isinstance(output, torch.Tensor)  # noqa: S101 - nothing but the output was asked for
    return output.flatten(1)


# No mask function is registered under this name: transformers then makes no mask at all.
AttentionInterface.register(PACKED, packed_attention)
