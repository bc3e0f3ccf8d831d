"""Whole LangChain pipelines on the real quickstart model: sync, async, in batches and all at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_parts import POPULATION, QUERY, TEXTS, ListRetriever, OverlapRetriever, Recorder, documents
from tiny_models import TinyModels

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.langchain import FlagRerankCompressor

KEY = "relevance_score"
QUERIES = [QUERY, "Where do giant pandas live?", "Which museum is in New York?", "What is Berlin known for?"]


@pytest.fixture(scope="module")
def live() -> Iterator[Reranker]:
    with Reranker("quickstart", device="cpu") as reranker:
        yield reranker


@pytest.fixture
def compressor(live: Reranker) -> FlagRerankCompressor:
    return FlagRerankCompressor(reranker=live, top_n=3)


class Shouting(BaseDocumentTransformer):
    """Replaces texts with their upper case."""

    def transform_documents(self, documents: Any, **_: Any) -> list[Document]:
        return [Document(document.page_content.upper(), metadata=document.metadata) for document in documents]


def scores_of(found: list[Document]) -> dict[str, float]:
    return {document.page_content: document.metadata[KEY] for document in found}


async def test_a_compression_retriever_puts_the_answer_first(compressor: FlagRerankCompressor) -> None:
    decoy = "How many people live in cities is a matter of definition."
    base = OverlapRetriever(corpus=documents([decoy, *TEXTS]))
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=base)
    assert base.invoke(QUERY)[0].page_content == decoy
    found = retriever.invoke(QUERY)
    assert found[0].page_content == POPULATION
    assert len(found) == 3
    assert await retriever.ainvoke(QUERY) == found
    batched = retriever.batch(QUERIES)
    assert await retriever.abatch(QUERIES) == batched == [retriever.invoke(query) for query in QUERIES]


async def test_a_compressor_pipeline_passes_documents_and_callbacks_on(compressor: FlagRerankCompressor) -> None:
    recorder = Recorder()
    pipeline = DocumentCompressorPipeline(transformers=[compressor, Shouting(), compressor])
    retriever = ContextualCompressionRetriever(
        base_compressor=pipeline, base_retriever=ListRetriever(found=documents())
    )
    found = retriever.invoke(QUERY, {"callbacks": [recorder]})
    assert found[0].page_content == POPULATION.upper()
    assert await retriever.ainvoke(QUERY, {"callbacks": [recorder]}) == found
    assert len(recorder.notes.of("end", "FlagRerankCompressor")) == 4
    assert recorder.notes.unbalanced == []


async def test_it_is_a_step_of_an_expression(compressor: FlagRerankCompressor) -> None:
    chain = (
        {"query": RunnablePassthrough(), "documents": ListRetriever(found=documents())}
        | compressor.as_runnable()
        | itemgetter(0)
    )
    assert chain.invoke(QUERY).page_content == POPULATION
    expected = [chain.invoke(query) for query in QUERIES]
    assert chain.batch(QUERIES) == expected
    assert await chain.abatch(QUERIES) == expected
    assert list(chain.stream(QUERY)) == expected[:1]
    assert [part async for part in chain.astream(QUERY)] == expected[:1]


async def test_the_step_is_seen_under_its_chain(compressor: FlagRerankCompressor) -> None:
    step = compressor.as_runnable()
    request = {"query": QUERY, "documents": documents()}
    for is_async in (False, True):
        collector = RunCollectorCallbackHandler()
        config: Any = {"callbacks": [collector], "run_name": "step"}
        found = await step.ainvoke(request, config) if is_async else step.invoke(request, config)
        root = collector.traced_runs[0]
        assert (root.name, [run.name for run in root.child_runs]) == ("step", ["FlagRerankCompressor"])
        assert root.child_runs[0].outputs == {"documents": found}
    events = [event["event"] async for event in step.astream_events(request, version="v2")]
    assert events.count("on_retriever_start") == events.count("on_retriever_end") == 1


def test_the_step_says_what_it_takes(compressor: FlagRerankCompressor) -> None:
    step = compressor.as_runnable()
    assert "query" in str(step.get_input_schema().model_json_schema())
    for wrong in (QUERY, {"query": QUERY}, [documents()]):
        with pytest.raises(InputError, match="re-ranking step takes"):
            step.invoke(wrong)


async def test_parallel_branches_share_the_model(compressor: FlagRerankCompressor, live: Reranker) -> None:
    other = FlagRerankCompressor(reranker=live, score_key="other", score_threshold=0.0)
    both = RunnableParallel(best=compressor.as_runnable(), good=other.as_runnable())
    request = {"query": QUERY, "documents": documents()}
    for answer in (both.invoke(request), await both.ainvoke(request)):
        assert answer["best"] == compressor.compress_documents(documents(), QUERY)
        assert answer["good"] == other.compress_documents(documents(), QUERY)
        assert all(document.metadata["other"] >= 0 for document in answer["good"])


def workload() -> list[tuple[str, list[Document]]]:
    """32 requests, no two alike."""
    return [
        (f"{QUERIES[i % 4]} {i}", documents([f"{TEXTS[i % 5]} {i}", POPULATION, f"passage {i} " * (1 + i % 7)]))
        for i in range(32)
    ]


@pytest.fixture(scope="module", params=["quickstart", "bert"])
def busy(request: pytest.FixtureRequest, tiny: TinyModels) -> Iterator[FlagRerankCompressor]:
    model = request.param if request.param == "quickstart" else tiny(request.param)
    with Reranker(model, device="cpu") as reranker:
        yield FlagRerankCompressor(reranker=reranker)


def wrong_scores(answers: list[list[Document]], expected: list[list[Document]]) -> int:
    """Count scores that are not those of the same document scored alone."""
    count = 0
    for answer, alone in zip(answers, expected, strict=True):
        assert scores_of(answer).keys() == scores_of(alone).keys()
        count += sum(abs(score - scores_of(alone)[text]) > 1e-4 for text, score in scores_of(answer).items())
    return count


async def test_32_concurrent_calls_get_their_own_scores(busy: FlagRerankCompressor) -> None:
    recorder = Recorder()
    expected = [busy.compress_documents(found, query) for query, found in workload()]
    with ThreadPoolExecutor(32) as pool:
        threaded = list(pool.map(lambda job: busy.compress_documents(job[1], job[0], [recorder]), workload()))
    tasks = [busy.acompress_documents(found, query, [recorder]) for query, found in workload()]
    gathered = await asyncio.gather(*tasks)
    stepped = await busy.as_runnable().abatch([{"query": query, "documents": found} for query, found in workload()])
    for answers in (threaded, gathered, stepped, busy.batch_compress(workload())):
        assert wrong_scores(answers, expected) == 0
    assert len(recorder.notes.of("end")) == 64
    assert recorder.notes.unbalanced == []


async def test_threads_and_tasks_at_once_get_their_own_scores(busy: FlagRerankCompressor) -> None:
    expected = [busy.compress_documents(found, query) for query, found in workload()]

    async def task(i: int) -> list[Document]:
        query, found = workload()[i]
        if i % 2:
            return await busy.acompress_documents(found, query)
        return await asyncio.to_thread(busy.compress_documents, found, query)

    assert wrong_scores(await asyncio.gather(*[task(i) for i in range(32)]), expected) == 0


def test_a_call_that_fails_among_others_spoils_none(busy: FlagRerankCompressor) -> None:
    expected = [busy.compress_documents(found, query) for query, found in workload()]

    def job(i: int) -> list[Document] | None:
        query, found = workload()[i]
        try:
            return busy.compress_documents(found, query if i % 4 else i)
        except InputError:
            return None

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(job, range(32)))
    assert [i for i, answer in enumerate(answers) if answer is None] == list(range(0, 32, 4))
    kept = [(answer, alone) for answer, alone in zip(answers, expected, strict=True) if answer is not None]
    assert wrong_scores([answer for answer, _ in kept], [alone for _, alone in kept]) == 0


def test_importing_and_making_a_wrapper_stays_light() -> None:
    code = """
import sys
from flag_rerank_integrations.langchain import FlagCrossEncoder, FlagRerankCompressor
FlagRerankCompressor(model="quickstart", top_n=3).compress_documents([], "query")
FlagCrossEncoder(device="cuda:7").score([])
heavy = {"torch", "transformers", "onnxruntime", "numpy", "llama_index", "langchain_classic"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_langchain_is_told_with_the_extra_to_install() -> None:
    code = """
import sys
sys.modules["langchain_core"] = None
import flag_rerank_integrations.langchain
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: LangChain is not installed" in done.stderr
    assert "flag-rerank-integrations[langchain]" in done.stderr
