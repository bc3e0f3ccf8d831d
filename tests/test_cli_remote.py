"""`flag-rerank rank --url`: the same ranking from a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import flag_rerank
from rerank_server import Serve

from flag_rerank_integrations import Reranker

QUERY = "How many people live in Berlin?"
PASSAGES = ["New York City", "Berlin has many inhabitants.", "The giant panda", "Berlin is known for museums."]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "passages.txt"
    path.write_text("\n".join(PASSAGES), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "kind, options", [("tei", []), ("cohere", ["--form", "cohere", "--model", "m", "--normalize"])]
)
def test_a_server_ranks(serve: Serve, local: Reranker, file: str, kind: str, options: list[str]) -> None:
    server = serve(kind, key="a-key")
    url = ["--url", server.url, "--api-key-env", "THE_KEY"]
    done = flag_rerank("rank", "-q", QUERY, file, "--json", "--top-n", "3", *url, *options, THE_KEY="a-key")
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["index"] for row in rows] == [passage.index for passage in local.rank(QUERY, PASSAGES, top_n=3)]
    assert {row["truncated_tokens"] for row in rows} == {None}


@pytest.mark.parametrize(
    "options, told",
    [
        (["--url", "localhost"], "url must be the address of a server"),
        (["--form", "tei"], "--form needs --url"),
        (["--url", "http://127.0.0.1:9", "--device", "cpu"], "--device is up to the server that --url names"),
        (["--url", "http://127.0.0.1:9", "--max-length", "9"], "--max-length is up to the server"),
        (["--url", "http://127.0.0.1:9", "--api-key-env", "NOT_SET"], "'NOT_SET': there is no such environment"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_code_2(file: str, options: list[str], told: str) -> None:
    done = flag_rerank("rank", "-q", QUERY, file, *options)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert done.err.count("\n") == 1


def test_a_server_that_fails_is_one_line_and_code_1(serve: Serve, file: str) -> None:
    server = serve("tei")
    server.faults.append(lambda handler: handler.reply(500, {"error": "no memory"}))
    done = flag_rerank("rank", "-q", QUERY, file, "--url", server.url)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"flag-rerank: {server.url}/rerank answered 500 (no memory).\n"
