"""Passages of one query share its keys and values in causal models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.attention import AttentionRule, attend, attend_once
from flag_rerank_integrations.families.causal import worth_sharing
from flag_rerank_integrations.packing import PackedLayout

LONG_QUERY = "which city in China has the museum of art with pandas and how many people live in it " * 3
PASSAGES = ["the giant panda lives in China " * (1 + i % 5) for i in range(9)] + ["", "a city of art"]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(1, 5), min_size=1, max_size=4)), min_size=1, max_size=3),
    st.sampled_from([None, 1, 3, 7]),
    st.sampled_from([None, 3.0]),
    st.sampled_from([(4, 4), (4, 2)]),
)
def test_a_shared_head_is_seen_as_if_it_stood_before_each_rest(
    groups: list[tuple[int, list[int]]], window: int | None, cap: float | None, heads: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(len(groups))
    rule = AttentionRule(causal=True, window=window, softcap=cap)
    shared = PackedLayout.sharing(groups)
    flat = [
        torch.randn(shared.tokens, count, 8, generator=generator, dtype=torch.float64) for count in (*heads, heads[1])
    ]
    whole = PackedLayout.of([head + rest for head, rests in groups for rest in rests])
    # The same pairs with a copy of the head in front of each, and where each pair's own part lies.
    places, own, start = [], [], 0
    for head, rests in groups:
        begin = start + head
        for rest in rests:
            places += [*range(start, start + head), *range(begin, begin + rest)]
            own += [(begin + i, len(places) - rest + i) for i in range(rest)]
            begin += rest
        start = begin
    query, key, value = flat
    expected = attend(query[places], key[places], value[places], whole, rule)
    found = attend(query, key, value, shared, rule)
    mine, theirs = (list(column) for column in zip(*own, strict=True))
    assert torch.allclose(found[mine], expected[theirs], atol=1e-6)
    last = shared.last_tokens(torch.device("cpu"))
    once = attend_once(query[last], key, value, shared, rule)
    assert torch.allclose(once, found[last], atol=1e-6)


def test_a_shared_head_attends_once_and_each_rest_to_both() -> None:
    assert PackedLayout.sharing([(3, [2, 1])]).attended == 3 * 3 + 2 * 5 + 1 * 4
    assert PackedLayout.of([5, 4]).attended == 5 * 5 + 4 * 4


@pytest.mark.parametrize("name", ["gemma", "gemma2", "llama", "qwen3"])
def test_scores_equal_those_of_pairs_alone(tiny: Any, name: str) -> None:
    with Reranker(tiny(name), device="cpu", max_length=200, max_batch_tokens=100_000) as reranker:
        many = reranker.rank_many([(LONG_QUERY, PASSAGES), ("panda", PASSAGES)])
        alone = {(query, p): reranker.score([(query, p)])[0] for query in (LONG_QUERY, "panda") for p in PASSAGES}
    for query, ranking in zip((LONG_QUERY, "panda"), many, strict=True):
        for passage in ranking:
            expected = alone[query, PASSAGES[passage.index]]
            assert passage.score == pytest.approx(expected, abs=3e-6 * max(1, abs(expected)))


def test_the_query_is_computed_once(tiny: Any) -> None:
    with Reranker(tiny("llama"), device="cpu", max_length=200, max_batch_tokens=100_000) as reranker:
        family = reranker._executor._scorer._family
        family._lanes = None  # each would compute it for itself
        rows: list[int] = []
        family.model.base_model.layers[0].register_forward_hook(lambda _m, inputs, _o: rows.append(inputs[0].shape[1]))
        reranker.rank(LONG_QUERY, PASSAGES)
        encoded = family.encode([(LONG_QUERY, passage) for passage in dict.fromkeys(PASSAGES)])
    head = encoded[0].head_tokens
    assert rows == [head + sum(len(pair) - head for pair in encoded)]
    assert rows[0] < sum(map(len, encoded)) / 2


def test_too_little_is_not_worth_sharing() -> None:
    assert worth_sharing(8, 4) == 0
    assert worth_sharing(8, 5) == 8
    assert worth_sharing(100, 1) == 0
    assert worth_sharing(0, 100) == 0
