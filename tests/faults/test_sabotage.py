"""Workers that break from within: a library that never returns, memory that runs out, a device that is lost."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults.pool_tools import PAIRS, gone, pids, same, wait_until

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import WorkerDied, WorkerError, WorkerTimeout


def sabotage(what: str) -> list[tuple[str, str]]:
    """One pair that breaks the worker it comes to."""
    return [("sabotage", what)]


def test_hang_that_holds_the_gil(model: str, marks: Path, expected: list[float]) -> None:
    """No thread of the worker can run, not even one that would end it: it is killed from outside."""
    with Reranker(model, device="cpu:2", timeout=5) as fresh:
        before = pids(fresh)
        with pytest.raises(WorkerTimeout, match="timeout=5"):
            fresh.score(sabotage("hold the GIL"))
        (hung,) = (int(mark.name) for mark in marks.iterdir())
        assert hung in before
        wait_until(lambda: gone(hung))
        object.__setattr__(fresh.config, "timeout", 100)
        assert same(fresh.score(PAIRS), expected)
        assert hung not in pids(fresh)


def test_a_killed_parent_leaves_no_orphan_that_holds_the_gil(model: str, marks: Path) -> None:
    code = """
        import threading
        from flag_rerank_integrations import Reranker
        reranker = Reranker(MODEL, device="cpu:2")
        # Two calls, for equal pairs of one call go to one worker.
        for _ in range(2):
            threading.Thread(target=reranker.score, args=([("sabotage", "hold the GIL")],)).start()
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code).replace("MODEL", repr(model))])
    wait_until(lambda: len(list(marks.iterdir())) == 2)
    workers = [int(mark.name) for mark in marks.iterdir()]
    assert not any(map(gone, workers))
    parent.kill()
    parent.wait()
    wait_until(lambda: all(map(gone, workers)), 2)


@pytest.mark.parametrize(
    "what, says",
    [
        ("be killed", r"exit code -9 \(SIGKILL: .*memory runs out\)"),
        ("exit politely", "exit code 0"),
        ("overrun memory", r"exit code -11 \(SIGSEGV\)"),
    ],
)
def test_an_input_that_ends_every_worker_fails_alone(
    model: str, marks: Path, expected: list[float], what: str, says: str
) -> None:
    """Twice it is tried again, then its caller is told; others and the pool live on."""
    with Reranker(model, device="cpu:2") as fresh, ThreadPoolExecutor(2) as callers:
        bad, good = callers.submit(fresh.score, sabotage(what)), callers.submit(fresh.score, PAIRS)
        with pytest.raises(WorkerDied, match=f"cpu.*{says}"):
            bad.result(100)
        assert same(good.result(100), expected)
        assert len(list(marks.iterdir())) == 3
        assert same(fresh.score(PAIRS), expected)


def test_an_exception_that_cannot_be_sent_is_told_in_words(model: str, marks: Path, expected: list[float]) -> None:
    with Reranker(model, device="cpu:2") as fresh:
        before = pids(fresh)
        with pytest.raises(
            WorkerError, match=r"Scoring on cpu #[12] failed: _Unspeakable: \(its message cannot be shown\)"
        ):
            fresh.score(sabotage("raise the unspeakable"))
        assert same(fresh.score(PAIRS), expected)
        assert pids(fresh) == before
    assert marks


@pytest.mark.parametrize("what", ["send a list", "send an endless frame", "send no JSON"])
def test_a_worker_that_sends_rubbish_is_replaced(model: str, marks: Path, expected: list[float], what: str) -> None:
    """It lives and waits for work, but nothing it sends can be read."""
    with Reranker(model, device="cpu:2") as fresh:
        with pytest.raises(WorkerDied):
            fresh.score(sabotage(what))
        assert same(fresh.score(PAIRS), expected)
        assert all(gone(int(mark.name)) for mark in marks.iterdir())


def test_a_worker_that_lost_its_device_is_replaced(model: str, marks: Path, expected: list[float]) -> None:
    """After such an error every later call of the process would fail, too."""
    with Reranker(model, device="cpu:2") as fresh:
        with pytest.raises(WorkerDied, match="device-side assert triggered"):
            fresh.score(sabotage("lose the device"))
        assert same(fresh.score(PAIRS), expected)
        assert all(gone(int(mark.name)) for mark in marks.iterdir())
