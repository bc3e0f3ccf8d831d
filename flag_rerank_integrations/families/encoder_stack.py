"""The layers of BERT and its kin, run on one flat sequence of pairs with less work.

The same weights and the same formulas as transformers' own layers (post-norm: BERT, RoBERTa,
XLM-R, ELECTRA), with three savings: one product makes query, key and value; a residual is what
its product is added to; and in the last layer, of which a head reads the first token alone,
nothing but keys and values is computed for the others. The family compares scores with those
of the model's own layers before it uses these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from flag_rerank_integrations.attention import AttentionRule, attend, attend_once
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
        self._layers = [_Layer(layer) for layer in encoder.layer]

    def forward(self, hidden_states: torch.Tensor, **_options: Any) -> BaseModelOutputWithPastAndCrossAttentions:  # noqa: ANN401 - as called
        """Map embeddings of shape (1, tokens, size) to hidden states of shape (pairs, 1, size)."""
        layout = current_layout()
        assert layout is not None  # noqa: S101 - set by the family around every call
        hidden = hidden_states[0]
        for layer in self._layers[:-1]:
            hidden = layer(hidden, layout)
        first = self._layers[-1].first_tokens(hidden, layout)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=first.unsqueeze(1))


class _Layer:
    """One layer, as plain references to the weights of the module it is made from."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 - as above
        attention = layer.attention.self
        self._heads = attention.num_attention_heads
        self._rule = AttentionRule(scaling=attention.scaling)
        self._weight, self._bias = _merged(attention.query, attention.key, attention.value)
        self._size = self._weight.shape[0] // 3
        self._project = layer.attention.output.dense
        self._attention_norm = layer.attention.output.LayerNorm
        self._up = layer.intermediate.dense
        self._activation = layer.intermediate.intermediate_act_fn
        self._down = layer.output.dense
        self._output_norm = layer.output.LayerNorm

    def __call__(self, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Map (tokens, size) to (tokens, size)."""
        query, key, value = self._heads_of(linear(hidden, self._weight, self._bias)).unbind(1)
        return self._finish(hidden, attend(query, key, value, layout, self._rule))

    def first_tokens(self, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Map (tokens, size) to the first token of each pair, (pairs, size)."""
        first = hidden.index_select(0, layout.first_tokens(hidden.device))
        own, others = slice(None, self._size), slice(self._size, None)
        query = self._heads_of(linear(first, self._weight[own], self._bias[own]))[:, 0]
        key, value = self._heads_of(linear(hidden, self._weight[others], self._bias[others])).unbind(1)
        return self._finish(first, attend_once(query, key, value, layout, self._rule))

    def _heads_of(self, projected: torch.Tensor) -> torch.Tensor:
        """View (rows, parts * size) as (rows, parts, heads, head size)."""
        return projected.view(len(projected), -1, self._heads, self._size // self._heads)

    def _finish(self, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Project what was attended to, then the feed-forward part."""
        hidden = self._attention_norm(_add_linear(residual, attended, self._project))
        inner = self._activation(self._up(hidden))
        output: torch.Tensor = self._output_norm(_add_linear(hidden, inner, self._down))
        return output


def _merged(*projections: Any) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401 - as above
    """Put several layers' weights into one, and let the layers use it too: no memory twice."""
    weight = torch.cat([layer.weight for layer in projections])
    bias = torch.cat([layer.bias for layer in projections])
    size = len(weight) // len(projections)
    for number, layer in enumerate(projections):
        layer.weight.data = weight[number * size : (number + 1) * size]
        layer.bias.data = bias[number * size : (number + 1) * size]
    return weight, bias


def _add_linear(residual: torch.Tensor, inputs: torch.Tensor, layer: Any) -> torch.Tensor:  # noqa: ANN401 - as above
    """Return residual + layer(inputs), with the sum done by the product itself."""
    return torch.add(residual, layer.bias).addmm_(inputs, layer.weight.t())
