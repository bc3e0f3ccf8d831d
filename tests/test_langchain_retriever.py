"""FlagRerankRetriever: LangChain's standard tests on the real quickstart model, and its limits."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_parts import POPULATION, QUERY, TEXTS, ListRetriever, documents
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.langchain import FlagRerankCompressor, FlagRerankRetriever

KEY = "relevance_score"


@pytest.fixture(scope="module")
def live() -> Iterator[Reranker]:
    with Reranker("quickstart", device="cpu") as reranker:
        yield reranker


@pytest.fixture
def retriever(live: Reranker) -> FlagRerankRetriever:
    return FlagRerankRetriever(base_retriever=ListRetriever(found=documents()), reranker=live)


class TestStandard(RetrieversIntegrationTests):
    """LangChain's own tests of a retriever."""

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return FlagRerankRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {
            "base_retriever": ListRetriever(found=documents()),
            "compressor": FlagRerankCompressor(model="quickstart", device="cpu"),
        }

    @property
    def retriever_query_example(self) -> str:
        return QUERY


class TestStandardWithOptions(TestStandard):
    """The same with the compressor's options in place of a compressor."""

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"base_retriever": ListRetriever(found=documents()), "model": "quickstart", "device": "cpu"}


def texts_of(found: list[Document]) -> list[str]:
    return [document.page_content for document in found]


async def test_the_best_come_first_sync_and_async(retriever: FlagRerankRetriever, live: Reranker) -> None:
    found = retriever.invoke(QUERY)
    assert found[0].page_content == POPULATION
    assert [(doc.metadata["row"], doc.metadata[KEY]) for doc in found] == [
        (passage.index, passage.score) for passage in live.rank(QUERY, TEXTS)
    ]
    assert await retriever.ainvoke(QUERY) == found


async def test_k_and_top_n_are_both_limits(live: Reranker) -> None:
    base = ListRetriever(found=documents())
    for top_n, k in [(None, None), (2, None), (None, 2), (3, 2), (2, 3), (0, 3), (3, 0), (99, 99)]:
        retriever = FlagRerankRetriever(base_retriever=base, reranker=live, top_n=top_n, k=k)
        expected = min(len(TEXTS) if limit is None else limit for limit in (top_n, k, len(TEXTS)))
        assert len(retriever.invoke(QUERY)) == expected
        assert len(await retriever.ainvoke(QUERY)) == expected


async def test_k_of_one_call_goes_before_the_retrievers_own(retriever: FlagRerankRetriever) -> None:
    retriever.k = 2
    assert len(retriever.invoke(QUERY, k=4)) == 4
    assert len(await retriever.ainvoke(QUERY, k=1)) == 1
    assert [len(found) for found in retriever.batch([QUERY, "panda"], k=3)] == [3, 3]
    assert len(retriever.invoke(QUERY)) == 2


@pytest.mark.parametrize("wrong", [-1, True, "3", 1.5])
async def test_a_wrong_k_is_refused_before_anything_is_fetched(live: Reranker, wrong: Any) -> None:
    asked: list[str] = []
    base = RunnableLambda(lambda query: asked.append(query) or documents())
    with pytest.raises(ConfigError, match="k must be a whole number"):
        FlagRerankRetriever(base_retriever=base, reranker=live, k=wrong)
    retriever = FlagRerankRetriever(base_retriever=base, reranker=live)
    with pytest.raises(ConfigError, match="k must be a whole number"):
        retriever.k = wrong
    with pytest.raises(ConfigError, match="k must be a whole number"):
        retriever.invoke(QUERY, k=wrong)
    with pytest.raises(ConfigError, match="k must be a whole number"):
        await retriever.ainvoke(QUERY, k=wrong)
    assert asked == []


async def test_the_other_arguments_of_a_call_go_to_the_base_retriever(live: Reranker) -> None:
    class Fetching(ListRetriever):
        def _get_relevant_documents(self, query: str, *, fetch: int = 5, **_: Any) -> list[Document]:
            return self.found[:fetch]

        async def _aget_relevant_documents(self, query: str, *, fetch: int = 5, **_: Any) -> list[Document]:
            return self.found[:fetch]

    retriever = FlagRerankRetriever(base_retriever=Fetching(found=documents()), reranker=live)
    assert len(retriever.invoke(QUERY, fetch=2)) == 2
    assert len(await retriever.ainvoke(QUERY, fetch=3, k=2)) == 2


async def test_any_runnable_may_find_the_candidates(live: Reranker) -> None:
    base = RunnableLambda(lambda query: documents([query, *TEXTS]))
    retriever = FlagRerankRetriever(base_retriever=base, reranker=live, k=2)
    assert QUERY in texts_of(retriever.invoke(QUERY))
    assert await retriever.ainvoke(QUERY) == retriever.invoke(QUERY)


async def test_nothing_found_is_nothing_returned() -> None:
    retriever = FlagRerankRetriever(base_retriever=ListRetriever(found=[]), model="no/such-model", device="cpu")
    assert retriever.invoke(QUERY) == []
    assert await retriever.ainvoke(QUERY) == []


def test_wrong_arguments_are_told_apart(live: Reranker) -> None:
    base = ListRetriever(found=documents())
    with pytest.raises(ConfigError, match="leave it out, or leave out model"):
        FlagRerankRetriever(base_retriever=base, compressor=FlagRerankCompressor(reranker=live), model="other")
    with pytest.raises(ValidationError, match="topk"):
        FlagRerankRetriever(base_retriever=base, topk=3)
    with pytest.raises(ConfigError, match="max_length must be"):
        FlagRerankRetriever(base_retriever=base, max_length=1)
    with pytest.raises(ConfigError, match="base_retriever"):
        FlagRerankRetriever(base_retriever=documents(), reranker=live)
    with pytest.raises(ConfigError, match="compressor"):
        FlagRerankRetriever(base_retriever=base, compressor="quickstart")


def test_an_error_reaches_the_caller_and_the_next_call_works(retriever: FlagRerankRetriever) -> None:
    with pytest.raises(InputError):
        retriever.invoke(3)
    assert len(retriever.invoke(QUERY)) == len(TEXTS)


def test_tags_metadata_and_name_are_a_retrievers_own(live: Reranker) -> None:
    collector = RunCollectorCallbackHandler()
    retriever = FlagRerankRetriever(
        base_retriever=ListRetriever(found=documents()), reranker=live, tags=["t"], metadata={"team": "a"}, name="mine"
    )
    retriever.invoke(QUERY, {"callbacks": [collector]})
    root = collector.traced_runs[0]
    assert (root.name, root.tags, root.extra["metadata"]["team"]) == ("mine", ["t"], "a")
    assert [run.name for run in root.child_runs] == ["ListRetriever", "FlagRerankCompressor"]
    assert root.child_runs[1].parent_run_id == root.id


def test_k_can_be_configured_at_run_time(retriever: FlagRerankRetriever) -> None:
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
    assert len(configurable.invoke(QUERY, {"configurable": {"k": 2}})) == 2
    assert len(configurable.invoke(QUERY)) == len(TEXTS)


def test_copies_carry_the_settings(retriever: FlagRerankRetriever) -> None:
    retriever.k = 2
    found = retriever.invoke(QUERY)
    for copied in (pickle.loads(pickle.dumps(retriever)), copy.deepcopy(retriever)):
        assert copied.invoke(QUERY) == found
        copied.compressor.reranker.close()
