"""The memory that forward passes on a CPU share."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from flag_rerank_integrations.families.workspace import Workspace

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
