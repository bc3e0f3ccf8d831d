"""The packed attention function against the plain formula, in float64."""

from __future__ import annotations

import pytest
import torch
from attention_formula import expected_attention
from hypothesis import given, settings
from hypothesis import strategies as st

from flag_rerank_integrations.attention import PackedLayout, packed, packed_attention


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([None, 1, 3, 6, 100]),
    st.sampled_from([None, 2.0, 50.0]),
    st.sampled_from([(4, 4), (4, 2), (3, 1)]),
)
def test_equals_the_plain_formula(
    lengths: list[int], causal: bool, window: int | None, cap: float | None, heads: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    total, size = sum(lengths), 8
    # Laid out as models do it: (1, tokens, heads, size), transposed.
    query, key, value = (
        torch.randn(1, total, count, size, generator=generator, dtype=torch.float64).transpose(1, 2)
        for count in (heads[0], heads[1], heads[1])
    )
    module = torch.nn.Module()
    with packed(lengths):
        output, weights = packed_attention(
            module, query, key, value, None, is_causal=causal, sliding_window=window, softcap=cap
        )
    assert weights is None
    first = 0
    for length in lengths:
        part = slice(first, first + length)
        wanted = expected_attention(
            query[0, :, part], key[0, :, part], value[0, :, part], causal=causal, window=window, cap=cap
        )
        # Half the digits of float64: torch computes the weights of capped attention in float32.
        assert torch.allclose(output[0, part].transpose(0, 1), wanted, atol=1e-6)
        first += length


def test_layout_groups_neighbours_of_equal_length() -> None:
    layout = PackedLayout.of([5, 5, 3, 3, 3, 5])
    assert layout.starts == (0, 5, 10, 13, 16, 19, 24)
    assert layout.runs == ((0, 2, 5), (10, 3, 3), (19, 1, 5))


@pytest.mark.parametrize("problem", ["no layout", "mask", "wrong length", "unknown option", "dropout"])
def test_refuses_what_would_change_the_scores(problem: str) -> None:
    query = torch.randn(1, 2, 6, 4)
    mask = torch.zeros(1, 1, 6, 6) if problem == "mask" else None
    options = {"unknown option": {"s_aux": torch.ones(2)}, "dropout": {"dropout": 0.1}}.get(problem, {})

    def call() -> None:
        packed_attention(torch.nn.Module(), query, query, query, mask, **options)

    if problem == "no layout":
        with pytest.raises(RuntimeError, match="acked attention"):
            call()
        return
    with packed([3, 4] if problem == "wrong length" else [3, 3]), pytest.raises(RuntimeError, match="acked attention"):
        call()
