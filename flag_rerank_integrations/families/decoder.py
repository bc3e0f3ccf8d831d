"""A decoder over pairs that lie end to end: the parts, named as checkpoints name them.

Plain modules of this package, run layer by layer: a caller may stop after any layer, read the
hidden states, drop pairs, shorten them and go on. There are no buffers: whatever is not a weight
(rotations, scales) is computed from config.json, so that building on the meta device and filling in
weights leaves nothing uninitialised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flag_rerank_integrations.attention import AttentionRule, attend, attend_once
from flag_rerank_integrations.packing import PackedLayout, packed

__all__ = ["ACTIVATIONS", "Attention", "Decoder", "Feedforward", "Norm", "Place", "Shape"]

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": functional.silu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
}

_Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each of shape (tokens, 1, head size / 2), in float32."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer is run: which pairs lie before it, and of which tokens its output is wanted."""

    layout: PackedLayout
    rotation: _Rotation
    last: Tensor | None = None
    """The pairs' last tokens, where nothing but their output is wanted."""

    def kept(self, tokens: Tensor) -> Tensor:
        """Return what belongs to the tokens whose output is wanted, of one row for each token."""
        return tokens if self.last is None else tokens.index_select(0, self.last)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a decoder is made of; sizes are numbers of features."""

    vocabulary: int
    size: int
    inner_size: int
    heads: int
    key_heads: int
    """Each serves heads / key_heads query heads."""
    head_size: int
    windows: tuple[int | None, ...]
    """For each layer, how far a token looks back; None is to the start."""
    activation: str
    norm_eps: float
    rope_theta: float
    embedding_scale: float
    attention_scale: float
    """Factor of the dot products."""
    attention_bias: bool = False
    softcap: float | None = None
    """Dot products x become softcap * tanh(x / softcap)."""
    norm_offset: float = 0.0
    """What is added to the weights of norms: Gemma stores them minus one."""
    residual_scale: float = 1.0
    """Factor of what a layer adds to its input."""


class Norm(nn.Module):
    """Root-mean-square norm, in float32."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.empty(shape.size))
        self._eps, self._offset = shape.norm_eps, shape.norm_offset

    def forward(self, hidden: Tensor) -> Tensor:
        """Norm each token's features."""
        weight = self.weight.float() + self._offset
        return functional.rms_norm(hidden.float(), weight.shape, weight, self._eps).to(hidden.dtype)


class Attention(nn.Module):
    """Causal self-attention within each pair, with rotated positions and shared key heads."""

    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self._head_size = shape.head_size
        self._rule = AttentionRule(causal=True, scaling=shape.attention_scale, window=window, softcap=shape.softcap)
        width, key_width = shape.heads * shape.head_size, shape.key_heads * shape.head_size
        self.q_proj: nn.Linear = nn.Linear(shape.size, width, bias=shape.attention_bias)
        self.k_proj: nn.Linear = nn.Linear(shape.size, key_width, bias=shape.attention_bias)
        self.v_proj: nn.Linear = nn.Linear(shape.size, key_width, bias=shape.attention_bias)
        self.o_proj: nn.Linear = nn.Linear(width, shape.size, bias=shape.attention_bias)

    def forward(self, hidden: Tensor, place: Place) -> Tensor:
        """Attend; `hidden` is (tokens, size), and there is a row of output for each that is wanted."""
        query = self._heads(self.q_proj, place.kept(hidden))
        key, value = self._heads(self.k_proj, hidden), self._heads(self.v_proj, hidden)
        cosines, sines = place.rotation
        query, key = _rotated(query, place.kept(cosines), place.kept(sines)), _rotated(key, cosines, sines)
        of_all_or_last = attend if place.last is None else attend_once
        output: Tensor = self.o_proj(of_all_or_last(query, key, value, place.layout, self._rule))
        return output

    def _heads(self, projection: nn.Module, hidden: Tensor) -> Tensor:
        """Project (rows, size) to (rows, heads, head size)."""
        heads: Tensor = projection(hidden).view(len(hidden), -1, self._head_size)
        return heads


class Feedforward(nn.Module):
    """The gated feed-forward part of a layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj: nn.Linear = nn.Linear(shape.size, shape.inner_size, bias=False)
        self.up_proj: nn.Linear = nn.Linear(shape.size, shape.inner_size, bias=False)
        self.down_proj: nn.Linear = nn.Linear(shape.inner_size, shape.size, bias=False)
        self._activation = ACTIVATIONS[shape.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """Map each token's features."""
        output: Tensor = self.down_proj(self._activation(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Decoder(nn.Module):
    """Embeddings, as many layers as are needed, and the norm in front of the heads.

    Args:
        shape: What it is made of.
        make_layer: Makes one layer, which maps (hidden, place) to hidden.
        depth: How many layers, counted from the first.
    """

    def __init__(self, shape: Shape, make_layer: Callable[[Shape, int | None], nn.Module], depth: int) -> None:
        super().__init__()
        self.embed_tokens: nn.Embedding = nn.Embedding(shape.vocabulary, shape.size)
        self.layers: nn.ModuleList = nn.ModuleList(make_layer(shape, window) for window in shape.windows[:depth])
        self.norm: Norm = Norm(shape)
        self._scale = shape.embedding_scale
        self._rotations = _Rotations(shape.head_size, shape.rope_theta)

    def embed(self, ids: Tensor) -> Tensor:
        """Map token ids of shape (tokens,) to (tokens, size)."""
        embedded: Tensor = self.embed_tokens(ids)
        # The factor in the weights' own data type, as the models were trained: for Gemma it is not whole.
        return embedded * torch.tensor(self._scale, dtype=embedded.dtype)

    def run(self, hidden: Tensor, lengths: Sequence[int], layers: range, *, to_last: bool = False) -> Tensor:
        """Run some layers over pairs of these lengths, which lie end to end.

        Args:
            hidden: Shape (tokens, size).
            lengths: Of each pair.
            layers: Their numbers, from 0; at least one where `to_last` is set.
            to_last: Whether only the pairs' last tokens are wanted: of the others the last of the layers
                then computes nothing but keys and values.

        Returns:
            Shape (tokens, size), or (pairs, size).
        """
        if not layers:
            return hidden
        with packed(lengths) as layout:
            place = Place(layout, self._rotations.of(lengths, hidden.device))
            for index in layers:
                if to_last and index == layers[-1]:
                    place = replace(place, last=layout.last_tokens(hidden.device))
                hidden = self.layers[index](hidden, place)
        return hidden


class _Rotations:
    """Rotary position embeddings of one head size, as a table that grows as it is needed."""

    def __init__(self, head_size: int, theta: float) -> None:
        self._frequencies = theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
        self._table: _Rotation | None = None

    def of(self, lengths: Sequence[int], device: torch.device) -> _Rotation:
        """Return the rotations of pairs that lie end to end, each counted from position 0."""
        longest = max(lengths)
        if self._table is None or len(self._table[0]) < longest or self._table[0].device != device:
            # In float64 on the CPU, whatever the device knows; a float32 product of large positions is off by 1e-4.
            positions = np.arange(1 << (longest - 1).bit_length())
            angles = torch.from_numpy(np.outer(positions, self._frequencies)).unsqueeze(1)
            self._table = (angles.cos().float().to(device), angles.sin().float().to(device))
        places = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])).to(device)
        cosines, sines = self._table
        return cosines.index_select(0, places), sines.index_select(0, places)


def _rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate (rows, heads, head size) by each row's position, in float32; halves are the two coordinates."""
    first, second = heads.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    return rotated.to(heads.dtype)
