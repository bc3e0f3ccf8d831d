"""Attention from first tokens without keys and values, against attention with them."""

from __future__ import annotations

import pytest
import torch

from flag_rerank_integrations.attention import AttentionRule, attend_once
from flag_rerank_integrations.families.first_token_attention import attend_from_first
from flag_rerank_integrations.packing import PackedLayout

HEADS, SIZE, WIDTH = 4, 8, 24
LENGTHS = [9, 1, 30, 30]


def _made(*, bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear]:
    """Return queries of the pairs, inputs of all tokens, and the layer that makes keys and values of these."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(WIDTH, 2 * HEADS * SIZE, bias=bias).requires_grad_(requires_grad=False)
    if bias:
        layer.bias.normal_()
    return torch.randn(len(LENGTHS), HEADS, SIZE), torch.randn(sum(LENGTHS), WIDTH), layer


def _with_keys(query: torch.Tensor, hidden: torch.Tensor, layer: torch.nn.Linear, rule: AttentionRule) -> torch.Tensor:
    """Make keys and values of all tokens, and attend to them; in float64."""
    bias = None if layer.bias is None else layer.bias.double()
    made = torch.nn.functional.linear(hidden.double(), layer.weight.double(), bias)
    key, value = made.view(-1, 2, HEADS, SIZE).unbind(1)
    return attend_once(query.double(), key, value, PackedLayout.of(LENGTHS), rule)


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("bias", [True, False])
def test_one_query_of_a_pair_needs_no_keys_and_values(scaling: float | None, *, bias: bool) -> None:
    query, hidden, layer = _made(bias=bias)
    layout, rule = PackedLayout.of(LENGTHS), AttentionRule(scaling=scaling)
    found = attend_from_first(query, hidden, layer, layout, rule)
    torch.testing.assert_close(found.double(), _with_keys(query, hidden, layer, rule), rtol=0, atol=3e-6)
    assert layout.calls == 1


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_products_of_any_size_are_weighed(factor: float) -> None:
    """The largest product takes all the weight, and exponentials of none overflow."""
    query, hidden, layer = _made(bias=True)
    query *= factor
    found = attend_from_first(query, hidden, layer, PackedLayout.of(LENGTHS), AttentionRule())
    torch.testing.assert_close(found.double(), _with_keys(query, hidden, layer, AttentionRule()), rtol=0, atol=1e-3)


def test_what_is_no_number_stays_with_its_pair() -> None:
    query, hidden, layer = _made(bias=True)
    hidden[3] = torch.nan
    found = attend_from_first(query, hidden, layer, PackedLayout.of(LENGTHS), AttentionRule())
    assert found[0].isnan().all()
    assert not found[1:].isnan().any()
