"""Nothing adds up: after many restarts a pool holds what it held before."""

from __future__ import annotations

import gc

import pytest
from faults.pool_tools import PAIRS, holdings, kill, pids, same, wait_until

from flag_rerank_integrations import Reranker

RESTARTS = 100


@pytest.mark.timeout(600)  # of 100 starts, two at a time
def test_100_restarts_leak_nothing(pool: Reranker, expected: list[float]) -> None:
    """Idle workers that are killed come back by themselves, and hold no more than before."""

    def settled(restarts: int) -> bool:
        return pool.stats().worker_restarts == restarts and len(pids(pool)) == 2

    assert same(pool.score(PAIRS), expected)
    before, restarts = holdings(), pool.stats().worker_restarts
    while restarts < RESTARTS:
        for pid in pids(pool):
            kill(pid)
        restarts += 2
        wait_until(lambda restarts=restarts: settled(restarts))  # type: ignore[misc]
        assert same(pool.score(PAIRS), expected)
    wait_until(lambda: holdings() == before, 20)


def test_pools_started_and_closed_leak_nothing(model: str) -> None:
    Reranker(model, device="cpu:2").close()
    gc.collect()
    before = holdings()
    for _ in range(2):
        with Reranker(model, device="cpu:2") as fresh:
            fresh.score([("a", "b")])
    gc.collect()
    wait_until(lambda: holdings() == before, 20)
