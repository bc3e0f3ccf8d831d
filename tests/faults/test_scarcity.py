"""The system has nothing left to start a worker with, and then has again."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest
from faults.pool_tools import PAIRS, kill, pids, same, wait_until

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import WorkerDied

MANY = 1 << 20


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Sets how many files this process may have open; it keeps those that it has."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(count: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, usual), most))

    yield limit
    limit(usual)


def test_a_worker_that_the_system_does_not_start_is_a_clear_error(
    pool: Reranker, model: str, limit_files: Callable[[int], None]
) -> None:
    assert pids(pool)  # so that all that a pool needs is imported
    limit_files(3)
    with pytest.raises(WorkerDied, match=r"did not start a worker process for cpu #1: .*Too many open files"):
        Reranker(model, device="cpu:2")


def test_a_worker_that_cannot_come_back_for_a_while_comes_back_later(
    model: str, expected: list[float], limit_files: Callable[[int], None]
) -> None:
    with Reranker(model, device="cpu:2") as fresh:
        limit_files(3)
        for pid in pids(fresh):
            kill(pid)
        with pytest.raises(WorkerDied, match=r"does not start any more: .*Too many open files"):
            fresh.score(PAIRS)
        limit_files(MANY)
        assert same(fresh.score(PAIRS), expected)
        wait_until(lambda: len(pids(fresh)) == 2)
