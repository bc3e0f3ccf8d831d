from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flag_rerank_integrations.batching import computed_tokens, plan

LAYOUTS = ["packed", "padded", "single"]
lengths_of = st.lists(st.integers(1, 600), max_size=80)


@given(lengths_of, st.integers(1, 3000), st.sampled_from(LAYOUTS))
def test_every_pair_is_in_exactly_one_batch(
    lengths: list[int], budget: int, layout: Literal["packed", "padded", "single"]
) -> None:
    batches = plan(lengths, budget, layout)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(batches)


@given(lengths_of, st.integers(1, 3000), st.sampled_from(LAYOUTS))
def test_no_batch_is_over_budget_unless_it_is_one_pair(
    lengths: list[int], budget: int, layout: Literal["packed", "padded", "single"]
) -> None:
    for batch in plan(lengths, budget, layout):
        assert len(batch) == 1 or computed_tokens([lengths[i] for i in batch], layout) <= budget


@given(lengths_of, st.integers(1, 3000), st.sampled_from(LAYOUTS))
def test_longest_first_and_ties_in_order(
    lengths: list[int], budget: int, layout: Literal["packed", "padded", "single"]
) -> None:
    order = [i for batch in plan(lengths, budget, layout) for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_what_fits_one_budget_is_one_batch(lengths: list[int]) -> None:
    assert len(plan(lengths, sum(lengths), "packed")) == 1
    assert len(plan(lengths, max(lengths) * len(lengths), "padded")) == 1


@pytest.mark.parametrize("layout, expected", [("packed", 12), ("padded", 21), ("single", 12)])
def test_computed_tokens(layout: Literal["packed", "padded", "single"], expected: int) -> None:
    assert computed_tokens([7, 4, 1], layout) == expected
    assert computed_tokens([], layout) == 0
