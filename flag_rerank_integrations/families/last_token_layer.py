"""The last layer of a decoder, computed for the last token of each pair alone.

Only that token's hidden state is read, so of the others nothing but keys and values is
needed: 1 / layers of the work is saved but for these. The layer's own weights, norms and
rotation are used; the family compares scores with the whole layer's before it uses this.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from flag_rerank_integrations.attention import AttentionRule, attend_once
from flag_rerank_integrations.packing import current_layout

__all__ = ["LastTokenLayer", "causal_rule"]


def causal_rule(attention: Any) -> AttentionRule:  # noqa: ANN401 - transformers' layers share no typed base
    """Return the rule of a decoder layer's attention."""
    return AttentionRule(
        causal=True,
        scaling=attention.scaling,
        window=getattr(attention, "sliding_window", None),
        softcap=getattr(attention, "attn_logit_softcapping", None),
    )


class LastTokenLayer(torch.nn.Module):
    """Stands in for the last decoder layer (Llama, Qwen, Mistral, Gemma, Gemma 2 and their like).

    Args:
        layer: The module it stands in for, whose parts it uses.

    Raises:
        AttributeError: The layer is of another build.
    """

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 - as above
        super().__init__()
        attention = layer.self_attn
        self._attention = attention
        self._rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        self._rule = causal_rule(attention)
        self._before, self._after, self._mlp = layer.input_layernorm, layer.post_attention_layernorm, layer.mlp
        # Gemma 2 and later put a norm before and behind each part, the others only before.
        self._mlp_before = getattr(layer, "pre_feedforward_layernorm", None)
        self._mlp_after = getattr(layer, "post_feedforward_layernorm", None)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_options: Any,  # noqa: ANN401 - as transformers calls it
    ) -> torch.Tensor:
        """Map hidden states of shape (1, tokens, size) to those of the last tokens, (1, pairs, size)."""
        layout = current_layout()
        assert layout is not None  # noqa: S101 - set by the family around every call
        places = layout.last_tokens(hidden_states.device)
        query, key, value = self._projected(self._before(hidden_states), places, position_embeddings)
        attended = attend_once(query, key, value, layout, self._rule)
        attended = self._attention.o_proj(attended.unsqueeze(0))
        return self._finish(hidden_states.index_select(1, places), attended)

    def _projected(
        self, normed: torch.Tensor, places: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the rotated query of each place and the rotated keys and values of all, (rows, heads, head size)."""
        attention = self._attention
        query = self._heads(attention.q_proj(normed.index_select(1, places)), "q_norm")
        key = self._heads(attention.k_proj(normed), "k_norm")
        value = self._heads(attention.v_proj(normed), None)
        cos, sin = rotation
        # The function rotates two tensors by the same angles; one of them without heads costs nothing.
        query, _ = self._rotate(query, query[:, :0], cos.index_select(1, places), sin.index_select(1, places))
        _, key = self._rotate(key[:, :0], key, cos, sin)
        return query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)

    def _heads(self, projected: torch.Tensor, norm: str | None) -> torch.Tensor:
        """Turn (1, rows, heads * size) into (1, heads, rows, size), normed where the model does."""
        heads = projected.view(*projected.shape[:-1], -1, self._attention.head_dim)
        normalize = None if norm is None else getattr(self._attention, norm, None)
        normed: torch.Tensor = heads if normalize is None else normalize(heads)
        return normed.transpose(1, 2)

    def _finish(self, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add what was attended to, and the feed-forward part."""
        hidden: torch.Tensor
        if self._mlp_before is None or self._mlp_after is None:
            hidden = residual + attended
            return torch.add(hidden, self._mlp(self._after(hidden)))
        hidden = residual + self._after(attended)
        return torch.add(hidden, self._mlp_after(self._mlp(self._mlp_before(hidden))))
