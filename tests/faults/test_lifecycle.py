"""A pool is started, used, shared, interrupted and ended in every way its users may think of."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from faults.pool_tools import PAIRS, gone, kill, pids, same, wait_until

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import RerankError, WorkerError

CALLS = 32


def run(code: str, *, model: str, stdin: bool = False, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, from -c, standard input or a file."""
    code = textwrap.dedent(code).replace("MODEL", repr(model))
    if script is not None:
        script.write_text(code)
    arguments = [str(script)] if script else ["-"] if stdin else ["-c", code]
    return subprocess.run(
        [sys.executable, *arguments], input=code if stdin else None, capture_output=True, text=True, timeout=110,
        check=False,
    )  # fmt: skip


START_AND_SCORE = """
    from flag_rerank_integrations import Reranker
    reranker = Reranker(MODEL, device="cpu:2")
    print(len(reranker.score([("panda", f"bear {i}") for i in range(50)])))
"""


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
    with Reranker(model, device=["cpu", "cpu"]) as other, ThreadPoolExecutor(2) as callers:
        assert all(same(scores, expected) for scores in callers.map(lambda r: r.score(PAIRS), (pool, other)))


def test_cancelled_task_frees_its_work(pool: Reranker, expected: list[float]) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(pool.ascore([(f"q {i}", "bear " * 200) for i in range(3000)]))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    before = pool.stats().scored_pairs
    assert same(pool.score(PAIRS), expected)
    assert pool.stats().scored_pairs - before < 3000


def test_ctrl_c_in_the_middle_then_reuse(model: str) -> None:
    answer = run(
        """
        import os, signal, threading, time
        from flag_rerank_integrations import Reranker
        r = Reranker(MODEL, device="cpu:2")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        threading.Timer(0.5, lambda: os.killpg(0, signal.SIGINT)).start()
        os.setpgid(0, 0)
        try:
            r.score([(f"panda {i}", "bear " * 200) for i in range(50_000)])
            print("finished")
        except KeyboardInterrupt:
            print("interrupted")
        print(len(r.score([("a", "b")])))
        r.close()
        """,
        model=model,
    )
    assert answer.stdout.split() == ["interrupted", "1"], answer.stderr


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_killed_parent_leaves_no_orphan(model: str, state: str) -> None:
    code = """
        import sys, time
        from flag_rerank_integrations import Reranker
        r = Reranker(MODEL, device="cpu:2")
        print(*[d.worker.pid for d in r._executor._pool.dispatchers], flush=True)
        if STATE == "busy":
            r.score([(f"panda {i}", "bear " * 200) for i in range(50_000)])
        time.sleep(100)
    """
    code = textwrap.dedent(code).replace("MODEL", repr(model)).replace("STATE", repr(state))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: all(map(gone, workers)), 2)


def test_fork_after_start(pool: Reranker, expected: list[float]) -> None:
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        try:
            pool.score([("a", "b")])
        except WorkerError as error:
            answers.put(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "fork" in answers.get()
    assert same(pool.score(PAIRS), expected)


@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
def test_a_forked_child_that_closes_leaves_its_parent_s_workers_alone(model: str, device: str) -> None:
    """Whatever lock another thread holds at the time of the fork stays locked in the child."""
    answer = run(
        f"""
        import os, threading, time
        from flag_rerank_integrations import Reranker
        r = Reranker(MODEL, device="{device}")
        inner = r._executor
        lock = inner._worker._gate if "{device}" == "cpu" else inner._pool.queue._changed
        locked, forked = threading.Event(), threading.Event()
        def hold():
            with lock:
                locked.set()
                forked.wait()
        threading.Thread(target=hold).start()
        locked.wait()
        child = os.fork()
        if not child:
            r.close()
            os._exit(7)
        forked.set()
        end = time.monotonic() + 20
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.01)
        print(os.waitstatus_to_exitcode(ended[1]) if ended[0] else "hangs")
        if not ended[0]:
            os.kill(child, 9)
        print(len(r.score([("a", "b")])), r.stats().worker_restarts)
        """,
        model=model,
    )
    assert answer.stdout.split() == ["7", "1", "0"], answer.stderr


def test_close_twice_and_use_after_close(model: str) -> None:
    fresh = Reranker(model, device="cpu:2")
    workers = pids(fresh)
    fresh.close()
    fresh.close()
    assert all(map(gone, workers))
    with pytest.raises(WorkerError, match="closed"):
        fresh.score([("a", "b")])


def test_close_while_busy_ends_every_call_promptly(model: str) -> None:
    fresh = Reranker(model, device="cpu:2")
    outcomes: list[str] = []

    def call() -> None:
        try:
            fresh.score([(f"panda {i}", "bear " * 200) for i in range(20_000)])
            outcomes.append("scored")
        except RerankError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    fresh.close()
    for thread in threads:
        thread.join(20)
    assert outcomes == ["WorkerError"] * 3


def test_copies_start_their_own_workers(pool: Reranker, expected: list[float]) -> None:
    with copy.deepcopy(pool) as twin:
        assert same(twin.score(PAIRS), expected)
        assert not set(pids(twin)) & set(pids(pool))


def test_a_forgotten_pool_ends_its_workers(model: str) -> None:
    forgotten = Reranker(model, device="cpu:2")
    workers = pids(forgotten)
    del forgotten
    gc.collect()
    wait_until(lambda: all(map(gone, workers)), 10)


@pytest.mark.parametrize("way", ["command", "stdin", "script"])
def test_start_without_a_main_guard(model: str, tmp_path: Path, way: str) -> None:
    answer = run(
        START_AND_SCORE, model=model, stdin=way == "stdin", script=tmp_path / "job.py" if way == "script" else None
    )
    assert (answer.returncode, answer.stdout.strip()) == (0, "50"), answer.stderr


def test_start_where_files_of_this_directory_shadow_modules(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    with Reranker(model, device="cpu:2") as fresh:
        assert len(fresh.score([("a", "b")])) == 1


def test_start_in_a_daemonic_child(model: str) -> None:
    answer = run(
        """
        import multiprocessing
        def job(answers):
            from flag_rerank_integrations import Reranker
            with Reranker(MODEL, device="cpu:2") as r:
                answers.put(len(r.score([("a", "b"), ("c", "d")])))
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        process = context.Process(target=job, args=(answers,), daemon=True)
        process.start()
        print(answers.get())
        process.join()
        """,
        model=model,
    )
    assert answer.stdout.strip() == "2", answer.stderr


def test_an_asyncio_server_serves_many_clients(pool: Reranker, expected: list[float]) -> None:
    """A real server on loopback: each line asks for some pairs, each answer has their scores."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, last = map(int, (await reader.readline()).split())
        writer.write(" ".join(map(repr, await pool.ascore(PAIRS[first:last]))).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def ask(port: int, first: int, last: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{first} {last}\n".encode())
        answer = await reader.readline()
        writer.close()
        return [float(score) for score in answer.split()]

    async def main() -> list[bool]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            parts = [(i, i + 4 + i % 5) for i in range(CALLS)]
            found = await asyncio.gather(*(ask(port, *part) for part in parts))
        return [same(scores, expected[first:last]) for scores, (first, last) in zip(found, parts, strict=True)]

    assert asyncio.run(main()) == [True] * CALLS


def test_stray_prints_in_a_worker_break_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that prints at start-up, and again at exit, as site customizations do."""
    (tmp_path / "sitecustomize.py").write_text(
        "print('hello ' * 1000, flush=True)\nimport atexit\natexit.register(print, 'bye')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Reranker(model, device="cpu:2") as fresh:
        assert len(fresh.score([("a", "b")])) == 1


def test_small_requests_stay_in_one_piece(pool: Reranker) -> None:
    before = pool.stats().forward_passes
    pool.score([("panda", f"bear {i}") for i in range(5)])
    assert pool.stats().forward_passes == before + 1


def test_figures_add_up_over_workers_and_restarts(model: str) -> None:
    with Reranker(model, device="cpu:2") as fresh:
        fresh.score(PAIRS)
        kill(pids(fresh)[0])
        fresh.score(PAIRS)
        stats: Any = fresh.stats()
    assert stats.pairs == stats.scored_pairs >= 2 * len(set(PAIRS))
    assert stats.tokens == stats.computed_tokens > 0
    assert [device.name for device in stats.devices] == ["cpu", "cpu"]
