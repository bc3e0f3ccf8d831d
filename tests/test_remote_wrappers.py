"""Both wrappers over a server: the same scores, settings that can be stored, and the key in none of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.load import dumps
from langchain_parts import QUERY, TEXTS, ListRetriever, Recorder, documents
from llama_index_tools import CallbackLog, best_first, ids, listening, nodes_of, through_json, through_pickle
from pydantic_core import PydanticSerializationError
from rerank_server import RerankServer, Serve

from flag_rerank_integrations import RemoteConfig, RemoteReranker, RerankConfig, Reranker
from flag_rerank_integrations.errors import ConfigError, WorkerError
from flag_rerank_integrations.langchain import FlagCrossEncoder, FlagRerankCompressor, FlagRerankRetriever
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

KEY = "sk-very-secret-0123456789"
Wrapper = type[FlagRerankCompressor] | type[FlagRerankPostprocessor]
both = pytest.mark.parametrize("wrapper", [FlagRerankCompressor, FlagRerankPostprocessor])


@pytest.fixture
def server(serve: Serve) -> RerankServer:
    return serve("tei", key=KEY)


@pytest.fixture
def options(server: RerankServer) -> dict[str, Any]:
    return {"url": server.url, "form": "tei", "api_key": KEY}


class Elsewhere:
    """Ranks as another reranker does, and has no config."""

    def __init__(self, reranker: RemoteReranker) -> None:
        self.rank, self.arank = reranker.rank, reranker.arank


async def scores_of(wrapper: Any) -> list[float]:
    """The scores a wrapper gives, sync and async, best first."""
    if isinstance(wrapper, FlagRerankPostprocessor):
        nodes = nodes_of(TEXTS)
        sync = [node.score for node in wrapper.postprocess_nodes(nodes, query_str=QUERY)]
        found = [node.score for node in await wrapper.apostprocess_nodes(nodes, query_str=QUERY)]
    else:
        key = wrapper.score_key
        sync = [document.metadata[key] for document in wrapper.compress_documents(documents(), QUERY)]
        found = [document.metadata[key] for document in await wrapper.acompress_documents(documents(), QUERY)]
    assert found == sync
    return [float(score) for score in sync if score is not None]


@both
async def test_a_shared_one_ranks_as_the_local_model(
    wrapper: Wrapper, options: dict[str, Any], local: Reranker
) -> None:
    wanted = [passage.score for passage in local.rank(QUERY, TEXTS, top_n=3)]
    with RemoteReranker(**options) as remote:
        made = wrapper(reranker=remote, top_n=3)
        assert await scores_of(made) == pytest.approx(wanted, abs=3e-6)
        assert made.config == remote.config
        assert made.warm_up() is remote
        made.close()
        assert len(remote.rank(QUERY, TEXTS)) == len(TEXTS)


@both
async def test_one_of_its_own_is_made_when_needed(
    wrapper: Wrapper, server: RerankServer, options: dict[str, Any], local: Reranker
) -> None:
    wanted = pytest.approx([passage.score for passage in local.rank(QUERY, TEXTS)], abs=3e-6)
    for remote in (options, RemoteConfig(**options)):
        server.seen.clear()
        made = wrapper(remote=remote)
        assert made.config == RemoteConfig(**options)
        assert server.seen == []
        assert await scores_of(made) == wanted
        made.close()
        assert await scores_of(made) == wanted
        made.close()


def test_other_parts_of_langchain_take_it_too(options: dict[str, Any], local: Reranker) -> None:
    with RemoteReranker(**options) as remote:
        pairs = [(QUERY, text) for text in TEXTS]
        assert FlagCrossEncoder(reranker=remote).score(pairs) == pytest.approx(local.score(pairs), abs=3e-6)
        compressor = FlagRerankCompressor(reranker=remote, truncation_key="cut")
        assert [len(found) for found in compressor.batch_compress([(QUERY, documents()), ("q", [])])] == [len(TEXTS), 0]
        assert {document.metadata["cut"] for document in compressor.compress_documents(documents(), QUERY)} == {None}
    retriever = FlagRerankRetriever(base_retriever=ListRetriever(found=documents()), remote=options, k=2)
    best = [passage.index for passage in local.rank(QUERY, TEXTS, top_n=2)]
    assert [document.metadata["row"] for document in retriever.invoke(QUERY)] == best
    retriever.compressor.close()  # type: ignore[attr-defined]


def through_langchain_json(made: Any) -> Any:
    return type(made).model_validate_json(made.model_dump_json())


def through_dump(made: Any) -> Any:
    return type(made)(**made.model_dump())


STORED: list[tuple[Wrapper, Callable[[Any], Any]]] = [
    (FlagRerankCompressor, through_langchain_json),
    (FlagRerankCompressor, through_dump),
    (FlagRerankPostprocessor, through_json),
    (FlagRerankPostprocessor, through_dump),
]


@pytest.mark.parametrize("wrapper, way", STORED)
@pytest.mark.parametrize("shared", [True, False])
async def test_what_is_stored_asks_the_same_server_again(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], wrapper: Wrapper, way: Any, *, shared: bool
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    named = {**options, "api_key": None, "api_key_env": "THE_KEY", "normalize": True}
    with RemoteReranker(**named) as remote:
        made = wrapper(top_n=2, **({"reranker": remote} if shared else {"remote": named}))
        back = way(made)
        assert (back.config, back.top_n, back.reranker) == (remote.config, 2, None)
        assert await scores_of(back) == await scores_of(made)
        for one in (made, back):
            one.close()


@pytest.mark.parametrize("wrapper, way", STORED)
def test_a_key_that_was_given_is_not_stored(options: dict[str, Any], wrapper: Wrapper, way: Any) -> None:
    back = way(wrapper(remote=options))
    assert back.config == RemoteConfig(options["url"], form="tei")
    with pytest.raises(ConfigError, match="wants an API key"):
        back.warm_up().rank(QUERY, TEXTS)
    back.close()


@both
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, through_pickle])
@pytest.mark.parametrize("shared", [True, False])
async def test_copies_keep_the_key_and_find_the_server(
    wrapper: Wrapper, options: dict[str, Any], way: Any, *, shared: bool
) -> None:
    with RemoteReranker(**options) as remote:
        made = wrapper(top_n=2, **({"reranker": remote} if shared else {"remote": options}))
        back = way(made)
        assert (back.config, back.top_n) == (remote.config, 2)
        assert await scores_of(back) == await scores_of(made)
        for one in (made, back):
            one.close()
            if one.reranker is not None:
                one.reranker.close()


@both
def test_what_is_stored_is_plain_and_has_no_options_of_a_model(wrapper: Wrapper, options: dict[str, Any]) -> None:
    made = wrapper(remote=options)
    stored = made.model_dump()
    assert stored["remote"] == RemoteConfig(**options).to_dict()
    assert not {"model", "device", "max_length", "reranker"} & stored.keys()
    assert json.loads(made.model_dump_json())["remote"] == stored["remote"]
    assert "remote" in made.model_json_schema()["properties"]


@both
def test_the_key_is_in_nothing_that_is_shown_or_stored(wrapper: Wrapper, options: dict[str, Any]) -> None:
    with RemoteReranker(**options) as remote:
        for made in (wrapper(reranker=remote), wrapper(remote=options)):
            shown = [repr(made), str(made), str(made.model_dump()), made.model_dump_json(), dumps(made)]
            assert not [text for text in shown if KEY in text]
            assert options["url"] in repr(made)


def test_langchain_traces_say_which_server_and_not_the_key(options: dict[str, Any]) -> None:
    recorder = Recorder()
    with RemoteReranker(**options, model="tiny") as remote:
        FlagRerankCompressor(reranker=remote).compress_documents(documents(), QUERY, [recorder])
        retriever = FlagRerankRetriever(base_retriever=ListRetriever(found=documents()), reranker=remote)
        retriever.invoke(QUERY, {"callbacks": [recorder]})
    facts = recorder.notes.of("start", "FlagRerankCompressor")[0].metadata
    assert facts is not None
    assert (facts["reranker"], facts["url"], facts["model"]) == ("RemoteReranker", options["url"], "tiny")
    assert "device" not in facts
    assert KEY not in str(recorder.notes.all)


def test_llama_index_events_say_which_model_and_not_the_key(options: dict[str, Any], local: Reranker) -> None:
    log = CallbackLog()
    with listening() as (events, spans), RemoteReranker(**options) as remote:
        made = FlagRerankPostprocessor(reranker=remote)
        made.callback_manager.add_handler(log)
        found = made.postprocess_nodes(nodes_of(TEXTS), query_str=QUERY)
        made.callback_manager.remove_handler(log)
    assert ids(found) == [str(passage.index) for passage in local.rank(QUERY, TEXTS)]
    assert {event.model_name for event in events.named("ReRankStartEvent")} == {options["url"]}
    assert KEY not in f"{[event.model_dump() for event in events.events]}{spans.completed_spans}{log.starts}{log.ends}"


@both
def test_a_wrapper_has_one_source_of_scores(wrapper: Wrapper, options: dict[str, Any]) -> None:
    with RemoteReranker(**options) as remote:
        with pytest.raises(ConfigError, match="remote= brings its own options: leave out device, reranker, or"):
            wrapper(remote=options, reranker=remote, device="cpu")
        with pytest.raises(ConfigError, match="reranker= brings its own options: leave out model, or"):
            wrapper(reranker=remote, model="quickstart")
    with pytest.raises(ConfigError, match="Unknown option 'urll'"):
        wrapper(remote={"urll": "http://localhost"})
    with pytest.raises(ConfigError, match="A config is an object of options, not str"):
        wrapper(remote="http://localhost")
    made = wrapper(remote=options)
    with pytest.raises(ConfigError, match="remote is fixed"):
        made.remote = None


@both
def test_a_changed_copy_has_one_source_too(wrapper: Wrapper, options: dict[str, Any], local: Reranker) -> None:
    other = {"url": "http://localhost:1"}
    with RemoteReranker(**options) as remote:
        shared = wrapper(reranker=remote, top_n=2)
        assert shared.model_copy(update={"top_n": 1}).reranker is remote
        assert shared.model_copy(update={"remote": other}).config == RemoteConfig(**other)
        assert shared.model_copy(update={"reranker": None}).config == remote.config
        assert shared.model_copy(update={"reranker": local}).config == local.config
        assert shared.model_copy(update={"model": "m"}).config == RerankConfig("m")
        own = wrapper(model="m", device="cpu", top_n=2)
        assert own.model_copy(update={"remote": other}).config == RemoteConfig(**other)
        assert own.model_copy(update={"reranker": remote}).config == remote.config
        asking_other = wrapper(remote=other)
        assert asking_other.model_copy(update={"normalize": True}).config == RerankConfig(normalize=True)
        assert asking_other.model_copy(update={"reranker": remote}).config == remote.config


def test_langchain_wrappers_are_equal_by_where_their_scores_come_from(options: dict[str, Any]) -> None:
    with RemoteReranker(**options) as remote:
        assert FlagRerankCompressor(reranker=remote) == FlagRerankCompressor(remote=options)
        assert FlagRerankCompressor(remote=options) != FlagRerankCompressor(remote={**options, "retries": 1})
        assert FlagRerankCompressor(remote=options) != FlagRerankCompressor()
        one, other = Elsewhere(remote), Elsewhere(remote)
        assert FlagRerankCompressor(reranker=one) == FlagRerankCompressor(reranker=one)
        assert FlagRerankCompressor(reranker=one) != FlagRerankCompressor(reranker=other)


@both
def test_what_could_not_be_built_again_is_not_stored_as_something_else(
    wrapper: Wrapper, options: dict[str, Any]
) -> None:
    with RemoteReranker(**options) as remote:
        made = wrapper(reranker=Elsewhere(remote))
        assert made.config is None
        told = "The shared Elsewhere has no RerankConfig or RemoteConfig"
        stores = [made.to_dict] if wrapper is FlagRerankPostprocessor else [made.model_dump, made.model_dump_json]
        for store in stores:
            with pytest.raises(ConfigError, match=told):
                store()
        if wrapper is FlagRerankPostprocessor:
            with pytest.raises(PydanticSerializationError, match=told):
                made.model_dump()
        assert "Elsewhere" in repr(made) or wrapper is FlagRerankPostprocessor


@both
async def test_a_servers_failure_reaches_the_caller(wrapper: Wrapper, server: RerankServer, options: Any) -> None:
    from rerank_server import status

    with RemoteReranker(**options) as remote:
        made = wrapper(reranker=remote)
        server.faults.append(status(500))
        with pytest.raises(WorkerError, match="answered 500"):
            await scores_of(made)
        assert len(await scores_of(made)) == len(TEXTS)


def test_ties_and_order_are_those_of_the_definition(options: dict[str, Any], local: Reranker) -> None:
    texts = [*TEXTS, TEXTS[0], TEXTS[1]]
    with RemoteReranker(**options) as remote:
        found = FlagRerankPostprocessor(reranker=remote).postprocess_nodes(nodes_of(texts), query_str=QUERY)
    assert ids(found) == [name for name, _ in best_first(local, texts)]
