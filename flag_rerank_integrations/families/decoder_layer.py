"""The layers of Llama and its kin, run on one flat sequence of pairs on a CPU with less work.

The same weights and the same formulas as transformers' own layers (Llama, Mistral, Qwen, Gemma,
Gemma 2 and their like), with one product for query, key and value, sums made where they belong,
and all layers in the same memory. The family compares scores with those of the model's own layers
before it uses these.
"""

from __future__ import annotations

from typing import Any

import torch

from flag_rerank_integrations.families.activations import in_place
from flag_rerank_integrations.families.causal_attention import attend_behind
from flag_rerank_integrations.families.last_token_layer import causal_rule
from flag_rerank_integrations.families.linear_layers import merged, multiply
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import current_layout

__all__ = ["DecoderLayer"]


class DecoderLayer(torch.nn.Module):
    """Stands in for one decoder layer, whose weights it shares.

    Args:
        layer: The module it stands in for.
        space: Where it computes, as all layers of the model do.

    Raises:
        AttributeError: The layer is of another build.
    """

    def __init__(self, layer: Any, space: Workspace) -> None:  # noqa: ANN401 - transformers' layers share no typed base
        super().__init__()
        self._space = space
        attention, feedforward = layer.self_attn, layer.mlp
        self._rule = causal_rule(attention)
        self._head_size = attention.head_dim
        self._key_heads = attention.k_proj.out_features // attention.head_dim
        self.query_key_value: torch.nn.Linear = merged(attention.q_proj, attention.k_proj, attention.v_proj)
        self._query_norm, self._key_norm = (_norm_like(getattr(attention, name, None)) for name in ("q_norm", "k_norm"))
        self.project: torch.nn.Module = attention.o_proj
        self.gate: torch.nn.Module = feedforward.gate_proj
        self.up: torch.nn.Module = feedforward.up_proj
        self.down: torch.nn.Module = feedforward.down_proj
        self._activate = in_place(feedforward.act_fn, space)
        self._before = _Norm(layer.input_layernorm)
        between = _Norm(layer.post_attention_layernorm)
        # Gemma 2 and later put a norm before and behind each part, the others only before.
        before_feedforward = _norm_like(getattr(layer, "pre_feedforward_layernorm", None))
        self._behind = None if before_feedforward is None else between
        self._before_feedforward = before_feedforward or between
        self._behind_feedforward = _norm_like(getattr(layer, "post_feedforward_layernorm", None))

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_options: Any,  # noqa: ANN401 - as transformers calls it
    ) -> torch.Tensor:
        """Map hidden states of shape (1, tokens, size), in place."""
        layout = current_layout()
        assert layout is not None  # noqa: S101 - set by the family around every call
        hidden, space = hidden_states[0], self._space
        query, key, value = self._projected(self._before(hidden, space), position_embeddings)
        attended = attend_behind(query, key, value, layout, self._rule, space)
        self._add(hidden, attended, self.project, self._behind)
        normed = self._before_feedforward(hidden, space)
        inner = self._activate(multiply(normed, self.gate, space, "gate"))
        inner.mul_(multiply(normed, self.up, space, "up"))
        self._add(hidden, inner, self.down, self._behind_feedforward)
        return hidden_states

    def _projected(
        self, normed: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rotated queries and keys, and values, with heads in front; see `attend_behind`."""
        tokens, groups, size = len(normed), self._key_heads, self._head_size
        projected = multiply(normed, self.query_key_value, self._space, "projected").view(tokens, -1, size)
        query, key, value = torch.split(projected, [projected.shape[1] - 2 * groups, groups, groups], dim=1)
        if self._query_norm is not None and self._key_norm is not None:
            self._query_norm.apply(query)
            self._key_norm.apply(key)
        cosines, sines = (angles[0, :, None, : size // 2] for angles in rotation)
        queries = self._space.take("query", (groups, tokens, query.shape[1] // groups, size), query)
        _rotate(query.view(tokens, groups, -1, size), cosines[:, None], sines[:, None], queries.transpose(0, 1))
        keys = self._space.take("key", (groups, tokens, size), key)
        _rotate(key, cosines, sines, keys.transpose(0, 1))
        return queries, keys, value.transpose(0, 1)

    def _add(self, hidden: torch.Tensor, inputs: torch.Tensor, layer: torch.nn.Module, norm: _Norm | None) -> None:
        """Add a layer's output, normed where the model does, to the hidden states."""
        if norm is None and type(layer) is torch.nn.Linear:
            if layer.bias is not None:
                hidden.add_(layer.bias)
            hidden.addmm_(inputs, layer.weight.t())
            return
        output = multiply(inputs, layer, self._space, "output")
        hidden.add_(output if norm is None else norm.apply(output))


class _Norm:
    """A root-mean-square norm.

    Args:
        module: The one whose weights and constants it takes.
    """

    def __init__(self, module: Any) -> None:  # noqa: ANN401 - as above
        self._eps: float = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        weight = module.weight.detach()
        # What ones become tells whether the weight is stored minus one, as Gemma's is.
        with torch.no_grad():
            offset = (module(torch.ones_like(weight)) * (1 + self._eps) ** 0.5 - weight).mean().round()
        self._weight = weight + offset

    def __call__(self, rows: torch.Tensor, space: Workspace) -> torch.Tensor:
        """Return normed rows in a workspace."""
        place = space.take("normed", tuple(rows.shape), rows)
        return torch.mul(rows, self._factors(rows), out=place).mul_(self._weight)

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Norm rows of shape (..., features) in place."""
        return rows.mul_(self._factors(rows)).mul_(self._weight)

    def _factors(self, rows: torch.Tensor) -> torch.Tensor:
        lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return lengths.square_().div_(rows.shape[-1]).add_(self._eps).rsqrt_()


def _norm_like(module: Any) -> _Norm | None:  # noqa: ANN401 - as above
    return None if module is None else _Norm(module)


def _rotate(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, place: torch.Tensor) -> None:
    """Rotate (tokens, ..., head size) by each token's position into a place; halves are the two coordinates."""
    first, second = heads.chunk(2, dim=-1)
    rotated_first, rotated_second = place.chunk(2, dim=-1)
    torch.mul(first, cosines, out=rotated_first).addcmul_(second, sines, value=-1)
    torch.mul(second, cosines, out=rotated_second).addcmul_(first, sines)
