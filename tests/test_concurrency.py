"""Many callers at once: each gets its own scores, and none can harm another."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import DeviceError, RerankError, WorkerError
from flag_rerank_integrations.executors import local

CALLS = 32
WORDS = ["panda", "bear", "Berlin", "people", "museum", "China", "area", "3,520,031"]


def requests(count: int = CALLS) -> list[list[tuple[str, str]]]:
    rng = random.Random(5)

    def text(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    return [[(text(6), text(40)) for _ in range(rng.randint(1, 20))] for _ in range(count)]


@pytest.fixture(scope="module")
def reranker(tiny: Any) -> Any:
    with Reranker(tiny("bert"), device="cpu") as live:
        yield live


@pytest.fixture(scope="module")
def expected(reranker: Reranker) -> list[list[float]]:
    return [[reranker.score([pair])[0] for pair in request] for request in requests()]


def wrong(found: list[list[float]], expected: list[list[float]]) -> int:
    pairs = [(a, b) for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True)]
    return sum(abs(a - b) > 3e-6 for a, b in pairs)


def test_a_call_that_cannot_even_be_lined_up_fails_alone(
    reranker: Reranker, expected: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(local, "_Group", no_room)
        with pytest.raises(WorkerError, match="MemoryError"):
            reranker.score([("a", "b")])
    assert wrong([reranker.score(requests()[0])], expected[:1]) == 0


def test_threads(reranker: Reranker, expected: list[list[float]]) -> None:
    with ThreadPoolExecutor(CALLS) as pool:
        assert wrong(list(pool.map(reranker.score, requests())), expected) == 0


async def test_tasks(reranker: Reranker, expected: list[list[float]]) -> None:
    found = await asyncio.gather(*(reranker.ascore(request) for request in requests()))
    assert wrong(list(found), expected) == 0


def test_event_loops_in_threads(reranker: Reranker, expected: list[list[float]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda request: asyncio.run(reranker.ascore(request)), requests()))
    assert wrong(found, expected) == 0


def test_calls_that_wait_together_share_forward_passes(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", max_batch_tokens=100_000) as fresh:
        busy = fresh._executor.submit([("panda " * 50, "bear " * 200 + str(i)) for i in range(60)])  # type: ignore[union-attr]
        futures = [fresh._executor.submit([(f"query {i}", "passage")]) for i in range(CALLS)]  # type: ignore[union-attr]
        for future in [busy, *futures]:
            future.result(60)
        assert fresh.stats().forward_passes < CALLS / 2


async def test_the_event_loop_is_not_blocked(reranker: Reranker) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await reranker.ascore([(f"panda {i}", "bear " * 150) for i in range(150)])
    ticker.cancel()
    assert ticks > 3


async def test_cancelled_work_is_dropped_and_the_next_call_works(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", max_batch_tokens=128) as fresh:
        task = asyncio.create_task(fresh.ascore([(f"panda {i}", "bear " * 60) for i in range(600)]))
        while fresh.stats().forward_passes < 2:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await fresh.ascore([("panda", "bear")])) == 1
        assert fresh.stats().scored_pairs < 600


def test_a_short_call_does_not_wait_for_a_long_one(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu", max_batch_tokens=64) as fresh:
        long = fresh._executor.submit([(f"panda {i}", "bear " * 40) for i in range(500)])  # type: ignore[union-attr]
        while not fresh.stats().forward_passes:
            time.sleep(0.001)
        fresh.score([("panda", "bear")])
        assert not long.done()
        long.cancel()


def test_one_bad_request_does_not_harm_those_that_share_its_batch(tiny: Any) -> None:
    """A fault of the model on one input fails that request, with the reason, and no other."""
    with Reranker(tiny("bert"), device="cpu", max_batch_tokens=100_000) as fresh:
        executor: Any = fresh._executor
        family = executor._scorer._family
        marker = family.encode([("q", "museum")])[0].ids
        intact = family.forward

        def faulty(batch: Any) -> Any:
            if any(list(pair.ids) == list(marker) for pair in batch):
                msg = "index out of range in self"
                raise IndexError(msg)
            return intact(batch)

        family.forward = faulty
        busy = executor.submit([("panda " * 50, "bear " * 200 + str(i)) for i in range(60)])
        good = [executor.submit([("q", f"panda {i}")]) for i in range(6)]
        bad = executor.submit([("q", "museum"), ("q", "panda")])
        assert all(len(future.result(60).logits) == 1 for future in good)
        with pytest.raises(WorkerError, match="IndexError: index out of range"):
            bad.result(60)
        busy.result(60)
        assert len(fresh.score([("a", "b")])) == 1


@pytest.mark.parametrize("exit_type", [SystemExit, KeyboardInterrupt])
def test_a_model_that_tries_to_exit_is_an_error_of_its_caller(tiny: Any, exit_type: type[BaseException]) -> None:
    """Code that came with a checkpoint may; nobody must wait for an answer that never comes."""
    with Reranker(tiny("bert"), device="cpu") as fresh:
        executor: Any = fresh._executor
        family = executor._scorer._family
        intact = family.forward

        def leaving(batch: Any) -> Any:
            raise exit_type

        family.forward = leaving
        with pytest.raises(WorkerError, match=exit_type.__name__):
            executor.submit([("a", "b")]).result(30)
        family.forward = intact
        assert len(fresh.score([("a", "b")])) == 1


def test_out_of_memory_halves_the_budget_and_loses_no_pair(tiny: Any) -> None:
    pairs = [(f"panda {i}", "bear " * (i % 50)) for i in range(80)]
    with Reranker(tiny("bert"), device="cpu", max_batch_tokens=100_000) as fresh:
        expected = fresh.score(pairs)
        family = fresh._executor._scorer._family  # type: ignore[union-attr]
        intact, sizes = family.forward, []

        def small_memory(batch: Any) -> Any:
            sizes.append(sum(map(len, batch)))
            if sizes[-1] > 300:
                msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
                raise torch.OutOfMemoryError(msg)
            return intact(batch)

        family.forward = small_memory
        assert fresh.score(pairs) == pytest.approx(expected, abs=3e-6)
        backed_off = fresh.stats()
        assert backed_off.oom_backoffs == sum(size > 300 for size in sizes) > 0
        assert backed_off.max_batch_tokens <= 300
        sizes.clear()
        fresh.score(pairs)
        assert max(sizes) <= 300, "the smaller budget is remembered"


def test_out_of_memory_on_one_pair_is_a_device_error(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as fresh:
        family = fresh._executor._scorer._family  # type: ignore[union-attr]
        intact = family.forward

        def no_memory(batch: Any) -> Any:
            msg = "out of memory"
            raise torch.OutOfMemoryError(msg)

        family.forward = no_memory
        with pytest.raises(DeviceError, match="single pair"):
            fresh.score([("a", "b")])
        family.forward = intact
        assert len(fresh.score([("a", "b")])) == 1


def test_other_runtime_errors_are_not_taken_for_out_of_memory(tiny: Any) -> None:
    with Reranker(tiny("bert"), device="cpu") as fresh:
        family = fresh._executor._scorer._family  # type: ignore[union-attr]

        def broken(batch: Any) -> Any:
            msg = "mat1 and mat2 shapes cannot be multiplied"
            raise RuntimeError(msg)

        family.forward = broken
        with pytest.raises(WorkerError, match="mat1 and mat2"):
            fresh.score([("a", "b"), ("c", "d")])
        assert fresh.stats().oom_backoffs == 0


def test_close_while_busy_ends_every_call(tiny: Any) -> None:
    fresh = Reranker(tiny("bert"), device="cpu", max_batch_tokens=64)
    outcomes: list[str] = []

    def call(i: int) -> None:
        try:
            fresh.score([(f"panda {i} {j}", "bear " * 40) for j in range(300)])
            outcomes.append("scored")
        except RerankError:
            outcomes.append("refused")

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while not fresh.stats().forward_passes:
        time.sleep(0.001)
    fresh.close()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 4
    assert "refused" in outcomes


def test_a_forked_child_is_told(reranker: Reranker) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        try:
            reranker.score([("a", "b")])
            answers.put("scored")
        except WorkerError as error:
            answers.put(str(error))

    process = context.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert "fork" in answers.get()
    assert len(reranker.score([("a", "b")])) == 1


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process on Windows")
def test_ctrl_c_stops_promptly_and_the_next_call_works(tiny: Any) -> None:
    code = textwrap.dedent(f"""
        import sys, threading, os, signal, time
        from flag_rerank_integrations import Reranker
        r = Reranker({tiny("bert")!r}, device="cpu", max_batch_tokens=64)
        def interrupt():
            while r.stats().forward_passes < 3: time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            r.score([(f"panda {{i}}", "bear " * 60) for i in range(5000)])
            print("finished")
        except KeyboardInterrupt:
            print("interrupted", r.stats().scored_pairs < 5000)
        print(len(r.score([("a", "b")])))
    """)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split("\n")[:2] == ["interrupted True", "1"]


def test_a_process_ends_with_a_reranker_left_open_and_busy(tiny: Any) -> None:
    code = textwrap.dedent(f"""
        import threading
        from flag_rerank_integrations import Reranker
        r = Reranker({tiny("bert")!r}, device="cpu", max_batch_tokens=64)
        pairs = [("panda", "bear " * 60 + str(i)) for i in range(5000)]
        threading.Thread(target=r.score, args=(pairs,), daemon=True).start()
        while not r.stats().forward_passes: pass
        print("leaving")
    """)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (answer.returncode, answer.stdout.strip()) == (0, "leaving"), answer.stderr
    assert signal.SIGSEGV.name not in answer.stderr
