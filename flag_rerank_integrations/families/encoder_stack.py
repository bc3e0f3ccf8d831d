"""The layers of BERT and its kin, run on one flat sequence of pairs with less work.

The same weights and the same formulas as transformers' own layers (post-norm: BERT, RoBERTa,
XLM-R, ELECTRA), with four savings: one product makes query, key and value; a residual is what
its product is added to; on a CPU all layers compute in the same memory; and in the last layer,
of which a head reads the first token alone, nothing but keys and values is computed for the
others, and on a CPU not even those. The family compares scores with those of the model's own
layers before it uses these.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from flag_rerank_integrations.attention import AttentionRule, attend_once
from flag_rerank_integrations.families.activations import in_place
from flag_rerank_integrations.families.encoder_attention import attend_all
from flag_rerank_integrations.families.first_token_attention import attend_from_first
from flag_rerank_integrations.families.linear_layers import merged, multiply
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
        self._activate = in_place(layer.intermediate.intermediate_act_fn, space)
        self.down = layer.output.dense
        self.output_norm = layer.output.LayerNorm

    def _take_projections(self, query: torch.nn.Linear, key: torch.nn.Linear, value: torch.nn.Linear) -> None:
        self.query_key_value = merged(query, key, value)

    def forward(self, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Map (tokens, size) to (tokens, size)."""
        query, key, value = self._split(multiply(hidden, self.query_key_value, self._space, "projected"), 3)
        return self._finish(hidden, attend_all(query, key, value, layout, self._rule, self._space))

    def _split(self, projected: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """View (rows, parts * size) as parts of (rows, heads, head size)."""
        return projected.view(len(projected), parts, self._heads, -1).unbind(1)

    def _finish(self, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Project what was attended to, then the feed-forward part."""
        hidden = self.attention_norm(self._add_linear(residual, attended, self.project))
        inner = self._activate(multiply(hidden, self.up, self._space, "inner"))
        output: torch.Tensor = self.output_norm(self._add_linear(hidden, inner, self.down))
        return output

    def _add_linear(self, residual: torch.Tensor, inputs: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
        """Return residual + layer(inputs); the product itself makes the sum, in the residual's place, where it can."""
        if not isinstance(layer, torch.nn.Linear):
            return multiply(inputs, layer, self._space, "sum").add_(residual)
        return residual.add_(layer.bias).addmm_(inputs, layer.weight.t())


class _FirstTokenLayer(_Layer):
    """The last layer: only the first token of each pair asks, all of them answer."""

    def _take_projections(self, query: torch.nn.Linear, key: torch.nn.Linear, value: torch.nn.Linear) -> None:
        self.query = query
        self.key_value = merged(key, value)

    def forward(self, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Map (tokens, size) to (pairs, size)."""
        first = hidden.index_select(0, layout.first_tokens(hidden.device))
        (query,) = self._split(self.query(first), 1)
        return self._finish(first, self._attend(query, hidden, layout))

    def _attend(self, query: torch.Tensor, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Attend from a query for each pair to the tokens of its pair, (pairs, heads * head size)."""
        # Half precision would round what stands in the keys' place, and accelerators do better with few large products.
        plain = hidden.device.type == "cpu" and hidden.dtype == torch.float32
        if plain and isinstance(self.key_value, torch.nn.Linear):
            return attend_from_first(query, hidden, self.key_value, layout, self._rule)
        key, value = self._split(multiply(hidden, self.key_value, self._space, "projected"), 2)
        return attend_once(query, key, value, layout, self._rule)
