"""The figures an operator asks for: calls, errors, queue, what was not read, and devices."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
from monitoring_tools import held, pids, stopped, until
from rerank_server import RerankServer, Serve, asking

from flag_rerank_integrations import Reranker, RerankStats
from flag_rerank_integrations.errors import ConfigError, InputError, ModelLoadError, WorkerTimeout
from flag_rerank_integrations.results import CALL_SECONDS_BOUNDS, Histogram, add, lives

LONG = "giant panda bear in China " * 100
PAIRS = [("panda", "giant panda"), ("panda", "bamboo"), ("panda", LONG)]


@pytest.fixture
def reranker(light: str) -> Iterator[Reranker]:
    with Reranker(light, device="cpu", max_length=64) as live:
        yield live


def test_calls_and_what_they_asked_for(reranker: Reranker) -> None:
    reranker.score(PAIRS)
    reranker.rank("panda", ["bear", "bear"])
    asyncio.run(reranker.ascore(PAIRS[:1]))
    asyncio.run(reranker.arank_many([("panda", ["bear"]), ("bear", ["panda"])]))
    assert reranker.score([]) == []
    stats = reranker.stats()
    assert (stats.calls, stats.pairs, stats.scored_pairs) == (5, 8, 7)
    assert (stats.cancelled_calls, stats.errors) == (0, {})
    assert (stats.calls_in_flight, stats.pairs_in_flight, stats.waiting_calls) == (0, 0, 0)
    assert stats.call_seconds["ok"].count == 5
    assert stats.call_seconds["ok"].seconds > 0
    assert stats.model == reranker.config.model
    assert json.loads(json.dumps(asdict(stats)))["calls"] == 5


def test_what_was_not_read(reranker: Reranker) -> None:
    (ranked,) = reranker.rank("panda", [LONG])
    reranker.rank("panda", [LONG, "bear"])
    stats = reranker.stats()
    assert stats.truncated_pairs == 2
    assert ranked.truncated_tokens
    assert stats.truncated_tokens == 2 * ranked.truncated_tokens


def test_errors_by_type(light: str, reranker: Reranker) -> None:
    with pytest.raises(InputError):
        reranker.score([("panda", 3)])  # type: ignore[list-item]
    with pytest.raises(ConfigError):
        reranker.rank("panda", ["bear"], top_n=-1)
    with pytest.raises(ConfigError):
        reranker.score_layers(PAIRS, [3])
    stats = reranker.stats()
    assert stats.errors == {"InputError": 1, "ConfigError": 2}
    assert stats.call_seconds["error"].count == 3
    assert (stats.calls, stats.calls_in_flight, stats.pairs_in_flight) == (3, 0, 0)


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_call(tmp_path: object) -> None:
    from flag_rerank_integrations import RerankConfig

    lazy = Reranker.from_config(RerankConfig(f"{tmp_path}/nothing", device="cpu", local_files_only=True), start=False)
    with pytest.raises(ModelLoadError):
        lazy.score(PAIRS)
    assert lazy.stats() == RerankStats(
        pairs=3, calls=1, errors={"ModelLoadError": 1}, call_seconds=lazy.stats().call_seconds
    )


def test_a_timeout_is_an_error_and_a_caller_that_left_is_not(light: str) -> None:
    with Reranker(light, device="cpu", timeout=0.2) as hasty:
        with held(hasty), pytest.raises(WorkerTimeout):
            hasty.score(PAIRS)
        assert hasty.stats().errors == {"WorkerTimeout": 1}

    async def leave(patient: Reranker, entered: threading.Event) -> None:
        call = asyncio.ensure_future(patient.arank("panda", ["bear"]))
        await asyncio.to_thread(entered.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with Reranker(light, device="cpu") as patient:
        with held(patient) as entered:
            asyncio.run(leave(patient, entered))
        stats = patient.stats()
        assert (stats.cancelled_calls, stats.errors, stats.calls_in_flight) == (1, {}, 0)
        assert stats.call_seconds["cancelled"].count == 1


def test_the_queue_of_one_device(reranker: Reranker) -> None:
    with ThreadPoolExecutor(3) as callers:
        with held(reranker) as entered:
            first = callers.submit(reranker.score, PAIRS)
            assert entered.wait(60)
            assert reranker.stats().waiting_calls == 0
            others = [callers.submit(reranker.score, PAIRS[:2]) for _ in range(2)]
            until(lambda: reranker.stats().waiting_calls == 2)
            stats = reranker.stats()
            assert (stats.calls_in_flight, stats.pairs_in_flight) == (3, 7)
        assert [len(call.result(60)) for call in (first, *others)] == [3, 2, 2]
    stats = reranker.stats()
    assert (stats.calls_in_flight, stats.pairs_in_flight, stats.waiting_calls) == (0, 0, 0)


def test_the_queue_of_a_pool_and_its_devices(light: str) -> None:
    with Reranker(light, device="cpu:2") as pool, ThreadPoolExecutor(3) as callers:
        pool.score(PAIRS)
        with stopped(pool):
            calls = []
            for _ in range(2):
                calls.append(callers.submit(pool.score, PAIRS[:1]))
                until(lambda: pool.stats().calls_in_flight == len(calls) and not pool.stats().waiting_calls)
            calls.append(callers.submit(pool.score, PAIRS[:1]))
            until(lambda: pool.stats().waiting_calls == 1)
            assert pool.stats().calls_in_flight == 3
        assert all(len(call.result(60)) == 1 for call in calls)
        stats = pool.stats()
        assert stats.waiting_calls == 0
        assert [device.name for device in stats.devices] == ["cpu", "cpu"]
        for device in stats.devices:
            assert device.up
            assert device.total_memory
            assert device.free_memory
            assert 0 < device.free_memory < device.total_memory
            assert device.used_memory
            assert device.utilization is None


def test_the_queue_in_front_of_a_server(serve: Serve) -> None:
    server: RerankServer = serve("infinity")
    with asking(server, max_concurrency=1) as remote, ThreadPoolExecutor(2) as callers:
        server.gate.clear()
        calls = [callers.submit(remote.score, PAIRS) for _ in range(2)]
        until(lambda: remote.stats().waiting_calls == 1)
        assert remote.stats().calls_in_flight == 2
        server.gate.set()
        assert all(len(call.result(60)) == 3 for call in calls)
        stats = remote.stats()
    assert (stats.waiting_calls, stats.calls, stats.pairs) == (0, 2, 6)
    assert stats.seconds > 0


def test_a_worker_that_was_killed_leaves_its_work_in_the_figures(light: str) -> None:
    with Reranker(light, device="cpu:2") as pool:
        pool.score(PAIRS)
        before = pool.stats()
        for pid in pids(pool):
            os.kill(pid, 9)
        until(lambda: pool.stats().worker_restarts == 2)
        pool.score(PAIRS)
        stats = pool.stats()
    assert stats.scored_pairs == 2 * before.scored_pairs
    assert stats.tokens == 2 * before.tokens
    assert stats.max_batch_tokens == before.max_batch_tokens


def test_the_figures_of_several_lives() -> None:
    first = RerankStats(family="onnx", tokens=100, seconds=10.0, tokens_per_second=10.0, max_batch_tokens=512)
    second = RerankStats(family="onnx", tokens=300, seconds=10.0, tokens_per_second=30.0, max_batch_tokens=2048)
    both = lives(first, second)
    assert (both.tokens, both.seconds, both.tokens_per_second, both.max_batch_tokens) == (400, 20.0, 20.0, 2048)
    assert lives(first, RerankStats()) == first
    assert lives(RerankStats(), second) == second
    side_by_side = add(first, second)
    assert (side_by_side.tokens_per_second, side_by_side.max_batch_tokens) == (40.0, 512)


def test_what_was_counted_outlives_close(light: str) -> None:
    reranker = Reranker(light, device="cpu")
    reranker.score(PAIRS)
    before = reranker.stats()
    reranker.close()
    after = reranker.stats()
    assert (after.calls, after.pairs, after.scored_pairs, after.tokens) == (1, 3, 3, before.tokens)
    assert after.devices == ()
    assert copy.copy(reranker).stats() == RerankStats()


def test_durations_fall_into_the_bucket_that_they_do_not_exceed() -> None:
    from flag_rerank_integrations.monitoring.calls import Calls

    calls = Calls("model")
    durations = [0.0, 0.005, 0.0051, 60.0, 61.0]
    for seconds in durations:
        calls.begin()
        calls.end(0, "ok", seconds, None)
    histogram = calls.added_to(RerankStats()).call_seconds["ok"]
    counts = [0] * (len(CALL_SECONDS_BOUNDS) + 1)
    counts[0], counts[1], counts[-2], counts[-1] = 2, 1, 1, 1
    assert histogram == Histogram(tuple(counts), sum(durations))
    assert histogram.count == len(durations)


def test_threads_at_once_are_all_counted(reranker: Reranker) -> None:
    with ThreadPoolExecutor(16) as callers:
        list(callers.map(lambda number: reranker.score([("panda", f"bear {number}")]), range(200)))
    stats = reranker.stats()
    assert (stats.calls, stats.pairs, stats.calls_in_flight) == (200, 200, 0)
    assert stats.call_seconds["ok"].count == 200
