"""Attention of encoders on CPUs against torch's kernel and the plain formula."""

from __future__ import annotations

import pytest
import torch
from attention_formula import expected_attention

from flag_rerank_integrations.attention import AttentionRule, attend
from flag_rerank_integrations.families import encoder_attention
from flag_rerank_integrations.families.encoder_attention import attend_all
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import PackedLayout

HEADS, SIZE = 4, 16


def _projected(lengths: list[int]) -> torch.Tensor:
    return torch.randn(sum(lengths), 3, HEADS, SIZE, generator=torch.manual_seed(0))


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("lengths", [[1], [7, 7, 7], [130, 24, 24, 23], [449, 448, 30, 2], [512, 60, 60, 60, 5, 5]])
def test_products_attend_as_the_kernel_does(lengths: list[int], scaling: float | None) -> None:
    layout, rule, projected = PackedLayout.of(lengths), AttentionRule(scaling=scaling), _projected(lengths)
    expected = attend(*projected.unbind(1), layout, rule)
    actual = attend_all(*projected.unbind(1), layout, rule, Workspace())
    torch.testing.assert_close(actual, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("heads_at_a_time", [1, 3, 4])
def test_heads_are_done_as_many_at_a_time_as_fit(heads_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, rule, projected = PackedLayout.of([20]), AttentionRule(), _projected([20])
    monkeypatch.setattr(encoder_attention, "_PRODUCTS_AT_A_TIME", heads_at_a_time * 400)
    space = Workspace()
    found = attend_all(*projected.unbind(1), layout, rule, space)
    torch.testing.assert_close(found, attend(*projected.unbind(1), layout, rule), rtol=0, atol=3e-6)
    assert space._buffers["products", torch.float32].numel() == heads_at_a_time * 400


@pytest.mark.parametrize("push", [-1.0, 1.0])
@pytest.mark.parametrize("products", [40, 60, 100, 3000, 1e6])
def test_products_of_any_size_are_weighed_right(push: float, products: float) -> None:
    """All products of the second pair are about as large as given: from 100 on their exponentials are 0 or infinite."""
    projected = _projected([9, 30, 14]).double()
    query, key, value = projected.unbind(1)
    query[9:39, :, 0], key[9:39, :, 0] = products, push * SIZE**0.5
    found = attend_all(*projected.float().unbind(1), PackedLayout.of([9, 30, 14]), AttentionRule(), Workspace())
    found = found.view(-1, HEADS, SIZE)
    for pair in (slice(0, 9), slice(9, 39), slice(39, 53)):
        heads = (tensor[pair].transpose(0, 1) for tensor in (query, key, value))
        expected = expected_attention(*heads, causal=False, window=None, cap=None).transpose(0, 1)
        # Rounding alone moves a product, and so the logarithm of a weight, by the product's last digit.
        torch.testing.assert_close(found[pair].double(), expected, rtol=0, atol=3e-6 + products * 2**-22)


def test_only_pairs_out_of_range_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted: list[slice] = []
    within = encoder_attention._Attention.within

    def watched(self: object, pair: slice, sums: torch.Tensor, **options: bool) -> None:
        if options.get("shifted"):
            shifted.append(pair)
        within(self, pair, sums, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder_attention._Attention, "within", watched)
    layout, projected = PackedLayout.of([9, 30, 14]), _projected([9, 30, 14])
    before = attend_all(*projected.unbind(1), layout, AttentionRule(), Workspace())
    assert not shifted
    projected[9:39, :2] *= 40
    after = attend_all(*projected.unbind(1), layout, AttentionRule(), Workspace())
    assert shifted == [slice(9, 39)]
    assert torch.equal(after[:9], before[:9])
    assert torch.equal(after[39:], before[39:])
    assert torch.isfinite(after).all()


def test_what_is_no_number_stays_with_its_pair() -> None:
    projected = _projected([5, 6])
    projected[2, 0] = torch.nan
    found = attend_all(*projected.unbind(1), PackedLayout.of([5, 6]), AttentionRule(), Workspace())
    assert found[2].isnan().all()
    assert not found[5:].isnan().any()


def test_half_precision_keeps_to_the_kernel() -> None:
    layout, projected = PackedLayout.of([40, 9]), _projected([40, 9]).bfloat16()
    expected = attend(*projected.unbind(1), layout, AttentionRule())
    assert torch.equal(attend_all(*projected.unbind(1), layout, AttentionRule(), Workspace()), expected)
