"""RemoteReranker against servers of every form: the scores are the local model's."""

from __future__ import annotations

import math
from typing import Any

import pytest
from rerank_server import KINDS, Serve, asking

from flag_rerank_integrations import RankedPassage, RemoteReranker, Reranker
from flag_rerank_integrations.errors import ConfigError, InputError

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "New York City is famous for the Metropolitan Museum of Art, and for its bagels.",
    "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "The giant panda is a bear species endemic to China. 大熊猫",
    "Berlin is well known for its museums.",
]
PAIRS = [(QUERY, passage) for passage in PASSAGES]
GIVE_LOGITS = ("tei", "infinity", "vllm")


def stated(kind: str) -> bool | None:
    """The scale that needs no option, or none that a form refuses."""
    return False if kind in GIVE_LOGITS else None


@pytest.mark.parametrize("kind", KINDS)
def test_a_ranking_is_the_local_one_but_for_what_was_cut(serve: Serve, local: Reranker, kind: str) -> None:
    with asking(serve(kind), normalize=stated(kind)) as remote:
        ranking = remote.rank(QUERY, PASSAGES)
        many = remote.rank_many([(QUERY, PASSAGES), ("panda", PASSAGES[2:]), ("nothing", [])], top_n=2)
    wanted = local.rank(QUERY, PASSAGES)
    assert [passage.index for passage in ranking] == [passage.index for passage in wanted]
    assert {passage.truncated_tokens for passage in ranking} == {None}
    assert many[0] == ranking[:2]
    assert [p.index + 2 for p in many[1]] == [p.index for p in local.rank("panda", PASSAGES) if p.index >= 2]
    assert many[2] == []


@pytest.mark.parametrize("kind", GIVE_LOGITS)
async def test_logits_and_their_sigmoids_are_the_local_ones(serve: Serve, local: Reranker, kind: str) -> None:
    server, wanted = serve(kind), local.score(PAIRS)
    with asking(server) as logits, asking(server, normalize=True) as unit:
        assert logits.score(PAIRS) == pytest.approx(wanted, abs=3e-6)
        assert await logits.ascore(PAIRS) == pytest.approx(wanted, abs=3e-6)
        assert unit.score(PAIRS) == pytest.approx([1 / (1 + math.exp(-logit)) for logit in wanted], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [True, None])
def test_what_a_server_calls_a_score_can_be_had(
    serve: Serve, local: Reranker, kind: str, *, normalize: bool | None
) -> None:
    server = serve(kind)
    with asking(server, normalize=normalize) as remote:
        scores = remote.score(PAIRS)
    assert scores == pytest.approx([1 / (1 + math.exp(-logit)) for logit in local.score(PAIRS)], abs=1e-6)
    if normalize is None:
        assert not {"raw_scores", "use_activation"} & set(server.bodies[0])


@pytest.mark.parametrize(
    "kind, path",
    [
        ("tei", "/rerank"),
        ("infinity", "/rerank"),
        ("vllm", "/rerank"),
        ("vllm", "/v1"),
        ("vllm", "/v1/rerank"),
        ("vllm", "/v2/rerank"),
        ("vllm", "/score"),
        ("vllm", "/v1/score"),
        ("jina", "/v1"),
        ("jina", "/v1/rerank"),
        ("cohere", "/v2/rerank"),
    ],
)
def test_an_address_may_name_the_endpoint(serve: Serve, local: Reranker, kind: str, path: str) -> None:
    server = serve(kind)
    with RemoteReranker(server.url + path, form=kind, model="tiny", normalize=stated(kind)) as remote:
        order = [passage.index for passage in remote.rank(QUERY, PASSAGES)]
    assert order == [passage.index for passage in local.rank(QUERY, PASSAGES)]
    assert server.seen[-1] == (path + "/rerank" if path == "/v1" else path)


@pytest.mark.parametrize("kind", GIVE_LOGITS)
@pytest.mark.parametrize("key", [None, "a-key"])
def test_servers_tell_what_they_are(serve: Serve, local: Reranker, kind: str, key: str | None) -> None:
    server = serve(kind, key=key)
    with RemoteReranker(server.url, api_key=key) as remote:
        assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)
        assert remote.stats().family == f"remote {kind}"


@pytest.mark.parametrize("kind", ["jina", "cohere"])
def test_a_server_that_does_not_tell_needs_a_form(serve: Serve, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"it does not tell\. Give form: one of 'tei'"):
        RemoteReranker(serve(kind).url, model="tiny", normalize=True)
    with pytest.raises(ConfigError, match=r"it wants a valid API key\. Give form"):
        RemoteReranker(serve(kind, key="k").url, model="tiny", normalize=True)


def test_what_a_discovered_server_cannot_do_is_refused_at_the_start(serve: Serve) -> None:
    with pytest.raises(ConfigError, match="long_passages='error' is not possible with form='infinity'"):
        RemoteReranker(serve("infinity").url, long_passages="error")


def test_a_server_of_embeddings_is_no_reranker(serve: Serve) -> None:
    server = serve("tei")
    server.models = {"embedding": {"pooling": "cls"}}
    with pytest.raises(ConfigError, match="serves 'tiny', which is no reranker but: embedding"):
        RemoteReranker(server.url)


@pytest.mark.parametrize("version, fits", [("0.11.0", False), ("0.10.2", False), ("0.11.1rc1", True), ("dev", True)])
def test_a_vllm_that_would_ignore_the_question_for_logits_is_refused(serve: Serve, version: str, *, fits: bool) -> None:
    server = serve("vllm", version=version)
    if fits:
        RemoteReranker(server.url).close()
    else:
        with pytest.raises(ConfigError, match=r"cannot be asked for logits as 0\.11\.1 and later can"):
            RemoteReranker(server.url)
    RemoteReranker(server.url, normalize=None).close()


@pytest.mark.parametrize("kind", GIVE_LOGITS)
def test_passages_go_out_in_requests_of_what_the_server_takes(serve: Serve, local: Reranker, kind: str) -> None:
    server = serve(kind, limit=3)
    pairs = [(f"query {i % 2}", f"passage {i}") for i in range(20)]
    with asking(server, **({} if kind == "tei" else {"max_passages": 3})) as remote:
        assert remote.score(pairs) == pytest.approx(local.score(pairs), abs=3e-6)
    sizes = [len(body.get("texts") or body["documents"]) for body in server.bodies]
    assert sorted(sizes) == [1, 1, 3, 3, 3, 3, 3, 3]


def test_a_smaller_limit_of_ones_own_counts(serve: Serve) -> None:
    server = serve("tei", limit=8)
    for limit, wanted in ((2, [2, 2]), (100, [4])):
        server.bodies.clear()
        with asking(server, max_passages=limit) as remote:
            remote.score(PAIRS)
        assert [len(body["texts"]) for body in server.bodies] == wanted


@pytest.mark.parametrize(
    "kind, options", [("infinity", {"limit": 3}), ("tei", {"payload": 300}), ("vllm", {"payload": 300})]
)
def test_a_request_that_is_too_large_goes_out_in_halves(
    serve: Serve, local: Reranker, caplog: pytest.LogCaptureFixture, kind: str, options: dict[str, Any]
) -> None:
    server = serve(kind, **options)
    with asking(server) as remote, caplog.at_level("WARNING"):
        assert remote.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=3e-6)
    assert "Asking again in two halves; max_passages below 4 avoids this." in caplog.text


@pytest.mark.parametrize("kind, status", [("tei", 413), ("vllm", 400)])
def test_long_passages_are_cut_or_refused_as_asked(serve: Serve, local: Reranker, kind: str, status: int) -> None:
    server = serve(kind)
    pairs = [*PAIRS, (QUERY, "bear " * 200)]
    with asking(server) as remote:
        assert remote.score(pairs) == pytest.approx(local.score(pairs), abs=3e-6)
    with asking(server, long_passages="error") as strict:
        with pytest.raises(
            InputError, match=rf"refused (pair 4|a request of 5 pairs): .* answered {status} \(.*64 tok"
        ):
            strict.score(pairs)
        assert len(strict.score(PAIRS)) == 4


def test_equal_pairs_are_asked_once_and_queries_apart(serve: Serve, local: Reranker) -> None:
    server = serve("tei")
    pairs = [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"), ("b", "x")]
    with asking(server) as remote:
        assert remote.score(pairs) == pytest.approx(local.score(pairs), abs=3e-6)
        stats = remote.stats()
    asked = sorted((body["query"], sorted(body["texts"])) for body in server.bodies)
    assert asked == [("a", ["x", "y"]), ("b", ["x"])]
    assert (stats.pairs, stats.scored_pairs, stats.requests, stats.retries) == (5, 3, 3, 0)
    assert stats.devices[0].name == f"{server.url}/rerank"
    assert stats.seconds > 0


def test_nothing_to_score_asks_nothing(serve: Serve) -> None:
    server = serve("infinity")
    with asking(server) as remote:
        assert (remote.score([]), remote.rank(QUERY, []), remote.rank_many([])) == ([], [], [])
        assert remote.rank(QUERY, PASSAGES, top_n=0) == []
    assert server.bodies == []


@pytest.mark.parametrize("kind", KINDS)
def test_strange_texts_reach_the_model(serve: Serve, local: Reranker, kind: str) -> None:
    texts = ["", " ", "\x00", "a\ud800b", "\U0001f43c" * 50, "\n\t", "</s>[SEP]<pad>", '"quotes"\\', "x" * 20_000]
    with asking(serve(kind), normalize=stated(kind)) as remote:
        found = remote.rank("a\ud800b", texts)
    wanted = {passage.index: passage.score for passage in local.rank("a\ud800b", texts)}
    logits = [wanted[passage.index] for passage in found]
    assert logits == pytest.approx(sorted(wanted.values(), reverse=True), abs=3e-6)


def test_limits_of_a_ranking_are_the_local_ones(serve: Serve) -> None:
    with asking(serve("tei")) as remote:
        ranking = remote.rank(QUERY, PASSAGES)
        assert remote.rank(QUERY, PASSAGES, score_threshold=ranking[1].score) == ranking[:2]
        assert remote.rank(QUERY, [PASSAGES[0]] * 3) == [
            RankedPassage(i, remote.score(PAIRS[:1])[0], None) for i in range(3)
        ]
        for wrong in ({"top_n": -1}, {"score_threshold": math.nan}):
            with pytest.raises(ConfigError):
                remote.rank(QUERY, PASSAGES, **wrong)
        with pytest.raises(InputError):
            remote.rank(QUERY, ["a", None])  # type: ignore[list-item]
