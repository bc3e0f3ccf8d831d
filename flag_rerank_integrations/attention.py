"""Padding-free attention: many pairs end to end in one flat sequence, none seeing another.

Registered once with transformers' public `AttentionInterface`. A model that is switched to
it runs its linear layers over real tokens only; attention runs pair by pair, where pairs of
equal length that lie side by side share one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

__all__ = ["PACKED", "PackedLayout", "current_layout", "packed"]

PACKED: Final = "flag_rerank_packed"


@dataclass(slots=True)
class PackedLayout:
    """Where each pair lies in the flat sequence."""

    lengths: tuple[int, ...]
    """Tokens of each pair, in order."""
    starts: tuple[int, ...]
    """Index of each pair's first token; one entry more than pairs, the last is the total."""
    runs: tuple[tuple[int, int, int], ...]
    """Neighbours of equal length: (first token, how many pairs, length of each)."""
    calls: int = 0
    """Attention calls so far: none in a forward pass means that the model ignores this function."""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> PackedLayout:
        """Lay pairs of these lengths end to end."""
        starts = (0, *accumulate(lengths))
        runs: list[tuple[int, int, int]] = []
        first = 0
        for length, group in groupby(lengths):
            count = sum(1 for _ in group)
            runs.append((first, count, length))
            first += count * length
        return cls(tuple(lengths), starts, tuple(runs))


_layout: ContextVar[PackedLayout | None] = ContextVar("packed_layout", default=None)


def current_layout() -> PackedLayout | None:
    """Return the layout of the packed forward pass that runs in this thread, if any."""
    return _layout.get()


@contextmanager
def packed(lengths: Sequence[int]) -> Iterator[PackedLayout]:
    """Tell the attention function, for one forward pass in this thread, where the pairs lie."""
    layout = PackedLayout.of(lengths)
    token = _layout.set(layout)
    try:
        yield layout
    finally:
        _layout.reset(token)


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
    """Attend within each pair of a flat sequence.

    Args:
        module: The attention layer; its `is_causal` decides where the argument is None.
        query: Shape (1, heads, tokens, head size).
        key: Shape (1, key heads, tokens, head size); each serves heads / key heads queries.
        value: Like `key`.
        attention_mask: Must be None: who sees whom follows from the layout.
        scaling: Factor of the dot products; None is 1 / sqrt(head size).
        is_causal: Whether a token sees only those before it.
        sliding_window: A token sees those less than this many tokens away; None is no window.
        softcap: Dot products x become softcap * tanh(x / softcap), as in Gemma 2.
        **options: What the model passes besides; none of it may change attention.

    Returns:
        Outputs of shape (1, tokens, heads, head size), and None for the weights.

    Raises:
        RuntimeError: No layout is set, or something is asked for that would change attention
            and is not done here. The self-check at load takes this for "not packable".
    """
    layout = _layout.get()
    if layout is None or attention_mask is not None or query.shape[2] != layout.starts[-1]:
        msg = "Packed attention needs a layout that covers the sequence, and no mask."
        raise RuntimeError(msg)
    _refuse_options(options)
    layout.calls += 1
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    output = torch.empty_like(query)
    for first, count, length in layout.runs:
        window = None if sliding_window is None or sliding_window >= length else sliding_window
        run = slice(first, first + count * length)
        parts = [_split(tensor, run, count, length) for tensor in (query, key, value)]
        attended = _attend(*parts, scaling=scaling, causal=causal, window=window, softcap=softcap)
        _split(output, run, count, length).copy_(attended)
    return output.transpose(1, 2), None


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


def _split(tensor: torch.Tensor, run: slice, count: int, length: int) -> torch.Tensor:
    """View one run of (1, heads, tokens, size) as (count, heads, length, size)."""
    heads = tensor[0, :, run]
    return heads.view(heads.shape[0], count, length, heads.shape[2]).transpose(0, 1)


def _attend(  # noqa: PLR0913 - the parameters of one attention call
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float | None,
    causal: bool,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attend within pairs of equal length; all tensors are (pairs, heads, length, size)."""
    if softcap is not None:
        return _attend_softcapped(query, key, value, scaling=scaling, causal=causal, window=window, softcap=softcap)
    mask = None if window is None else _visible(query.shape[2], causal=causal, window=window, device=query.device)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal and mask is None and query.shape[2] > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_softcapped(  # noqa: PLR0913 - the parameters of one attention call
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float | None,
    causal: bool,
    window: int | None,
    softcap: float,
) -> torch.Tensor:
    """Attend with capped dot products, which no fused kernel of torch offers."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    products = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    products = softcap * torch.tanh(products / softcap)
    visible = _visible(query.shape[2], causal=causal, window=window, device=query.device)
    weights = products.masked_fill(~visible, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


def _visible(length: int, *, causal: bool, window: int | None, device: torch.device) -> torch.Tensor:
    """Return which token sees which, shape (length, length)."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions[None, :]
    visible = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return visible if window is None else visible & (distance.abs() < window)


# No mask function is registered under this name: transformers then makes no mask at all.
AttentionInterface.register(PACKED, packed_attention)
