"""What servers and networks do wrong: retried where that helps, else one clear error, and never a wrong rank."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from rerank_server import RerankServer, Serve, asking, break_off, drop, status

from flag_rerank_integrations import RemoteReranker, Reranker
from flag_rerank_integrations.errors import (
    ConfigError,
    InputError,
    RerankError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
)

QUERY = "How many people live in Berlin?"
PASSAGES = ["Berlin has many inhabitants.", "New York City", "The giant panda", "Berlin is known for museums."]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server(serve: Serve) -> RerankServer:
    return serve("infinity")


@pytest.fixture
def remote(server: RerankServer) -> Iterator[RemoteReranker]:
    with asking(server, retries=2) as live:
        yield live


def answer(scores: Any) -> Callable[[Any], None]:
    """A fault: answer with these results."""
    return status(200, {"results": scores})


def entry(index: Any, score: Any) -> dict[str, Any]:
    return {"index": index, "relevance_score": score}


GOOD = [entry(i, float(i)) for i in range(4)]


@pytest.mark.parametrize(
    "fault",
    [
        status(502),
        status(503),
        status(504, b"<html>gateway</html>"),
        status(429),
        status(429, Retry_After="0"),
        status(429, Retry_After="soon"),
        status(429, Retry_After=format_datetime(datetime.now(timezone.utc) - timedelta(hours=1))),
        status(503, Retry_After=datetime.now(timezone.utc).strftime("%a %b %d %H:%M:%S %Y")),
        drop,
        break_off,
    ],
    ids=range(10),
)
def test_what_passes_is_tried_again(
    server: RerankServer, remote: RemoteReranker, local: Reranker, fault: Callable[[Any], None]
) -> None:
    server.faults.extend([fault, fault])
    assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)
    stats = remote.stats()
    assert (stats.requests, stats.retries, stats.pairs) == (3, 2, 4)


@pytest.mark.parametrize("fault", [status(503), status(429), drop])
async def test_what_does_not_pass_is_an_error_that_says_so(
    server: RerankServer, remote: RemoteReranker, local: Reranker, fault: Callable[[Any], None]
) -> None:
    server.faults.extend([fault] * 3)
    with pytest.raises(WorkerError, match="tried 3 times"):
        await remote.arank(QUERY, PASSAGES)
    assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)


def test_a_server_that_asks_for_more_time_than_there_is(server: RerankServer) -> None:
    with asking(server, timeout=5) as hurried, asking(server, timeout=None) as patient:
        for remote in (hurried, patient):
            server.faults.append(status(429, Retry_After="3600"))
            with pytest.raises(WorkerError, match=r"429 \(out of order\).*in 3600\.0 seconds, which is too late"):
                remote.score(PAIRS)
            assert remote.stats().retries == 0


@pytest.mark.parametrize(
    "code, kind, told",
    [
        (400, InputError, r"refused a request of 4 pairs: .* answered 400 \(out of order\)"),
        (401, ConfigError, "wants an API key: give api_key or api_key_env"),
        (403, ConfigError, "wants an API key"),
        (404, ConfigError, "no such endpoint or model. Check url, form and model"),
        (405, ConfigError, "no such endpoint"),
        (307, ConfigError, "points to another address"),
        (424, WorkerError, r"answered 424 \(out of order\)"),
        (500, WorkerError, r"answered 500 \(out of order\)"),
        (418, WorkerError, "answered 418"),
    ],
)
def test_what_does_not_get_better_is_told_at_once(
    server: RerankServer, remote: RemoteReranker, code: int, kind: type[Exception], told: str
) -> None:
    server.faults.append(status(code, Location="http://elsewhere.invalid/"))
    with pytest.raises(kind, match=told) as caught:
        remote.rank(QUERY, PASSAGES)
    assert type(caught.value) is kind
    assert remote.stats().requests == 1
    assert len(remote.score(PAIRS)) == 4


@pytest.mark.parametrize("code", [413, 422])
def test_a_pair_that_no_request_is_small_enough_for_is_named(
    server: RerankServer, remote: RemoteReranker, code: int
) -> None:
    server.faults.extend([status(code)] * 3)  # of 4, of 2, of 1
    with pytest.raises(InputError, match=rf"refused pair 0: .* answered {code} \(out of order\)"):
        remote.score(PAIRS)
    assert remote.stats().requests == 3


@pytest.mark.parametrize(
    "body, reason",
    [
        ({"error": "e", "error_type": "Validation"}, " (e)"),
        ({"error": {"message": "m", "type": "t"}}, " (m)"),
        ({"message": "m"}, " (m)"),
        ({"detail": [{"type": "missing", "loc": ["body"], "msg": "d", "input": PASSAGES[0]}]}, " (d)"),
        ({"detail": "several\n  lines"}, " (several lines)"),
        ({"error": "x" * 1000}, f" ({'x' * 300}…)"),
        ({"unknown": "shape"}, ""),
        (["list"], " (list)"),
        (b"<html>", ""),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
    ],
    ids=range(11),
)
def test_the_servers_own_reason_is_passed_on(
    server: RerankServer, remote: RemoteReranker, body: Any, reason: str
) -> None:
    server.faults.append(status(500, body))
    with pytest.raises(WorkerError) as caught:
        remote.score(PAIRS)
    assert str(caught.value) == f"{server.url}/rerank answered 500{reason}."


@pytest.mark.parametrize(
    "results, told",
    [
        (GOOD[:3], "it has 3 scores for 4 passages"),
        ([], "it has 0 scores for 4 passages"),
        ([*GOOD, entry(4, 1.0)], "index 4 of 4 passages"),
        ([*GOOD[:3], entry(-1, 1.0)], "index -1 of 4 passages"),
        ([*GOOD[:3], entry(0, 1.0)], "index 0 stands there twice"),
        ([*GOOD, entry(3, 3.0)], "index 3 stands there twice"),
        ([*GOOD[:3], entry(3, float("nan"))], "the score of passage 3 is nan"),
        ([*GOOD[:3], entry(3, float("inf"))], "the score of passage 3 is inf"),
        ([*GOOD[:3], entry(3, None)], "entry 3 has no number as its 'relevance_score'"),
        ([*GOOD[:3], entry(3, "0.5")], "entry 3 has no number"),
        ([*GOOD[:3], entry(3, score=True)], "entry 3 has no number"),
        ([*GOOD[:3], entry(3, 10**400)], "the score of passage 3 is inf"),
        ([*GOOD[:3], entry("3", 1.0)], "an entry has no index"),
        ([*GOOD[:3], entry(index=True, score=1.0)], "an entry has no index"),
        ([*GOOD[:3], entry(3.0, 1.0)], "an entry has no index"),
        ([*GOOD[:3], None], "an entry has no index"),
        ("four", "there is no list of scores under 'results', as form='infinity' has it"),
        (None, "there is no list of scores"),
    ],
    ids=range(18),
)
async def test_an_answer_that_is_not_whole_is_never_a_rank(
    server: RerankServer, remote: RemoteReranker, local: Reranker, results: Any, told: str
) -> None:
    server.faults.extend([answer(results)] * 2)
    with pytest.raises(WorkerError, match=told):
        remote.rank(QUERY, PASSAGES, top_n=1)
    with pytest.raises(WorkerError, match=told):
        await remote.ascore(PAIRS)
    assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)


def test_an_order_of_the_servers_own_does_not_matter(server: RerankServer, remote: RemoteReranker) -> None:
    server.faults.append(answer([GOOD[2], GOOD[0], GOOD[3], GOOD[1]]))
    assert remote.score(PAIRS) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"\xff"])
def test_an_answer_that_is_not_json_is_told(server: RerankServer, remote: RemoteReranker, body: bytes) -> None:
    server.faults.append(status(200, body))
    with pytest.raises(WorkerError, match="not JSON: is this the endpoint"):
        remote.score(PAIRS)


def test_scores_that_are_called_normalized_and_are_not_are_refused(serve: Serve) -> None:
    server = serve("jina")
    with asking(server, normalize=True) as unit, asking(server, normalize=None) as plain:
        server.faults.extend([answer(GOOD)] * 2)
        with pytest.raises(WorkerError, match=r"2\.0 is outside 0 to 1, so these are no normalized scores"):
            unit.score(PAIRS)
        assert plain.score(PAIRS) == [0.0, 1.0, 2.0, 3.0]


async def test_one_failed_request_fails_its_call_and_no_other(server: RerankServer, local: Reranker) -> None:
    with asking(server, max_passages=1, max_concurrency=4, retries=0) as remote:
        server.faults.append(status(500))
        calls = [remote.ascore(PAIRS) for _ in range(8)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = [found for found in answers if isinstance(found, BaseException)]
    assert [type(error) for error in failed] == [WorkerError]
    wanted = pytest.approx(local.score(PAIRS), abs=3e-6)
    assert [found for found in answers if found == wanted] == [found for found in answers if found not in failed]


def test_nobody_there_is_told_with_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for options in ({}, {"form": "tei"}, {"form": "vllm"}):
            with pytest.raises(
                WorkerDied, match=rf"No answer from {url}/.*ConnectError.*\(tried twice\)|tried 2 times"
            ):
                RemoteReranker(url, retries=1, **options)
        with RemoteReranker(url, form="infinity", retries=0) as remote, pytest.raises(WorkerDied, match="tried once"):
            remote.score(PAIRS)


@pytest.mark.parametrize("kind", ["tei", "vllm", "infinity"])
def test_a_server_behind_a_gateway_need_not_tell_of_itself(
    serve: Serve, local: Reranker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    server = serve(kind)
    monkeypatch.setattr(server, "about", lambda _: b"<html>welcome</html>")
    with asking(server) as remote:
        assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)


def test_a_call_that_takes_too_long_ends_in_time_and_the_next_one_works(server: RerankServer, local: Reranker) -> None:
    with asking(server, timeout=0.3) as remote:
        server.gate.clear()
        with pytest.raises(WorkerTimeout, match=r"4 pairs were not scored within timeout=0\.3"):
            remote.score(PAIRS)
        with pytest.raises(WorkerTimeout):
            asyncio.run(remote.arank(QUERY, PASSAGES))
        server.gate.set()
        object.__setattr__(remote.config, "timeout", 60)
        assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)


def test_a_server_that_does_not_tell_what_it_is_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(WorkerTimeout, match=r"did not tell what it is within timeout=0\.3 seconds"):
            RemoteReranker(url, timeout=0.3)
    assert not [thread for thread in threading.enumerate() if thread.name == "flag-rerank remote"]


ECHOES = [
    status(code, {"error": f"Bearer {KEY} at {KEY}", "message": KEY}, Location="http://elsewhere.invalid/")
    for code in (307, 400, 401, 404, 413, 429, 500, 503)
]


@pytest.mark.parametrize("echo", ECHOES, ids=range(len(ECHOES)))
def test_no_error_shows_the_key_even_if_the_server_repeats_it(
    server: RerankServer, caplog: pytest.LogCaptureFixture, echo: Callable[[Any], None]
) -> None:
    server.key = KEY
    server.faults.extend([echo] * 4)
    with caplog.at_level("DEBUG"), asking(server, api_key=KEY, retries=1) as remote:
        with pytest.raises(RerankError) as caught:
            remote.score(PAIRS)
        shown = [str(caught.value), repr(caught.value), repr(caught.value.__cause__), repr(remote), caplog.text]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert not [text for text in shown if KEY in text]


def test_a_wrong_key_is_told_from_none(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve("infinity", key=KEY)
    with asking(server) as none, pytest.raises(ConfigError, match="wants an API key"):
        none.score(PAIRS)
    with (
        asking(server, api_key="wrong") as wrong,
        pytest.raises(ConfigError, match=r"\*\*\* is no valid key.*not take"),
    ):
        wrong.score(PAIRS)
    monkeypatch.setenv("THE_KEY", KEY)
    with asking(server, api_key_env="THE_KEY") as right:
        assert len(right.score(PAIRS)) == 4
    with pytest.raises(ConfigError, match="'THE_KEI': there is no such environment variable"):
        asking(server, api_key_env="THE_KEI")
    monkeypatch.setenv("THE_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="environment variable THE_KEY must be a non-empty string of printable"):
        asking(server, api_key_env="THE_KEY")


def test_a_busy_server_serves_all_in_the_end(server: RerankServer, local: Reranker) -> None:
    server.faults.extend([status(503), drop, status(429, Retry_After="0")] * 5)
    wanted = pytest.approx(local.score(PAIRS), abs=3e-6)
    with asking(server, retries=15, max_concurrency=4) as remote, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: remote.score(PAIRS), range(16)))
        assert remote.stats().retries == 15
    assert all(found == wanted for found in answers)
    assert json.dumps(answers)
