"""What a new user may give without a bad intention: numbers, tables and containers of other libraries, and rubbish."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from tiny_models import TinyModels

from flag_rerank_integrations import RemoteConfig, RerankConfig, Reranker
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.langchain import FlagCrossEncoder, FlagRerankCompressor, FlagRerankRetriever
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

QUERY = "giant panda"
PASSAGES = ["giant panda bear", "Berlin", "bear in China"]


class Table:
    """Iterates as a DataFrame does: over the names of its columns."""

    ndim = 2

    def __iter__(self) -> Iterator[str]:
        return iter(["text"])


@pytest.fixture(scope="module")
def live(tiny: TinyModels) -> Iterator[Reranker]:
    with Reranker(tiny("bert"), device="cpu", max_length=64) as reranker:
        yield reranker


def test_numbers_of_numpy_cut_a_ranking_as_plain_ones_do(live: Reranker) -> None:
    everything = live.rank(QUERY, PASSAGES)
    assert live.rank(QUERY, PASSAGES, top_n=np.int64(2)) == everything[:2]  # type: ignore[arg-type]
    middle = np.float32(everything[1].score - 1e-3)
    assert live.rank(QUERY, PASSAGES, score_threshold=middle) == everything[:2]  # type: ignore[arg-type]
    assert live.rank_many([(QUERY, PASSAGES)], np.uint8(1), np.float64(-1e9))[0] == everything[:1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_n": np.int64(-1)},
        {"top_n": np.float32(2)},
        {"top_n": np.bool_(1)},
        {"score_threshold": np.float32("nan")},
        {"score_threshold": np.bool_(1)},
    ],
    ids=repr,
)
def test_wrong_numbers_of_numpy_are_refused(live: Reranker, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        live.rank(QUERY, PASSAGES, **wrong)


def test_options_come_out_as_plain_numbers() -> None:
    config = RerankConfig(
        device=np.int64(1),  # type: ignore[arg-type]
        max_length=np.int32(64),  # type: ignore[arg-type]
        timeout=np.float32(2.5),  # type: ignore[arg-type]
        progressive=((np.int64(2), np.float64(0.5)),),  # type: ignore[arg-type]
        compress_layers=[np.int64(4)],  # type: ignore[arg-type]
    )
    assert config == RerankConfig(
        device="cuda:1", max_length=64, timeout=2.5, progressive=((2, 0.5),), compress_layers=(4,)
    )
    assert RerankConfig.from_json(config.to_json()) == config
    remote = RemoteConfig("http://localhost:1", timeout=np.float32(2.5), retries=np.int64(1))  # type: ignore[arg-type]
    assert RemoteConfig.from_json(remote.to_json()) == remote


def test_wrappers_take_numbers_of_numpy(live: Reranker) -> None:
    compressor = FlagRerankCompressor(reranker=live, top_n=np.int64(2), score_threshold=np.float32(-1e9))
    assert json.loads(compressor.model_dump_json())["top_n"] == 2
    documents = [Document(text) for text in PASSAGES]
    assert len(compressor.compress_documents(documents, QUERY)) == 2
    postprocessor = FlagRerankPostprocessor(reranker=live, top_n=np.int64(2), score_threshold=np.float32(-1e9))
    assert json.loads(postprocessor.to_json())["top_n"] == 2
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in PASSAGES]
    assert len(postprocessor.postprocess_nodes(nodes, query_str=QUERY)) == 2
    postprocessor.top_n = np.int64(1)  # type: ignore[assignment]
    assert len(postprocessor.postprocess_nodes(nodes, query_str=QUERY)) == 1


@pytest.mark.parametrize(
    "passages",
    [
        {"a": "giant panda"},
        set(PASSAGES),
        frozenset(PASSAGES),
        Table(),
        np.array([PASSAGES]),
        np.array("text"),
        3,
        None,
    ],
    ids=lambda passages: type(passages).__name__,
)
def test_what_has_no_passages_in_order_is_refused(live: Reranker, passages: Any) -> None:
    with pytest.raises(InputError, match=r"^passages must be a list of strings, not "):
        live.rank(QUERY, passages)


def test_other_containers_of_texts_are_lists_enough(live: Reranker) -> None:
    expected = live.rank(QUERY, PASSAGES)
    for passages in (tuple(PASSAGES), (text for text in PASSAGES), np.array(PASSAGES), np.array(PASSAGES, dtype=object),
                     dict.fromkeys(PASSAGES).keys(), dict(enumerate(PASSAGES)).values()):  # fmt: skip
        assert live.rank(QUERY, passages) == expected
    assert live.rank_many({QUERY: PASSAGES}.items()) == [expected]


@pytest.mark.parametrize("requests", [None, 3, "text", {QUERY: PASSAGES}], ids=repr)
def test_requests_that_are_no_sequence_are_refused(live: Reranker, requests: Any) -> None:
    with pytest.raises(InputError, match=r"^requests must be a sequence of \(query, passages\), not "):
        live.rank_many(requests)
    compressor = FlagRerankCompressor(reranker=live)
    with pytest.raises(InputError, match=r"^requests must be a sequence of \(query, documents\) pairs, not "):
        compressor.batch_compress(requests)
    with pytest.raises(InputError, match=r"^requests must be a sequence of \(query, documents\) pairs, not "):
        asyncio.run(compressor.abatch_compress(requests))


@pytest.mark.parametrize("pairs", [None, 3, "ab", {("a", "b"): 1}, {("a", "b")}], ids=repr)
def test_pairs_that_are_no_sequence_are_refused_wherever_they_come_in(live: Reranker, pairs: Any) -> None:
    encoder = FlagCrossEncoder(reranker=live)
    asks: list[Callable[[Any], object]] = [live.score, encoder.score]
    asks += [lambda given: asyncio.run(live.ascore(given)), lambda given: asyncio.run(encoder.ascore(given))]
    for ask in asks:
        with pytest.raises(InputError, match=r"^pairs must be a sequence of \(query, passage\), not "):
            ask(pairs)


def test_a_document_whose_metadata_was_taken_away_is_ranked(live: Reranker) -> None:
    bare = Document(PASSAGES[0])
    bare.metadata = None  # type: ignore[assignment]
    (ranked,) = FlagRerankCompressor(reranker=live).compress_documents([bare], QUERY)
    assert list(ranked.metadata) == ["relevance_score"]
    assert bare.metadata is None


def test_a_limit_for_one_call_may_be_a_number_of_numpy(live: Reranker) -> None:
    from langchain_core.runnables import RunnableLambda

    found = RunnableLambda(lambda _: [Document(text) for text in PASSAGES])
    retriever = FlagRerankRetriever(base_retriever=found, compressor=FlagRerankCompressor(reranker=live))
    assert len(retriever.invoke(QUERY, k=np.int64(2))) == 2


@pytest.mark.parametrize("query", [None, 5, ["text"]], ids=repr)
def test_a_bundle_whose_query_is_no_text_is_refused_before_any_event(live: Reranker, query: Any) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=live)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in PASSAGES]
    for given in (nodes, []):
        with pytest.raises(InputError, match=r"^The query must be a string, not "):
            postprocessor.postprocess_nodes(given, QueryBundle(query))


def test_a_score_of_numpy_is_kept_as_a_plain_one(live: Reranker) -> None:
    node = NodeWithScore(node=TextNode(text=PASSAGES[0]))
    node.score = np.float32(0.5)  # type: ignore[assignment] # as sentence-transformers' rerankers leave it
    (ranked,) = FlagRerankPostprocessor(reranker=live, keep_retrieval_score=True).postprocess_nodes([node], None, QUERY)
    assert json.loads(json.dumps(ranked.node.metadata)) == {"retrieval_score": 0.5}


def test_no_callback_manager_is_the_default_one(live: Reranker) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=live, callback_manager=None)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in PASSAGES]
    assert len(postprocessor.postprocess_nodes(nodes, query_str=QUERY)) == 3


@pytest.mark.parametrize("nodes", [None, 3, "text", {"a": 1}], ids=repr)
def test_nodes_that_are_no_list_are_refused(live: Reranker, nodes: Any) -> None:
    postprocessor = FlagRerankPostprocessor(reranker=live)
    with pytest.raises(InputError, match=r"^nodes must be a list of NodeWithScore, not "):
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    with pytest.raises(InputError, match="Missing query bundle"):
        postprocessor.postprocess_nodes([])


def test_the_cpu_of_torch_is_one_worker_whatever_its_number(tiny: TinyModels) -> None:
    for device in (torch.device("cpu", 0), torch.device("cpu", 1)):
        assert RerankConfig(device=device).device == "cpu"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'cpu:0' asks for no device.*Say 'cpu'"):
        Reranker(tiny("bert"), device="cpu:0")
    with pytest.raises(ConfigError, match="'cpu:100000000000000' is no device"):
        Reranker(tiny("bert"), device="cpu:100000000000000")


@pytest.mark.parametrize("seconds", [1e10, 10**400, threading.TIMEOUT_MAX * 2], ids=["long", "huge", "twice the most"])
def test_a_timeout_that_no_clock_can_wait_for_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"^timeout must be a positive number of seconds or None, at most "):
        RerankConfig(timeout=seconds)
    with pytest.raises(ConfigError, match=r"^timeout must be a positive number of seconds, at most "):
        RemoteConfig("http://localhost:1", timeout=seconds)


def test_the_longest_timeout_can_be_waited_for(tiny: TinyModels) -> None:
    with Reranker(tiny("bert"), device="cpu", max_length=64, timeout=threading.TIMEOUT_MAX) as reranker:
        expected = reranker.rank(QUERY, PASSAGES)
        assert asyncio.run(reranker.arank(QUERY, PASSAGES)) == expected


def test_configs_nested_too_deeply_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for kind in (RerankConfig, RemoteConfig):
        with pytest.raises(ConfigError, match="not valid JSON"):
            kind.from_json("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json"):
        Reranker.from_config(tmp_path / "deep.json")


def test_whatever_comes_back_is_json(live: Reranker) -> None:
    ranking = [asdict(place) for place in live.rank(QUERY, PASSAGES)]
    assert json.loads(json.dumps(ranking)) == ranking
    assert json.loads(json.dumps(asdict(live.stats())))["model"] == live.config.model
