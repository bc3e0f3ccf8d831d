"""The layers of BERT and its kin, run on one flat sequence of pairs with less work.

The same weights and the same formulas as transformers' own layers (post-norm: BERT, RoBERTa,
XLM-R, ELECTRA), with four savings: one product makes query, key and value; a residual is what
its product is added to; on a CPU all layers compute in the same memory; and in the last layer,
of which a head reads the first token alone, nothing but keys and values is computed for the
others. The family compares scores with those of the model's own layers before it uses these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import gelu
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from flag_rerank_integrations.attention import AttentionRule, attend_once
from flag_rerank_integrations.families.int8_linear import Int8Linear
from flag_rerank_integrations.families.short_attention import attend_all
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import PackedLayout, current_layout

__all__ = ["EncoderStack"]


class EncoderStack(torch.nn.Module):
    """Stands in for a model's `encoder` module; gives the first token of each pair.

    Args:
        encoder: The module it stands in for, whose weights it shares.

    Raises:
        AttributeError: The encoder is of another build.
    """

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401 - transformers' layers share no typed base
        super().__init__()
        *others, last = encoder.layer
        space = Workspace()
        layers = [_Layer(layer, space) for layer in others]
        self.layers: torch.nn.ModuleList = torch.nn.ModuleList([*layers, _FirstTokenLayer(last, space)])

    def forward(self, hidden_states: torch.Tensor, **_options: Any) -> BaseModelOutputWithPastAndCrossAttentions:  # noqa: ANN401 - as called
        """Map embeddings of shape (1, tokens, size) to hidden states of shape (pairs, 1, size)."""
        layout = current_layout()
        assert layout is not None  # noqa: S101 - set by the family around every call
        hidden = hidden_states[0]
        for layer in self.layers:
            hidden = layer(hidden, layout)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden.unsqueeze(1))


class _Layer(torch.nn.Module):
    """One layer, made of the modules of the one it stands in for."""

    def __init__(self, layer: Any, space: Workspace) -> None:  # noqa: ANN401 - as above
        super().__init__()
        self._space = space
        attention = layer.attention.self
        self._heads = attention.num_attention_heads
        self._rule = AttentionRule(scaling=attention.scaling)
        self._take_projections(attention.query, attention.key, attention.value)
        self.project = layer.attention.output.dense
        self.attention_norm = layer.attention.output.LayerNorm
        self.up = layer.intermediate.dense
        self.activation = layer.intermediate.intermediate_act_fn
        self._is_gelu = getattr(self.activation, "act", None) is gelu
        self.down = layer.output.dense
        self.output_norm = layer.output.LayerNorm

    def _take_projections(self, query: torch.nn.Linear, key: torch.nn.Linear, value: torch.nn.Linear) -> None:
        self.query_key_value = _merged(query, key, value)

    def forward(self, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Map (tokens, size) to (tokens, size)."""
        query, key, value = self._split(self._linear(hidden, self.query_key_value, "projected"), 3)
        return self._finish(hidden, attend_all(query, key, value, layout, self._rule, self._space))

    def _split(self, projected: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """View (rows, parts * size) as parts of (rows, heads, head size)."""
        return projected.view(len(projected), parts, self._heads, -1).unbind(1)

    def _finish(self, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Project what was attended to, then the feed-forward part."""
        hidden = self.attention_norm(self._add_linear(residual, attended, self.project))
        inner = self._activate(self._linear(hidden, self.up, "inner"))
        output: torch.Tensor = self.output_norm(self._add_linear(hidden, inner, self.down))
        return output

    def _linear(self, inputs: torch.Tensor, layer: torch.nn.Module, name: str) -> torch.Tensor:
        """Return layer(inputs), computed in the workspace."""
        output: torch.Tensor
        if isinstance(layer, torch.nn.Linear):
            place = self._space.take(name, (len(inputs), layer.out_features), inputs)
            output = torch.addmm(layer.bias, inputs, layer.weight.t(), out=place)
        elif isinstance(layer, Int8Linear):
            output = layer(inputs, self._space.take(name, (len(inputs), len(layer.scale)), inputs))
        else:
            output = layer(inputs)
        return output

    def _add_linear(self, residual: torch.Tensor, inputs: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
        """Return residual + layer(inputs), with the sum done by the product itself where it can be."""
        if not isinstance(layer, torch.nn.Linear):
            return self._linear(inputs, layer, "sum").add_(residual)
        place = self._space.take("sum", tuple(residual.shape), residual)
        return torch.add(residual, layer.bias, out=place).addmm_(inputs, layer.weight.t())

    def _activate(self, inner: torch.Tensor) -> torch.Tensor:
        """Apply the activation, in place where it is the usual one."""
        activated: torch.Tensor = torch.ops.aten.gelu_(inner) if self._is_gelu else self.activation(inner)
        return activated


class _FirstTokenLayer(_Layer):
    """The last layer: only the first token of each pair asks, all of them answer."""

    def _take_projections(self, query: torch.nn.Linear, key: torch.nn.Linear, value: torch.nn.Linear) -> None:
        self.query = query
        self.key_value = _merged(key, value)

    def forward(self, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Map (tokens, size) to (pairs, size)."""
        first = hidden.index_select(0, layout.first_tokens(hidden.device))
        (query,) = self._split(self.query(first), 1)
        key, value = self._split(self._linear(hidden, self.key_value, "projected"), 2)
        return self._finish(first, attend_once(query, key, value, layout, self._rule))


def _merged(*layers: torch.nn.Linear) -> torch.nn.Linear:
    """Make one layer of several, and let them use its weights too: nothing is in memory twice.

    Raises:
        AttributeError: Their weights are no plain matrices, but quantized.
    """
    if any(type(layer.weight) is not torch.nn.Parameter or not layer.weight.is_floating_point() for layer in layers):
        msg = "These layers have no plain weights."
        raise AttributeError(msg)
    size = layers[0].out_features
    merged = torch.nn.Linear(layers[0].in_features, size * len(layers), device="meta")
    merged.weight = torch.nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
    merged.bias = torch.nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    for number, layer in enumerate(layers):
        rows = slice(number * size, (number + 1) * size)
        layer.weight.data, layer.bias.data = merged.weight.data[rows], merged.bias.data[rows]
    return merged
