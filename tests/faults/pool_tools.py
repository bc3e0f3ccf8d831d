"""Looking into a pool from outside: its processes, and what this process holds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flag_rerank_integrations import Reranker

PAIRS = [(f"query {i % 9}", "giant panda bear in China " * (i % 40 + 1)) for i in range(120)]


def pids(reranker: Reranker) -> list[int]:
    executor: Any = reranker._executor
    return [dispatcher.worker.pid for dispatcher in executor._pool.dispatchers if dispatcher.worker.pid]


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, how)


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def same(found: list[float], expected: list[float], within: float = 3e-6) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= within for a, b in zip(found, expected, strict=True))


def holdings() -> dict[str, int]:
    """What a leak would add to: children, threads, open files, shared memory."""
    me = psutil.Process()
    shared = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    return {
        "children": len(me.children(recursive=True)),
        "threads": threading.active_count(),
        "files": me.num_fds(),
        "shared memory": len(list(shared.iterdir())) if shared.exists() else 0,
    }
