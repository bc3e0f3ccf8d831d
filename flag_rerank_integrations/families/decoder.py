"""A decoder over pairs that lie end to end: the parts, named as checkpoints name them.

Plain modules of this package, run layer by layer: a caller may stop after any layer, read the
hidden states, drop pairs, shorten them and go on. There are no buffers: whatever is not a weight
(rotations, scales) is computed from config.json, so that building on the meta device and filling in
weights leaves nothing uninitialised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flag_rerank_integrations.attention import packed, packed_attention

__all__ = ["ACTIVATIONS", "Attention", "Decoder", "Feedforward", "Norm", "Rotation", "Shape"]

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": functional.silu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
}

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each of shape (tokens, 1, head size / 2), in float32."""


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
        self.weight = nn.Parameter(torch.empty(shape.size))
        self._eps, self._offset = shape.norm_eps, shape.norm_offset

    def forward(self, hidden: Tensor) -> Tensor:
        """Norm each token's features."""
        weight = self.weight.float() + self._offset
        return functional.rms_norm(hidden.float(), weight.shape, weight, self._eps).to(hidden.dtype)


class Attention(nn.Module):
    """Causal self-attention within each pair, with rotated positions and shared key heads."""

    is_causal = True

    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self._head_size, self._scale = shape.head_size, shape.attention_scale
        self._window, self._softcap = window, shape.softcap
        width, key_width = shape.heads * shape.head_size, shape.key_heads * shape.head_size
        self.q_proj = nn.Linear(shape.size, width, bias=shape.attention_bias)
        self.k_proj = nn.Linear(shape.size, key_width, bias=shape.attention_bias)
        self.v_proj = nn.Linear(shape.size, key_width, bias=shape.attention_bias)
        self.o_proj = nn.Linear(width, shape.size, bias=shape.attention_bias)

    def forward(self, hidden: Tensor, rotation: Rotation) -> Tensor:
        """Attend; `hidden` is (tokens, size), the layout that is in force says where pairs end."""
        by_head = (len(hidden), -1, self._head_size)
        query = _rotate(self.q_proj(hidden).view(by_head), rotation)
        key = _rotate(self.k_proj(hidden).view(by_head), rotation)
        value = self.v_proj(hidden).view(by_head)
        attended, _ = packed_attention(
            self,
            query.transpose(0, 1).unsqueeze(0),
            key.transpose(0, 1).unsqueeze(0),
            value.transpose(0, 1).unsqueeze(0),
            None,
            scaling=self._scale,
            is_causal=True,
            sliding_window=self._window,
            softcap=self._softcap,
        )
        output: Tensor = self.o_proj(attended.reshape(len(hidden), -1))
        return output


class Feedforward(nn.Module):
    """The gated feed-forward part of a layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.size, shape.inner_size, bias=False)
        self.up_proj = nn.Linear(shape.size, shape.inner_size, bias=False)
        self.down_proj = nn.Linear(shape.inner_size, shape.size, bias=False)
        self._activation = ACTIVATIONS[shape.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """Map each token's features."""
        output: Tensor = self.down_proj(self._activation(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Decoder(nn.Module):
    """Embeddings, as many layers as are needed, and the norm in front of the heads.

    Args:
        shape: What it is made of.
        make_layer: Makes one layer, which maps (hidden, rotation) to hidden.
        depth: How many layers, counted from the first.
    """

    def __init__(self, shape: Shape, make_layer: Callable[[Shape, int | None], nn.Module], depth: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.size)
        self.layers = nn.ModuleList(make_layer(shape, window) for window in shape.windows[:depth])
        self.norm = Norm(shape)
        self._scale = shape.embedding_scale
        self._rotations = _Rotations(shape.head_size, shape.rope_theta)

    def embed(self, ids: Tensor) -> Tensor:
        """Map token ids of shape (tokens,) to (tokens, size)."""
        embedded: Tensor = self.embed_tokens(ids)
        # The factor in the weights' own data type, as the models were trained: for Gemma it is not whole.
        return embedded * torch.tensor(self._scale, dtype=embedded.dtype)

    def run(self, hidden: Tensor, lengths: Sequence[int], layers: range) -> Tensor:
        """Run some layers over pairs of these lengths, which lie end to end in (tokens, size)."""
        if not layers:
            return hidden
        rotation = self._rotations.of(lengths, hidden.device)
        with packed(lengths):
            for index in layers:
                hidden = self.layers[index](hidden, rotation)
        return hidden


class _Rotations:
    """Rotary position embeddings of one head size, as a table that grows as it is needed."""

    def __init__(self, head_size: int, theta: float) -> None:
        self._frequencies = theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
        self._table: Rotation | None = None

    def of(self, lengths: Sequence[int], device: torch.device) -> Rotation:
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


def _rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Rotate (tokens, heads, head size) by each token's position, in float32; halves are the two coordinates."""
    cosines, sines = rotation
    first, second = heads.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    return rotated.to(heads.dtype)
