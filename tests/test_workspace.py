"""The memory that forward passes on a CPU share, and the attention that computes in it."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from flag_rerank_integrations.attention import AttentionRule, attend
from flag_rerank_integrations.families.short_attention import attend_all
from flag_rerank_integrations.families.workspace import Workspace
from flag_rerank_integrations.packing import PackedLayout

LIKE = torch.empty(0)


def test_memory_is_used_again() -> None:
    space = Workspace()
    first = space.take("a", (6, 4), LIKE)
    assert space.take("a", (3, 2), LIKE).data_ptr() == first.data_ptr()
    assert space.take("b", (6, 4), LIKE).data_ptr() != first.data_ptr()
    assert space.take("a", (6, 4), LIKE.half()).dtype == torch.float16
    assert space.take("a", (60, 4), LIKE).shape == (60, 4)


def test_a_thread_never_sees_anothers_memory() -> None:
    space = Workspace()
    here = space.take("a", (6, 4), LIKE)
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(space.take, "a", (6, 4), LIKE).result()
    assert here.data_ptr() != there.data_ptr()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda space: pickle.loads(pickle.dumps(space))])
def test_a_copy_begins_empty(copied: object) -> None:
    space = Workspace()
    first = space.take("a", (6, 4), LIKE)
    assert copied(space).take("a", (6, 4), LIKE).data_ptr() != first.data_ptr()  # type: ignore[operator]


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("lengths", [[1], [7, 7, 7], [130, 24, 24, 23], [449, 448, 30, 2], [512, 60, 60, 60, 5, 5]])
def test_products_attend_as_the_kernel_does(lengths: list[int], scaling: float | None) -> None:
    layout, rule = PackedLayout.of(lengths), AttentionRule(scaling=scaling)
    projected = torch.randn(sum(lengths), 3, 4, 16, generator=torch.manual_seed(0))
    expected = attend(*projected.unbind(1), layout, rule)
    actual = attend_all(*projected.clone().unbind(1), layout, rule, Workspace())
    torch.testing.assert_close(actual, expected, rtol=0, atol=3e-6)


def test_half_precision_keeps_to_the_kernel() -> None:
    layout = PackedLayout.of([40, 9])
    projected = torch.randn(49, 3, 4, 16, generator=torch.manual_seed(0)).bfloat16()
    expected = attend(*projected.unbind(1), layout, AttentionRule())
    assert torch.equal(attend_all(*projected.unbind(1), layout, AttentionRule(), Workspace()), expected)
