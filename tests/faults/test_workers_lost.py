"""Workers are killed, hang or fail: every call ends in the right scores or one clear error."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from faults.pool_tools import PAIRS, kill, pids, same, wait_until

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ModelLoadError, WorkerDied, WorkerError, WorkerTimeout
from flag_rerank_integrations.executors import endings


def busy(pool: Reranker) -> None:
    """Wait until every worker has a shard in hand."""
    dispatchers = pool._executor._pool.dispatchers  # type: ignore[union-attr]
    wait_until(lambda: all(dispatcher.busy for dispatcher in dispatchers))


@pytest.fixture
def fresh(model: str) -> Iterator[Reranker]:
    """Two workers that no test before has ended, so that none is being replaced."""
    with Reranker(model, device="cpu:2") as reranker:
        assert reranker.score(PAIRS)
        wait_until(lambda: all(device.up for device in reranker.stats().devices))
        yield reranker


def test_killed_while_idle(pool: Reranker, expected: list[float]) -> None:
    kill(pids(pool)[0])
    assert same(pool.score(PAIRS), expected)


def test_all_killed_while_idle(pool: Reranker, expected: list[float]) -> None:
    for pid in pids(pool):
        kill(pid)
    assert same(pool.score(PAIRS), expected)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
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


def test_the_log_names_the_one_of_two_that_ended(
    fresh: Reranker, expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Both are workers for the device cpu, and figures call them so."""
    restarts = fresh.stats().worker_restarts
    caplog.clear()
    kill(pids(fresh)[1])
    assert same(fresh.score(PAIRS), expected)
    wait_until(lambda: fresh.stats().worker_restarts > restarts)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "The worker for cpu #2 has ended. It is started anew." in told
    assert not any("cpu #1" in line for line in told)
    assert [device.name for device in fresh.stats().devices] == ["cpu", "cpu"]


def test_killed_during_load(model: str) -> None:
    outcome: list[Any] = []

    def start() -> None:
        try:
            with Reranker(model, device="cpu:2") as fresh:
                outcome.append(fresh.score([("a", "b")]))
        except WorkerDied as error:
            outcome.append(error)

    import psutil

    before = {child.pid for child in psutil.Process().children()}
    thread = threading.Thread(target=start)
    thread.start()

    def new() -> list[int]:
        return [child.pid for child in psutil.Process().children() if child.pid not in before]

    wait_until(new)
    kill(new()[0])
    thread.join(100)
    assert len(outcome) == 1
    assert isinstance(outcome[0], WorkerDied)
    assert "exit code -9" in str(outcome[0])
    wait_until(lambda: not new(), 10)


def test_exit_code_zero_is_a_death_too(fresh: Reranker, expected: list[float]) -> None:
    """A worker that leaves politely, here because its input ends, is replaced like any other."""
    fresh._executor._pool.dispatchers[0].worker._process.stdin.close()  # type: ignore[union-attr]
    assert same(fresh.score(PAIRS), expected)


def test_hang_past_the_timeout(model: str, expected: list[float]) -> None:
    """A stopped process answers nothing, like one whose GIL is held for ever."""
    with Reranker(model, device="cpu:2", timeout=3) as fresh:
        hung = pids(fresh)
        for pid in hung:
            kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(WorkerTimeout, match="timeout=3"):
            fresh.score(PAIRS)
        assert time.monotonic() - start < 30
        object.__setattr__(fresh.config, "timeout", 100)
        assert same(fresh.score(PAIRS), expected)
        assert not set(hung) & set(pids(fresh))


def test_hang_of_a_process_that_cannot_be_killed(
    model: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits for a driver, inside the kernel: it is left there, and others take its place."""
    monkeypatch.setattr(endings, "_END_SECONDS", 0.5)
    with Reranker(model, device="cpu:2", timeout=3) as fresh:
        hung = [dispatcher.worker._process for dispatcher in fresh._executor._pool.dispatchers]  # type: ignore[union-attr]
        for process in hung:
            process.send_signal(signal.SIGSTOP)
            monkeypatch.setattr(process, "kill", lambda: None)
        with pytest.raises(WorkerTimeout):
            fresh.score(PAIRS)
        object.__setattr__(fresh.config, "timeout", 100)
        assert same(fresh.score(PAIRS), expected)
        assert all(process.poll() is None for process in hung)
        for process in hung:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def test_hang_with_more_in_hand_than_a_pipe_holds(model: str) -> None:
    """A stopped process reads nothing either: a large shard must not leave its sender waiting for ever."""
    large = [(f"query {i}", "bear " * 1000) for i in range(400)]
    with Reranker(model, device="cpu:2", timeout=3) as fresh:
        hung = pids(fresh)
        for pid in hung:
            kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerTimeout):
            fresh.score(large)
        object.__setattr__(fresh.config, "timeout", 100)
        assert len(fresh.score(PAIRS)) == len(PAIRS)
        assert not set(hung) & set(pids(fresh))


def test_an_exception_on_one_input_is_that_request_s_alone(fresh: Reranker, expected: list[float]) -> None:
    """Something the scorer chokes on reaches a worker; it answers with the reason and lives on."""
    alive, restore = pids(fresh), []
    for dispatcher in fresh._executor._pool.dispatchers:  # type: ignore[union-attr]
        ask = dispatcher.worker.ask
        restore.append((dispatcher.worker, ask))

        def asking(message: Any, timeout: Any, ask: Any = ask) -> Any:
            pairs = [("bad", 7) if pair == ("bad", "bad") else pair for pair in message["pairs"]]
            return ask({**message, "pairs": pairs}, timeout)

        dispatcher.worker.ask = asking
    with ThreadPoolExecutor(3) as callers:
        good, small = callers.submit(fresh.score, PAIRS), callers.submit(fresh.score, PAIRS[:1])
        bad = callers.submit(fresh.score, [("bad", "bad"), ("q", "p")])
        with pytest.raises(WorkerError, match=r"Scoring on cpu #[12] failed: TypeError"):
            bad.result(100)
        assert same(good.result(100), expected)
        assert same(small.result(100), expected[:1])
    for worker, ask in restore:
        worker.ask = ask
    assert pids(fresh) == alive


def test_a_load_that_fails_is_the_same_error_as_in_one_process(model: str) -> None:
    with pytest.raises(ModelLoadError, match="no directory"):
        Reranker("/no/such/model", device="cpu:2")


def test_scores_stay_right_while_workers_die_under_the_calls(pool: Reranker, expected: list[float]) -> None:
    """Workers are killed again and again, some while they load: a call gives right scores or says so."""
    kills, stop = 0, threading.Event()

    def killing() -> None:
        nonlocal kills
        while not stop.wait(1.0):
            for pid in pids(pool)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    kill(pid)
                    kills += 1

    thread = threading.Thread(target=killing)
    thread.start()
    wrong = 0
    while kills < 8:
        try:
            wrong += not same(pool.score(PAIRS), expected)
        except WorkerDied:  # noqa: PERF203 - an honest answer, too
            continue
    stop.set()
    thread.join()
    assert wrong == 0
    assert same(pool.score(PAIRS), expected)
