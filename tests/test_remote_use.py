"""How a RemoteReranker is used: from threads, event loops and processes, copied, closed, forgotten."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rerank_server import RerankServer, Serve, asking, status

from flag_rerank_integrations import RemoteConfig, RemoteReranker, RerankConfig, Reranker, RerankStats
from flag_rerank_integrations.errors import ConfigError, WorkerError

QUERY = "How many people live in Berlin?"
PASSAGES = ["Berlin has many inhabitants.", "New York City", "The giant panda", "Berlin is known for museums."]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
THREAD = "flag-rerank remote"


@pytest.fixture
def server(serve: Serve) -> RerankServer:
    return serve("infinity")


@pytest.fixture
def remote(server: RerankServer) -> Iterator[RemoteReranker]:
    with asking(server) as live:
        yield live


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def until(happened: Callable[[], bool]) -> None:
    """Wait for what happens in another thread; the test's own time limit ends a wait for nothing."""
    while not happened():
        threading.Event().wait(0.005)


def test_threads_at_once_get_their_own_scores(remote: RemoteReranker, local: Reranker) -> None:
    jobs = [[(f"query {i}", f"passage {j}") for j in range(i % 7 + 1)] for i in range(48)]
    wanted = [local.score(job) for job in jobs]
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(remote.score, jobs))
    assert [len(scores) for scores in found] == [len(scores) for scores in wanted]
    assert [score for job in found for score in job] == pytest.approx([s for job in wanted for s in job], abs=3e-6)


def test_event_loops_come_and_go(remote: RemoteReranker, local: Reranker) -> None:
    wanted = pytest.approx(local.score(PAIRS), abs=3e-6)

    async def several() -> list[list[float]]:
        return await asyncio.gather(*(remote.ascore(PAIRS) for _ in range(5)))

    def in_a_loop(_: int) -> list[list[float]]:
        return asyncio.run(several())

    assert all(scores == wanted for _ in range(2) for scores in in_a_loop(0))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(in_a_loop, range(4)))
    assert all(scores == wanted for answer in answers for scores in answer)
    assert remote.score(PAIRS) == wanted
    assert len(threads()) == 1


async def test_a_sync_call_works_inside_a_running_loop(remote: RemoteReranker, local: Reranker) -> None:
    assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)


async def test_the_loop_turns_while_the_server_thinks(server: RerankServer, remote: RemoteReranker) -> None:
    server.gate.clear()
    call = asyncio.ensure_future(remote.arank(QUERY, PASSAGES))
    await asyncio.to_thread(until, lambda: server.at_once > 0)
    assert not call.done()
    server.gate.set()
    assert len(await call) == 4


async def test_no_more_requests_at_once_than_allowed(server: RerankServer, local: Reranker) -> None:
    with asking(server, max_passages=1, max_concurrency=3) as remote:
        server.gate.clear()
        calls = [asyncio.ensure_future(remote.ascore(PAIRS)) for _ in range(4)]
        await asyncio.to_thread(until, lambda: server.at_once == 3)
        for _ in range(50):  # chances for a fourth to come, if it would
            await asyncio.to_thread(bool)
        server.gate.set()
        wanted = pytest.approx(local.score(PAIRS), abs=3e-6)
        assert all(scores == wanted for scores in await asyncio.gather(*calls))
    assert server.most_at_once == 3


async def test_a_short_call_does_not_wait_for_a_long_one(server: RerankServer) -> None:
    with asking(server, max_passages=1, max_concurrency=2) as remote:
        long = asyncio.ensure_future(remote.ascore([("q", f"passage {i}") for i in range(60)]))
        await asyncio.to_thread(until, lambda: bool(server.bodies))
        await remote.ascore(PAIRS[:2])
        assert not long.done()
        assert len(await long) == 60


async def test_a_cancelled_call_gives_up_its_requests(server: RerankServer, local: Reranker) -> None:
    with asking(server, max_passages=1, max_concurrency=2) as remote:
        server.gate.clear()
        call = asyncio.ensure_future(remote.ascore([("q", f"passage {i}") for i in range(100)]))
        await asyncio.to_thread(until, lambda: server.at_once == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.gate.set()
        assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)
        assert remote.stats().requests == 6


def test_closing_ends_calls_under_way(server: RerankServer) -> None:
    remote = asking(server)
    server.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(remote.score, PAIRS)
        until(lambda: server.at_once > 0)
        remote.close()
        with pytest.raises(WorkerError, match="was closed before the request was done"):
            call.result(20)
    remote.close()
    assert "closed" in repr(remote)
    for use in (lambda: remote.score(PAIRS), remote.start, lambda: asyncio.run(remote.ascore(PAIRS))):
        with pytest.raises(WorkerError, match="This RemoteReranker is closed"):
            use()
    assert threads() == []


async def test_context_managers_start_and_close(server: RerankServer) -> None:
    config = RemoteConfig(server.url, form="infinity")
    async with RemoteReranker.from_config(config, start=False) as remote:
        assert "not connected" not in repr(remote)
        assert len(await remote.arank(QUERY, PASSAGES)) == 4
    with RemoteReranker.from_config(config, start=False) as remote:
        assert repr(remote) == f"<RemoteReranker at '{server.url}', connected>"
    assert threads() == []


def test_a_late_start_asks_nothing_before_its_time() -> None:
    remote = RemoteReranker.from_config(RemoteConfig("http://127.0.0.1:9"), start=False)
    assert "not connected" in repr(remote)
    assert remote.stats() == RerankStats()
    assert remote.score([]) == []
    remote.close()
    with pytest.raises(ConfigError, match=r"from_config needs a RemoteConfig, .* not RerankConfig"):
        RemoteReranker.from_config(RerankConfig())  # type: ignore[arg-type]


def test_copies_carry_the_options_only(server: RerankServer, local: Reranker) -> None:
    server.key = "a-key"
    with asking(server, api_key="a-key") as remote:
        for twin in (copy.deepcopy(remote), copy.copy(remote), pickle.loads(pickle.dumps(remote))):
            assert twin.config == remote.config
            assert "not connected" in repr(twin)
            assert twin.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)
            twin.close()


def test_a_forgotten_one_ends_its_thread(server: RerankServer) -> None:
    remote = asking(server)
    assert len(remote.score(PAIRS)) == 4
    (thread,) = threads()
    del remote
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_many_starts_leave_nothing_behind(server: RerankServer) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def once() -> None:
        with asking(server) as remote:
            remote.score(PAIRS)

    once()
    before = count()
    for _ in range(10):
        once()
    # The server closes its ends of the connections in its own threads.
    until(lambda: count() <= before)
    assert threads() == []


def test_progress_counts_pairs(server: RerankServer, capfd: pytest.CaptureFixture[str]) -> None:
    with asking(server, progress=True, max_passages=2) as remote:
        remote.score([*PAIRS, PAIRS[0]])
        server.faults.append(status(500))
        with pytest.raises(WorkerError):
            remote.score(PAIRS)
    shown = capfd.readouterr()
    assert "5/5" in shown.err
    assert shown.out == ""


def test_a_forked_child_is_told(remote: RemoteReranker) -> None:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads, which is the point
        child = os.fork()
    if child == 0:
        try:
            remote.score(PAIRS)
        except WorkerError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    assert "threads did not survive the fork" in told
    assert len(remote.score(PAIRS)) == 4


def run(code: str, *arguments: str) -> str:
    """Run a program of its own."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


PATCHED = """
import asyncio, sys, nest_asyncio
nest_asyncio.apply()
from flag_rerank_integrations import RemoteReranker
remote = RemoteReranker(sys.argv[1], form="infinity")
async def both():
    sync, inner = remote.rank("q", ["a", "b"]), asyncio.run(remote.arank("q", ["a", "b"]))
    return sync == inner == await remote.arank("q", ["a", "b"])
print(asyncio.run(both()))
"""


def test_it_works_where_a_notebook_has_patched_asyncio_and_ends_with_the_program(server: RerankServer) -> None:
    assert run(PATCHED, server.url) == "True\n"


LIGHT = """
import sys
from flag_rerank_integrations import RemoteReranker
before = "httpx" in sys.modules
remote = RemoteReranker(sys.argv[1], form="infinity")
print(before, len(remote.rank("q", ["a", "b"])), "torch" in sys.modules, "transformers" in sys.modules)
"""


def test_asking_a_server_loads_no_model_library(server: RerankServer) -> None:
    assert run(LIGHT, server.url) == "False 2 False False\n"


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r"pip install 'flag-rerank-integrations\[remote\]'"):
        RemoteReranker("http://127.0.0.1:9")
    assert isinstance(RemoteConfig("http://127.0.0.1:9"), RemoteConfig)


def test_an_interrupted_call_gives_up_its_requests(
    server: RerankServer, remote: RemoteReranker, local: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Any, __: Any = None) -> None:
        until(lambda: server.at_once > 0)
        raise KeyboardInterrupt

    server.gate.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remote.score(PAIRS)
    server.gate.set()
    assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)
