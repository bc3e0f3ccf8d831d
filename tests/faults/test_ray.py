"""The pool's faults over a real Ray on this machine: workers are actors, lost and started anew in the same ways."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray
from faults.pool_tools import PAIRS, gone, kill, pids, same, wait_until
from ray.cluster_utils import Cluster
from ray_tools import processes_of, running_cluster

from flag_rerank_integrations import RayOptions, Reranker
from flag_rerank_integrations.errors import (
    ConfigError,
    DeviceError,
    ModelLoadError,
    RerankError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)

CALLS = 32
BUSY = [(f"panda {i}", "bear " * 200) for i in range(20_000)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head node with room for four workers; this process is connected to it."""
    with running_cluster(num_cpus=4, resources={"shelf": 1}) as made:
        yield made


@pytest.fixture(scope="module")
def pool(cluster: Cluster, model: str) -> Iterator[Reranker]:
    with Reranker(model, device="ray:2") as live:
        yield live


def dispatchers(reranker: Reranker) -> list[Any]:
    executor: Any = reranker._executor
    found: list[Any] = executor._pool.dispatchers
    return found


def busy(reranker: Reranker) -> None:
    """Wait until every worker has a shard in hand."""
    wait_until(lambda: all(dispatcher.busy for dispatcher in dispatchers(reranker)))


def actors() -> set[int]:
    return processes_of("RerankActor")


def test_scores_are_those_of_one_process(pool: Reranker, expected: list[float]) -> None:
    assert same(pool.score(PAIRS), expected)
    stats = pool.stats()
    assert stats.scored_pairs == len(set(PAIRS))
    assert [device.name.partition(" on ")[0] for device in stats.devices] == ["ray:0 (cpu", "ray:1 (cpu"]
    assert len(set(pids(pool))) == 2
    assert set(pids(pool)) <= actors()


def test_what_an_actor_logs_arrives_here(pool: Reranker, caplog: pytest.LogCaptureFixture) -> None:
    pool.score([("panda " * 500, "bear")])
    (record,) = [record for record in caplog.records if "The query" in record.getMessage()]
    assert (record.name, record.levelname) == ("flag_rerank_integrations.truncation", "WARNING")
    assert record.getMessage().startswith("[ray:")


def test_killed_while_idle(pool: Reranker, expected: list[float]) -> None:
    restarts, (first, _) = pool.stats().worker_restarts, pids(pool)
    kill(first)
    wait_until(lambda: pool.stats().worker_restarts > restarts)  # without any work
    assert same(pool.score(PAIRS), expected)
    assert first not in pids(pool)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_while_busy(pool: Reranker, expected: list[float], how: signal.Signals) -> None:
    restarts = pool.stats().worker_restarts
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(pool.score, PAIRS)
        busy(pool)
        kill(pids(pool)[-1], how)
        assert same(call.result(100), expected)
    wait_until(lambda: pool.stats().worker_restarts > restarts)


def test_all_killed_while_busy(pool: Reranker, expected: list[float]) -> None:
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(pool.score, PAIRS)
        busy(pool)
        for pid in pids(pool):
            kill(pid)
        assert same(call.result(100), expected)


def test_killed_during_load(cluster: Cluster, model: str) -> None:
    before, outcome = actors(), list[Any]()

    def start() -> None:
        try:
            Reranker(model, device="ray:2").close()
            outcome.append("started")
        except WorkerDied as error:
            outcome.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(lambda: actors() - before)
    kill((actors() - before).pop())
    thread.join(100)
    assert isinstance(outcome[0], WorkerDied)
    assert "worker process has died" in str(outcome[0])
    wait_until(lambda: actors() == before)


def test_a_shard_that_kills_every_worker_fails_alone(cluster: Cluster, model: str, expected: list[float]) -> None:
    """Twice it is tried again, then the caller is told; others and the pool live on."""
    with Reranker(model, device="ray:2") as fresh:
        poison, killed = ("poison", "poison"), []
        for dispatcher in dispatchers(fresh):
            ask = dispatcher.worker.ask

            def asking(message: Any, timeout: Any, ask: Any = ask, dispatcher: Any = dispatcher) -> Any:
                if poison in message["pairs"]:
                    killed.append(dispatcher.worker.pid)
                    kill(dispatcher.worker.pid)
                return ask(message, timeout)

            dispatcher.worker.ask = asking
        with ThreadPoolExecutor(2) as callers:
            bad, good = callers.submit(fresh.score, [poison]), callers.submit(fresh.score, PAIRS)
            with pytest.raises(WorkerDied, match=r"worker for ray:\d .* ended: "):
                bad.result(200)
            assert same(good.result(200), expected)
        assert len(killed) == 3
        assert same(fresh.score(PAIRS), expected)


def test_hang_past_the_timeout(cluster: Cluster, model: str, expected: list[float]) -> None:
    """A stopped process answers nothing, like one whose GIL is held for ever."""
    with Reranker(model, device="ray:2", timeout=3) as fresh:
        hung = pids(fresh)
        for pid in hung:
            kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerTimeout, match="timeout=3"):
            fresh.score(PAIRS)
        object.__setattr__(fresh.config, "timeout", 100)
        assert same(fresh.score(PAIRS), expected)
        assert not set(hung) & set(pids(fresh))
    wait_until(lambda: all(map(gone, hung)))


def test_an_exception_on_one_input_is_that_request_s_alone(pool: Reranker, expected: list[float]) -> None:
    alive, restore = pids(pool), []
    for dispatcher in dispatchers(pool):
        ask = dispatcher.worker.ask
        restore.append((dispatcher.worker, ask))

        def asking(message: Any, timeout: Any, ask: Any = ask) -> Any:
            pairs = [("bad", 7) if pair == ("bad", "bad") else pair for pair in message["pairs"]]
            return ask({**message, "pairs": pairs}, timeout)

        dispatcher.worker.ask = asking
    with ThreadPoolExecutor(2) as callers:
        good, bad = callers.submit(pool.score, PAIRS), callers.submit(pool.score, [("bad", "bad"), ("q", "p")])
        with pytest.raises(WorkerError, match=r"Scoring on ray:\d .* failed: TypeError"):
            bad.result(100)
        assert same(good.result(100), expected)
    for worker, ask in restore:
        worker.ask = ask
    assert pids(pool) == alive


def test_a_load_that_fails_is_the_same_error_as_in_one_process(cluster: Cluster) -> None:
    before = actors()
    with pytest.raises(ModelLoadError, match="no directory"):
        Reranker("/no/such/model", device="ray:2")
    wait_until(lambda: actors() <= before)


def test_no_room_in_the_cluster(cluster: Cluster, model: str) -> None:
    wanted = RayOptions(num_cpus=64, resources={"shelf": 1}, placement_timeout=0.5)
    with pytest.raises(DeviceError, match=r"no room .* 64 CPU, 0 GPU, 1 shelf .* has 4 CPU, 1 shelf in all"):
        Reranker(model, ray=wanted)


def test_options_that_ray_refuses(cluster: Cluster, model: str) -> None:
    with pytest.raises(ConfigError, match="Ray refuses"):
        Reranker(model, ray=RayOptions(resources={"CPU": 1}))


def test_an_address_that_is_not_used_is_told(pool: Reranker, model: str, caplog: pytest.LogCaptureFixture) -> None:
    with Reranker(model, ray=RayOptions(address="10.255.255.1:6379")) as other:
        assert len(other.score([("a", "b")])) == 1
    assert "address='10.255.255.1:6379' is not used" in caplog.text


def test_a_node_that_is_lost(cluster: Cluster, model: str, expected: list[float]) -> None:
    """One worker on each of two nodes: what is left serves on, and does not wait for room for the other."""
    second = cluster.add_node(num_cpus=1, resources={"shelf": 1})
    with Reranker(model, ray=RayOptions(num_workers=2, resources={"shelf": 1})) as fresh:
        started = pids(fresh)
        with ThreadPoolExecutor(1) as callers:
            call = callers.submit(fresh.score, PAIRS)
            busy(fresh)
            cluster.remove_node(second, allow_graceful=False)
            assert same(call.result(100), expected)
        wait_until(lambda: len(set(pids(fresh)) & set(started)) == 1)
        assert same(fresh.score(PAIRS), expected)
        assert fresh.stats().worker_restarts == 0
        third = cluster.add_node(num_cpus=1, resources={"shelf": 1})
        wait_until(lambda: fresh.stats().worker_restarts == 1)
        assert same(fresh.score(PAIRS), expected)
    cluster.remove_node(third)


def test_32_threads_get_their_own_scores(pool: Reranker, expected: list[float]) -> None:
    parts = [slice(i, i + 5 + i % 7) for i in range(CALLS)]
    with ThreadPoolExecutor(CALLS) as callers:
        found = list(callers.map(lambda part: pool.score(PAIRS[part]), parts))
    assert all(same(scores, expected[part]) for scores, part in zip(found, parts, strict=True))


async def test_32_tasks_get_their_own_scores(pool: Reranker, expected: list[float]) -> None:
    parts = [slice(i, i + 5 + i % 7) for i in range(CALLS)]
    found = await asyncio.gather(*(pool.ascore(PAIRS[part]) for part in parts))
    assert all(same(scores, expected[part]) for scores, part in zip(found, parts, strict=True))


def test_two_pools_at_once(pool: Reranker, model: str, expected: list[float]) -> None:
    with Reranker(model, ray={"num_workers": 2}) as other, ThreadPoolExecutor(2) as callers:
        assert all(same(scores, expected) for scores in callers.map(lambda r: r.score(PAIRS), (pool, other)))
        assert not set(pids(other)) & set(pids(pool))


def test_close_twice_and_use_after_close(cluster: Cluster, model: str) -> None:
    fresh = Reranker(model, device="ray:2")
    workers = pids(fresh)
    fresh.close()
    fresh.close()
    wait_until(lambda: all(map(gone, workers)), 10)
    with pytest.raises(WorkerError, match="closed"):
        fresh.score([("a", "b")])
    assert ray.is_initialized()  # it is not ours to shut down


def test_close_while_busy_ends_every_call_promptly(cluster: Cluster, model: str) -> None:
    fresh = Reranker(model, device="ray:2")
    workers, outcomes = pids(fresh), list[str]()

    def call() -> None:
        try:
            fresh.score(BUSY)
            outcomes.append("scored")
        except RerankError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    busy(fresh)
    fresh.close()
    for thread in threads:
        thread.join(20)
    assert outcomes == ["WorkerError"] * 3
    wait_until(lambda: all(map(gone, workers)), 10)


def test_a_forgotten_pool_ends_its_workers(cluster: Cluster, model: str) -> None:
    forgotten = Reranker(model, device="ray:2")
    workers = pids(forgotten)
    del forgotten
    gc.collect()
    wait_until(lambda: all(map(gone, workers)), 10)


def test_fork_after_start(pool: Reranker, expected: list[float]) -> None:
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        try:
            pool.score([("a", "b")])
        except WorkerError as error:
            answers.put(str(error))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "fork" in answers.get()
    assert same(pool.score(PAIRS), expected)
